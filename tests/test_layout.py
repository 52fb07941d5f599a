"""How the tests themselves lie, and how much a class holds."""

import ast
from pathlib import Path

TESTS = Path(__file__).parent
SERVE_APP = TESTS.with_name("serve_app")
MOST_FIELDS = 10


def imported(path: Path) -> list[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return names + [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]


def test_no_test_module_is_a_library_for_others() -> None:
    modules = {path: imported(path) for path in TESTS.rglob("*.py")}
    libraries = {name for names in modules.values() for name in names if name.startswith("tests.")}
    assert [name for name in sorted(libraries) if name.split(".")[-1].startswith(("test_", "conftest"))] == []


def fields_of(kind: ast.ClassDef) -> set[str]:
    """What a constructor stores in the object."""
    constructors = [node for node in kind.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    stored = [node for made in constructors for node in ast.walk(made) if isinstance(node, ast.Attribute)]
    return {node.attr for node in stored if isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"}


def test_no_class_holds_more_than_its_reader_can() -> None:
    trees = [ast.parse(path.read_text()) for path in SERVE_APP.rglob("*.py")]
    kinds = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    counts = {kind.name: len(fields_of(kind)) for kind in kinds}
    assert counts["AvatarService"] > 5
    assert {name: count for name, count in counts.items() if count > MOST_FIELDS} == {}
