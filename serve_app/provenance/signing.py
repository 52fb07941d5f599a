"""Which certificate signs the content credentials of results, and which certificates count as ours.

Either the operator's own, from files on every node, or one for development, generated at the first start and shared by
all nodes: in the data directory, or in a shared Redis.
"""

from pathlib import Path
from typing import Literal, Self

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.background.signing_identity import SigningIdentity
from deployments.config import Config
from serve_app.backends.redis import BrokerSettings, ensure_shared_secret
from serve_app.backends.secrets import ensure_secret
from serve_app.provenance.certificates import development_bundle, read_chain, read_key, to_pem

BUNDLE_FILE = "development-certificate.pem"  # with its key

Trust = Literal["own", "development"]


class ProvenanceSettings(Config):
    """PEM files. `chain` begins with the signer's certificate and ends with the trust anchor."""

    chain: Path | None = None
    key: Path | None = None  # on the curve P-256
    former_chains: tuple[Path, ...] = ()  # of earlier signers: their signatures still count as ours
    timestamp_url: str | None = Field(
        None, pattern=r"^https?://"
    )  # every image then waits for this timestamp authority

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.chain is None) != (self.key is None):
            raise ValueError("a chain of certificates needs its key, and a key its chain")
        return self


class OurCertificates(BaseModel):
    """What a verifier needs to recognise our signatures: trust anchors, and serial numbers of signers."""

    model_config = ConfigDict(frozen=True)

    anchors: str  # PEM
    signers: dict[str, Trust]  # by decimal serial number


class Provenance:
    """The `IdentitySource` of background removers. Picklable; reads files only when called."""

    def __init__(self, settings: ProvenanceSettings, broker: BrokerSettings, data_dir: Path) -> None:
        self._settings = settings
        self._broker = broker
        self._data_dir = data_dir

    def identity(self) -> SigningIdentity:
        """Raises: ValueError; OSError; RedisError."""
        chain, key = self._own() or self._development()
        certificates = read_chain(chain)
        return SigningIdentity(to_pem(certificates), read_key(certificates, key), self._settings.timestamp_url)

    def certificates(self) -> OurCertificates:
        """Raises: as `identity`."""
        trust: Trust = "development" if self._settings.chain is None else "own"
        chains = [(read_chain(self.identity().chain), trust)]
        chains += [(read_chain(path.expanduser().read_bytes()), "own") for path in self._settings.former_chains]
        anchors: list[x509.Certificate] = [chain[-1] for chain, _ in chains]
        return OurCertificates(
            anchors=to_pem(anchors).decode(),
            signers={str(chain[0].serial_number): kind for chain, kind in chains},
        )

    def expires_at(self) -> float:
        """When the signer's certificate, or one above it, is no longer valid, unix seconds. Raises: as `identity`."""
        return min(certificate.not_valid_after_utc.timestamp() for certificate in read_chain(self.identity().chain))

    def _own(self) -> tuple[bytes, bytes] | None:
        if self._settings.chain is None or self._settings.key is None:
            return None
        return self._settings.chain.expanduser().read_bytes(), self._settings.key.expanduser().read_bytes()

    def _development(self) -> tuple[bytes, bytes]:
        """Chain and key, both in one PEM text."""
        if self._broker.url is None:
            bundle = ensure_secret(self._data_dir / BUNDLE_FILE, development_bundle)
        else:
            bundle = ensure_shared_secret(self._broker, "certificate", development_bundle)
        return bundle.encode(), bundle.encode()
