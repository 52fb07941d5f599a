"""The certificates that sign content credentials: generated for development, or read and checked."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

DEVELOPMENT = "Face Avatar (development)"  # the organisation in generated certificates
LIFETIME = timedelta(days=3650)  # without a timestamp authority a signature is valid as long as its certificate
DOCUMENT_SIGNING = ObjectIdentifier("1.3.6.1.5.5.7.3.36")  # RFC 9336
USES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


def development_bundle() -> str:
    """PEM of a key, its certificate and that of a new authority, whose own key is thrown away."""
    authority_key, key = generate_private_key(SECP256R1()), generate_private_key(SECP256R1())
    authority = _signed(
        _certificate("authority", authority_key, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True),
        authority_key,
    )
    signer = _signed(
        _certificate("signer", key, authority_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION, DOCUMENT_SIGNING]), critical=False),
        authority_key,
    )
    return (_pkcs8(key) + to_pem([signer, authority])).decode()


def read_chain(pem: bytes) -> list[x509.Certificate]:
    """The signer's certificate, then its issuer's, and so on. Raises: ValueError for a broken chain."""
    chain = x509.load_pem_x509_certificates(pem)
    if len(chain) < 2:
        raise ValueError("a chain is the signer's certificate and that of its issuer, at least")
    for certificate, issuer in pairwise(chain):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, ArithmeticError) as error:
            raise ValueError("each certificate of a chain is issued by the next one") from error
    return chain


def read_key(chain: Sequence[x509.Certificate], pem: bytes) -> bytes:
    """The private key of a chain's first certificate, as PKCS #8.

    Raises: ValueError if it belongs to another certificate or is not on the curve P-256.
    """
    key = load_pem_private_key(pem, password=None)
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise ValueError("the key is not one on the curve P-256")
    if key.public_key() != chain[0].public_key():
        raise ValueError("the key is not that of the first certificate")
    return _pkcs8(key)


def to_pem(certificates: Sequence[x509.Certificate]) -> bytes:
    """PEM of the certificates, in this order."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _pkcs8(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _certificate(
    name: str, key: EllipticCurvePrivateKey, authority_key: EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    not_before = datetime.now(UTC) - timedelta(hours=1)  # the clocks of nodes differ
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name("authority"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_before + LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
    )


def _signed(certificate: x509.CertificateBuilder, key: EllipticCurvePrivateKey) -> x509.Certificate:
    return certificate.sign(key, hashes.SHA256())


def _name(common_name: str) -> x509.Name:
    parts = ((NameOID.ORGANIZATION_NAME, DEVELOPMENT), (NameOID.COMMON_NAME, common_name))
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


def _key_usage(*uses: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{use: use in uses for use in USES})
