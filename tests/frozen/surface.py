"""The surface of the application as text: its HTTP description, its commands, its metrics, its settings.

None of it names a module of this project, so that files may move.
"""

import ast
import contextlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import typer
import typer.rich_utils
from starlette.testclient import TestClient

import serve_app
from serve_app.api.app import build_http
from serve_app.cli.root import cli
from serve_app.settings import Settings

ROOT = Path(serve_app.__file__).parent.parent
FROZEN = Path(__file__).parent
PACKAGES = ("serve_app", "deployments")
COLUMNS = 100
KINDS = ("Counter", "Gauge", "Histogram")
RAY_METRICS = ("ray.serve.metrics", "ray.util.metrics")
LABELS_AT = {"Counter": 2, "Gauge": 2, "Histogram": 3}  # the position of `tag_keys`
FOR_PEOPLE = ("title", "description", "examples")


def openapi() -> str:
    """The document at /openapi.json, without the version of the package."""
    document = TestClient(build_http(MagicMock(), MagicMock(), Settings(), MagicMock())).get("/openapi.json").json()
    del document["info"]["version"]
    return _json(document)


def help_pages() -> str:
    """What `--help` says of every command, 100 columns wide."""
    root: Any = typer.main.get_command(cli)
    plain = {"MAX_WIDTH": COLUMNS, "FORCE_TERMINAL": False, "COLOR_SYSTEM": None}
    pages = []
    with patch.multiple(typer.rich_utils, **plain):
        for path, command in _commands(root):
            for parameter in command.params:
                if isinstance(parameter.default, Path) and parameter.default.is_relative_to(ROOT):
                    parameter.default = parameter.default.relative_to(ROOT)  # wherever the package is installed
            with contextlib.redirect_stdout(io.StringIO()) as page:
                root.main([*path, "--help"], prog_name="face-avatar", standalone_mode=False)
            lines = [line.rstrip() for line in page.getvalue().strip().splitlines()]
            pages.append("\n".join([f"$ {' '.join(['face-avatar', *path, '--help'])}", *lines]))
    return "\n\n".join(pages) + "\n"


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, below in sorted(getattr(command, "commands", {}).items()):
        yield from _commands(below, (*path, name))


def metrics() -> str:
    """Type and labels of every metric by its name, as the calls in the sources say."""
    found: dict[str, dict[str, Any]] = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            for name, kind, labels in metrics_of(file.read_text(), file.relative_to(ROOT)):
                assert found.setdefault(name, {"type": kind, "labels": labels}) == {"type": kind, "labels": labels}, (
                    name
                )
    return _json(found)


def metrics_of(source: str, file: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Name, type and labels of each metric that a module makes; they must be written out in that module.

    Raises: ValueError where they are not.
    """
    if "metrics" not in source:
        return
    tree = ast.parse(source)
    kinds = dict(_makers(tree))
    for scope in [*(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)), tree]:
        named = {**_literals(tree.body), **_literals(scope.body)}
        for call in _calls(scope):
            kind = kinds.get(ast.unparse(call.func))
            if kind is None:
                continue
            try:
                name, labels = _name_and_labels(call, kind, named)
            except (ValueError, LookupError):
                raise ValueError(f"{file}:{call.lineno}: write the metric's name and labels out there") from None
            yield name, kind, labels


def _makers(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """What a module calls Ray's classes of metrics, and what they are: `metrics.Counter`, `Counter`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for alias in node.names:
            whole = f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
            here = alias.asname or alias.name
            module, _, name = whole.rpartition(".")
            if whole in RAY_METRICS:
                yield from ((f"{here}.{kind}", kind) for kind in KINDS)
            elif module in RAY_METRICS and name in KINDS:
                yield here, name


def _calls(scope: ast.AST) -> Iterator[ast.Call]:
    """Those of a scope, without those of functions inside it."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.Call):
            yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _calls(node)


def _literals(body: Iterable[ast.stmt]) -> dict[str, ast.expr]:
    """What is assigned to a name once, at the level of this body."""
    return {
        node.targets[0].id: node.value
        for node in body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def _name_and_labels(call: ast.Call, kind: str, named: dict[str, ast.expr]) -> tuple[str, list[str]]:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    at = LABELS_AT[kind]
    name = call.args[0] if call.args else given["name"]
    labels = call.args[at] if len(call.args) > at else given.get("tag_keys", ast.Tuple([]))
    return ast.literal_eval(_resolved(name, named)), list(ast.literal_eval(_resolved(labels, named)))


def _resolved(node: ast.expr, named: dict[str, ast.expr]) -> ast.expr:
    return named[node.id] if isinstance(node, ast.Name) else node


def settings() -> str:
    """Every setting by its path: type, bounds and default, as the JSON schema has them, in the order of their names."""
    schema = Settings.model_json_schema()
    config = Settings.model_config
    flat = {f"${config.get('env_prefix')}": f"nested by {config.get('env_nested_delimiter')}"}
    flat |= dict(_flat(schema, schema["$defs"], ""))
    return "".join(f"{path}: {text}\n" for path, text in sorted(flat.items()))


def _flat(schema: dict[str, Any], definitions: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    schema = _inlined(schema, definitions)
    below: list[dict[str, Any]] = []
    yield path or "(all)", json.dumps(_outer(schema, definitions, below), sort_keys=True)
    for name, of_name in schema.get("properties", {}).items():
        yield from _flat(of_name, definitions, f"{path}.{name}".lstrip("."))
    for each in below:
        kind = each["properties"].get("kind", {}).get("const")
        yield from _flat(each, definitions, f"{path}.*" if kind is None else f"{path}[kind={kind}]")


def _outer(schema: dict[str, Any], definitions: dict[str, Any], below: list[dict[str, Any]]) -> dict[str, Any]:
    """A schema without its properties; other objects in it are added to `below`."""

    def shown(value: Any) -> Any:
        if isinstance(value, list):
            return [shown(each) for each in value]
        if not isinstance(value, dict):
            return value
        value = _inlined(value, definitions)
        if "properties" in value:
            below.append(value)
            return {"type": "object"}
        return _outer(value, definitions, below)

    holders = ("anyOf", "oneOf", "additionalProperties")
    kept = {key: value for key, value in schema.items() if key not in ("properties", "discriminator")}
    return {key: shown(value) if key in holders else value for key, value in kept.items()}


def _inlined(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A schema without what is for people, whose names and words may change, and with what it refers to in it."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]] | {k: v for k, v in schema.items() if k != "$ref"}
    return {key: value for key, value in schema.items() if key not in (*FOR_PEOPLE, "$defs")}


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


SURFACES: dict[str, Callable[[], str]] = {
    "openapi.json": openapi,
    "help.txt": help_pages,
    "metrics.json": metrics,
    "settings.txt": settings,
}
