"""Who signs: light on purpose, as the graph is built where nothing signs."""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SigningIdentity:
    """A chain of certificates, the signer's own first, and its key on the curve P-256: PEM.

    `timestamp_url` is that of a timestamp authority (RFC 3161), for which every signature then waits.
    """

    chain: bytes
    key: bytes = field(repr=False)
    timestamp_url: str | None = None


class IdentitySource(Protocol):
    """Where a replica gets what it signs with. It must be picklable."""

    def identity(self) -> SigningIdentity:
        """Raises: ValueError where it is none to sign with; ConnectionError, OSError where it is not to be had."""
        ...
