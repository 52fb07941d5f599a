"""Reads the content credentials (C2PA) of a picture in a sandboxed child process.

The c2pa library is native code that parses hostile bytes. It is configured to fetch nothing, and the sandbox cannot
open sockets.
"""

import io
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve_app.photos.boxes import has_many_boxes
from serve_app.photos.file_kind import kind_of
from serve_app.sandbox.process import ANSWER, AnswerParts, Receive, SandboxedProcess, SandboxSettings, serve_pictures

MAX_ANSWER_BYTES = 1 << 16
MAX_ENTRIES = 32  # of a C2PA assertion
MAX_TEXT = 200  # characters; the texts are written by strangers
VERIFY = {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": True}
TRUSTED, UNTRUSTED = "signingCredential.trusted", "signingCredential.untrusted"
SIGNED = "claimSignature.validated"
STATEMENT = "org.face-avatar.generation"
DAMAGED = (LookupError, TypeError, AttributeError, ValueError, RecursionError)  # a malformed report


class Credentials(BaseModel):
    """What a picture's content credentials say; strangers can write anything into theirs."""

    model_config = ConfigDict(frozen=True)

    generator: str = Field("", max_length=2 * MAX_TEXT, description="The program that made it, and its version.")
    made_at: str = Field("", max_length=MAX_TEXT, description="When, by the clock of that program.")
    source_type: str = Field("", max_length=MAX_TEXT, description="How it was made, in IPTC's words.")
    issuer: str = Field("", max_length=MAX_TEXT, description="The organisation in the signer's certificate.")
    statement: dict[str, str | int | float] = Field(
        {},
        max_length=MAX_ENTRIES,
        description="Of a picture of ours: app, model, seed, steps, guidance, size as drawn.",
    )


class Reading(BaseModel):
    """What was found. `signer` is the serial number of the certificate, if one of our trust anchors issued it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Literal["none", "damaged", "read"]
    signed: bool = False
    intact: bool = False
    signer: str | None = Field(None, max_length=MAX_TEXT)
    credentials: Credentials | None = None


class ReaderProcess(SandboxedProcess[Reading]):
    """A child that reads the credentials of one picture at a time."""

    def __init__(self, anchors: str, settings: SandboxSettings) -> None:
        """`anchors`: the trust anchors of this service, in PEM. Raises: OSError."""
        super().__init__(__name__, [anchors, settings.model_dump_json()], settings)

    def _read(self, first: int, second: int, receive: Receive) -> Reading:
        if first != 1 or second > MAX_ANSWER_BYTES:
            raise ValueError(f"an answer of {first}, {second}")
        return Reading.model_validate_json(receive(second))


def credential_reader(anchors: str) -> Callable[[bytes], Reading]:
    """A function that reads the credentials of a picture; damaged ones raise nothing. `anchors` are PEM."""
    import c2pa  # 23 MB of native code, needed in the child only

    context = c2pa.Context.from_dict({"version": 1, "verify": VERIFY, "trust": {"user_anchors": anchors}})

    def read(data: bytes) -> Reading:
        if (kind := kind_of(data)) in ("avif", "heic") and has_many_boxes(data):
            return Reading(state="damaged")  # c2pa would take minutes, and hours for a larger one
        try:
            with c2pa.Reader(f"image/{kind}", io.BytesIO(data), context=context) as reader:
                return reading_of(json.loads(reader.json()))
        except c2pa.C2paError.ManifestNotFound:
            return Reading(state="none")
        except (c2pa.C2paError, *DAMAGED):
            return Reading(state="damaged")

    return read


def reading_of(report: Mapping[str, Any]) -> Reading:
    """The part of c2pa's report about the picture's current state. Raises: one of DAMAGED."""
    active = report["manifests"][report["active_manifest"]]
    results = report["validation_results"]["activeManifest"]
    passed = {entry["code"] for entry in results["success"]}
    failed = {entry["code"] for entry in results["failure"]}
    return Reading(
        state="read",
        signed=SIGNED in passed,
        intact=not failed - {UNTRUSTED},
        signer=active["signature_info"]["cert_serial_number"] if TRUSTED in passed else None,
        credentials=credentials_of(active),
    )


def credentials_of(manifest: Mapping[str, Any]) -> Credentials:
    """The credentials in a manifest of c2pa's report, texts cut to MAX_TEXT. Raises: one of DAMAGED."""
    assertions = {entry["label"]: entry["data"] for entry in manifest["assertions"]}
    actions = assertions.get("c2pa.actions.v2", {}).get("actions", ())
    created: Mapping[str, Any] = next((action for action in actions if action["action"] == "c2pa.created"), {})
    generator: Mapping[str, Any] = next(iter(manifest.get("claim_generator_info", ())), {})
    name_and_version = [_text(generator, "name"), _text(generator, "version")]
    return Credentials(
        generator=" ".join(part for part in name_and_version if part),
        made_at=_text(created, "when"),
        source_type=_text(created, "digitalSourceType"),
        issuer=_text(manifest["signature_info"], "issuer"),
        statement=assertions.get(STATEMENT, {}),
    )


def _text(entries: Mapping[str, Any], name: str) -> str:
    return str(entries.get(name) or "")[:MAX_TEXT]


def main(anchors: str, settings: SandboxSettings) -> None:
    """The program of the child: loads c2pa, then reads the credentials of pictures on stdin until that ends."""
    read = credential_reader(anchors)

    def answer(data: bytes, _large: bool) -> AnswerParts:
        found = read(data).model_dump_json().encode()
        return ANSWER.pack(1, len(found)), found

    read(b"\xff\xd8\xff\xd9")  # loads everything: the sandbox opens no files
    serve_pictures(answer, sys.stdin.buffer, sys.stdout.buffer, settings)


if __name__ == "__main__":
    main(sys.argv[1], SandboxSettings.model_validate_json(sys.argv[2]))
