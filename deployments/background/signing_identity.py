"""The signing identity. Imports little: the graph is built in processes that never sign."""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SigningIdentity:
    """A certificate chain, the signer's own first, and its P-256 key, as PEM.

    `timestamp_url`: a timestamp authority (RFC 3161); every signature then waits for it.
    """

    chain: bytes
    key: bytes = field(repr=False)
    timestamp_url: str | None = None


class IdentitySource(Protocol):
    """Provides a replica with its signing identity. Must be picklable, also after use (as `ProgressSink`)."""

    def identity(self) -> SigningIdentity:
        """Raises: ValueError where it cannot sign; ConnectionError, OSError where it is unavailable."""
        ...
