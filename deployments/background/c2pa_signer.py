"""Content credentials (C2PA): a signed statement in the file that a model generated the image, and how.

It holds nothing about the client: no prompt, name, URL or task. Signing makes no network request, unless a timestamp
authority is configured.
"""

import io
import json
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import c2pa
from PIL import Image

from deployments.background.signing_identity import SigningIdentity
from deployments.types import C2paAssertion

GENERATOR = {"name": "face-avatar", "version": version("face-avatar")}
STATEMENT = "org.face-avatar.generation"  # the label of the parameters
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"  # the IPTC term
SETTINGS = {
    "version": 1,
    # A thumbnail in the manifest takes thirty times as long as everything else.
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"verify_after_sign": False, "remote_manifest_fetch": False, "ocsp_fetch": False},
}


class ContentSigner:
    """Signs files in memory. Thread-safe."""

    def __init__(self, identity: SigningIdentity) -> None:
        """Raises: ValueError where chain and key do not match or cannot sign."""
        timestamp_url = None if identity.timestamp_url is None else identity.timestamp_url.encode()
        try:
            info = c2pa.C2paSignerInfo(b"es256", identity.chain, identity.key, timestamp_url)
            self._context = c2pa.Context(c2pa.Settings.from_dict(SETTINGS), c2pa.Signer.from_info(info))
            if timestamp_url is None:  # an authority may be briefly unavailable
                self._try()
        except c2pa.C2paError as error:
            raise ValueError(f"these certificates cannot sign: {error}") from error

    def sign(self, data: bytes, media_type: str, assertion: C2paAssertion) -> bytes:
        """The file with its credentials. `media_type` is image/png, image/webp or image/jpeg."""
        signed = io.BytesIO()
        with c2pa.Builder(json.dumps(manifest(media_type, assertion)), self._context) as builder:
            builder.sign(media_type, io.BytesIO(data), signed)
        return signed.getvalue()

    def _try(self) -> None:
        """Sign a blank image, so that errors show before the first request."""
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "PNG")
        self.sign(file.getvalue(), "image/png", C2paAssertion("", "", 0, 1, 1.0, 8, 8))


def manifest(media_type: str, assertion: C2paAssertion) -> dict[str, Any]:
    """What is signed: a C2PA manifest definition."""
    created = {
        "action": "c2pa.created",
        "digitalSourceType": SOURCE_TYPE,
        "softwareAgent": GENERATOR,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return {
        "claim_generator_info": [GENERATOR],
        "format": media_type,
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": STATEMENT, "data": assertion.statement()},
        ],
    }
