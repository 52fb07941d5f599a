"""How the tests themselves lie."""

import ast
from pathlib import Path

TESTS = Path(__file__).parent


def imported(path: Path) -> list[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return names + [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]


def test_no_test_module_is_a_library_for_others() -> None:
    modules = {path: imported(path) for path in TESTS.rglob("*.py")}
    libraries = {name for names in modules.values() for name in names if name.startswith("tests.")}
    assert [name for name in sorted(libraries) if name.split(".")[-1].startswith(("test_", "conftest"))] == []
