"""Verifies whether this service made a picture and whether it is unchanged."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, Field

from serve_app.photos.source import PhotoSource
from serve_app.provenance.reader import Credentials, ReaderProcess, Reading
from serve_app.provenance.signing import OurCertificates, Trust
from serve_app.sandbox.process import SandboxPool, SandboxSettings
from serve_app.sandbox.turns import ProcessTurns, Use
from serve_app.schemas.faces import PictureRequest
from serve_app.schemas.responses import Envelope, TimeRequired

Verdict = Literal["genuine", "altered", "foreign", "unreadable", "unsigned"]
WORDS: dict[Verdict, str] = {
    "genuine": "This service made the picture, and nothing in it was changed since.",
    "altered": "The credentials are of this service; the picture is not the one that they were signed for.",
    "foreign": "The picture has content credentials, but others than this service signed them.",
    "unreadable": "The picture has content credentials that are damaged, or whose signature is not valid.",
    "unsigned": "The picture has no content credentials: they may have been removed, or it never had any.",
}


class VerifyRequest(PictureRequest):
    """The body of `POST /api/v1/verify`."""


class VerifyOutput(BaseModel):
    """`output` of a verification."""

    verdict: Verdict
    ours: bool = Field(description="Signed with a certificate of this service.")
    intact: bool = Field(description="Signed, and not changed since.")
    trust: Trust | None = Field(description="The kind of certificate, where it is ours.")
    message: str = Field(description="The verdict in words.")
    credentials: Credentials | None = Field(description="To be believed only of a genuine picture.")

    @classmethod
    def of(cls, reading: Reading, signers: Mapping[str, Trust]) -> "VerifyOutput":
        """`signers`: the kind of each of our certificates, by serial number."""
        trust = signers.get(reading.signer) if reading.signer and reading.signed else None
        verdict = _verdict(reading, ours=trust is not None)
        return cls(
            verdict=verdict,
            ours=trust is not None,
            intact=reading.signed and reading.intact,
            trust=trust,
            message=WORDS[verdict],
            credentials=reading.credentials,
        )

    def envelope(self, photo: PhotoSource, runtime_s: float) -> Envelope:
        """The answer of `/verify`, with the description of the picture as `input`."""
        return Envelope(
            time_required=TimeRequired(runtime=round(runtime_s, 4)),
            input={"file_url": photo.description},
            output=self.model_dump(),
        )


class CredentialReader(SandboxPool[Reading]):
    """Reads content credentials in one child process, started by the first picture."""

    def __init__(self, ours: OurCertificates, settings: SandboxSettings, use: Use | None = None) -> None:
        turns = ProcessTurns(1, settings.owner_seconds, use)
        super().__init__(lambda: ReaderProcess(ours.anchors, settings), "read", turns)
        self._signers = ours.signers

    async def verify(self, data: bytes, owner: str = "") -> VerifyOutput:
        """Raises: ImageUrlError, also for a picture that killed or stalled the child; what `ask` raises."""
        return VerifyOutput.of(await self.ask(data, owner), self._signers)


def _verdict(reading: Reading, *, ours: bool) -> Verdict:
    if reading.state == "none":
        return "unsigned"
    if not reading.signed:
        return "unreadable"
    if not ours:
        return "foreign"
    return "genuine" if reading.intact else "altered"
