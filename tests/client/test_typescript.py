"""The types of client.js: those of the contract, field by field, and those that the module has by the compiler."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from serve_app.api.playground import CLIENT, PAGE
from serve_app.batches.requests import BatchRequest
from serve_app.catalog.apps import App
from serve_app.catalog.catalog import Catalog
from serve_app.generation.settings import GenerationSettings
from serve_app.provenance.verify import VerifyOutput
from serve_app.schemas.errors import ANSWERS, INTERNAL_ERROR
from serve_app.schemas.faces import FacesOutput, ShownFace
from serve_app.schemas.receipts import Receipt
from serve_app.schemas.requests import AvatarRequest
from serve_app.schemas.responses import (
    Attempt,
    AvatarOutput,
    BatchCounts,
    BatchLine,
    BatchView,
    Envelope,
    Progress,
    TimeRequired,
    WebhookDelivery,
)
from serve_app.schemas.warnings import PhotoWarning

DECLARED = (CLIENT / "client.d.ts").read_text()
INTERFACE = re.compile(r"^export interface (\w+)(?:<\w+>)? \{\n(.*?)^\}", re.M | re.S)
FIELD = re.compile(r"^  (\w+)(\?)?: (.*);$", re.M)
PHOTOS = {"file_url", "file_urls", "celery"}  # an argument of their own; a method of its own
ANSWERED: dict[str, type[BaseModel]] = {
    "Attempt": Attempt,
    "AvatarOutput": AvatarOutput,
    "Batch": BatchView,
    "BatchCounts": BatchCounts,
    "BatchResult": BatchLine,
    "Face": ShownFace,
    "FoundFaces": FacesOutput,
    "PhotoWarning": PhotoWarning,
    "Progress": Progress,
    "Receipt": Receipt,
    "TimeRequired": TimeRequired,
    "Verdict": VerifyOutput,
    "WebhookDelivery": WebhookDelivery,
}
NAMES = {"ShownFace": "Face", "Envelope": "Task"}  # of a model whose interface has another one
WORDS = {int: "number", float: "number", str: "string", bool: "boolean", type(None): "null"}
PACKAGES = ("typescript@7.0.2", "@types/node@20")
PROGRAMS = re.compile(r"^```ts\n(.*?)^```$", re.M | re.S)
NO_NPM = ("ENOTFOUND", "ECONNREFUSED", "ETIMEDOUT", "EAI_AGAIN")
OPTIONS = {
    "strict": True, "noEmit": True, "allowJs": True, "checkJs": True, "target": "es2022", "module": "nodenext",
    "lib": ["es2022", "dom", "dom.iterable", "dom.asynciterable"], "types": ["node"],
}  # fmt: skip
SAME = """
import * as implementation from "./implementation.js";
import type * as declared from "./client.js";
export const whatIsThere: typeof declared = implementation;
export const names: (keyof typeof declared)[] = [] as (keyof typeof implementation)[];
"""


def interface(name: str) -> dict[str, str]:
    """The fields of an interface and their types; optional ones end in a question mark."""
    (body,) = [text for found, text in INTERFACE.findall(DECLARED) if found == name]
    return {field + mark: kind for field, mark, kind in FIELD.findall(body)}


def in_typescript(kind: Any) -> str:
    """A type of Python as the interfaces write it."""
    origin, args = get_origin(kind), get_args(kind)
    if kind in WORDS:
        return WORDS[kind]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return NAMES.get(kind.__name__, kind.__name__)
    if origin is Literal:
        return " | ".join(map(json.dumps, args))
    if origin in (Union, UnionType):
        return " | ".join(map(in_typescript, args))
    if origin is tuple:
        return f"[{', '.join(map(in_typescript, args))}]"
    if origin is list:
        inner = in_typescript(args[0])
        return f"({inner})[]" if " | " in inner else f"{inner}[]"
    if origin is dict:
        return f"Record<string, {'any' if args[1] is Any else in_typescript(args[1])}>"
    return in_typescript(args[0])  # Annotated


def test_a_request_has_the_fields_of_the_contract_and_their_types() -> None:
    fields = {name: field for name, field in AvatarRequest.model_fields.items() if name not in PHOTOS}
    expected = {f"{name}?": in_typescript(field.annotation).removesuffix(" | null") for name, field in fields.items()}
    assert interface("AvatarParameters") == {name: f"{kind} | null" for name, kind in expected.items()}


def test_a_batch_is_opened_with_the_fields_of_the_contract() -> None:
    assert interface("BatchRequest").keys() == {f"{name}?" for name in BatchRequest.model_fields}


@pytest.mark.parametrize("name", sorted(ANSWERED))
def test_an_answer_has_the_fields_of_the_contract_and_their_types(name: str) -> None:
    expected = {field: in_typescript(each.annotation) for field, each in ANSWERED[name].model_fields.items()}
    looser = {"credentials": "Record<string, any> | null", "trust": "string | null"} if name == "Verdict" else {}
    assert interface(name) == expected | looser


def test_an_envelope_has_its_eight_keys_and_an_app_what_the_list_shows() -> None:
    assert interface("Envelope").keys() == Envelope.model_fields.keys()
    shown = App.__pydantic_serializer__.to_python(Catalog.read(["embedded"])["face-avatar"]).keys()
    assert interface("AppInfo").keys() == {"app_id", *shown, "qualities", "licences", "available", "unavailable_reason"}
    assert "require_consent" in GenerationSettings.model_fields  # shown as `consent_required`
    assert interface("AppList").keys() == {"apps", "consent_required"}


def test_every_error_of_the_contract_has_its_name() -> None:
    listed = re.search(r"export type ServiceErrorName =\n(.*?);", DECLARED, re.S)
    assert listed is not None
    assert set(re.findall(r'"([^"]+)"', listed[1])) == {answer.name for answer in (*ANSWERS.values(), INTERNAL_ERROR)}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="no npm is installed (Debian: apt-get install npm)")
def test_the_module_and_programs_with_it_have_the_types_that_are_declared(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"type": "module"}')
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES]
    installed = subprocess.run(install, cwd=tmp_path, capture_output=True, text=True, check=False)
    if installed.returncode and any(problem in installed.stderr for problem in NO_NPM):
        pytest.skip("npm's registry cannot be reached")
    assert installed.returncode == 0, installed.stderr
    (tmp_path / "implementation.js").write_bytes((CLIENT / "client.js").read_bytes())
    (tmp_path / "client.d.ts").write_text(DECLARED)
    (tmp_path / "same.ts").write_text(SAME)
    programs = PROGRAMS.findall((PAGE.parent / "docs" / "typescript.md").read_text())
    (tmp_path / "documented.ts").write_text("".join(programs))
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": OPTIONS, "include": ["*.js", "*.ts"]}))
    assert compiled(tmp_path) == ""
    wrong = 'import { FaceAvatarClient } from "./client.js";\nnew FaceAvatarClient({}).avatars.create("", { bach: 2 });'
    (tmp_path / "wrong.ts").write_text(wrong)
    assert "'bach' does not exist" in compiled(tmp_path)


def compiled(folder: Path) -> str:
    """What the compiler finds wrong."""
    tsc = folder / "node_modules" / ".bin" / "tsc"
    return subprocess.run([tsc, "-p", folder], cwd=folder, capture_output=True, text=True, check=False).stdout
