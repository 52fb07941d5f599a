"""Content credentials: what is signed, and what a verifier makes of it. Certificates, c2pa and its child are real."""

import asyncio
import http.server
import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import c2pa
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from PIL import Image
from typer.testing import CliRunner

from deployments.background.c2pa_signer import GENERATOR, SOURCE_TYPE, ContentSigner, manifest
from deployments.background.postprocess import encode
from deployments.background.signing_identity import SigningIdentity
from deployments.types import C2paAssertion, OutputFormat, Pixels
from serve_app.backends.redis import BrokerSettings, ensure_shared_secret, own_url
from serve_app.cli.root import cli
from serve_app.provenance.certificates import development_bundle, read_chain, read_key, to_pem
from serve_app.provenance.signing import BUNDLE_FILE, Provenance, ProvenanceSettings
from serve_app.provenance.verify import CredentialReader, VerifyOutput
from serve_app.sandbox.process import SandboxSettings
from tests.support.hostile_pictures import hostile_pictures, noise

FORMATS: tuple[OutputFormat, ...] = ("png", "webp", "jpeg")
ASSERTION = C2paAssertion("face-avatar", "embedded", 7, 12, 1.5, 256, 256)
PATIENT = SandboxSettings(timeout_s=30)


def provenance(data_dir: Path, **settings: object) -> Provenance:
    return Provenance(ProvenanceSettings.model_validate(settings), BrokerSettings(), data_dir)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Provenance:
    return provenance(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def signer(ours: Provenance) -> ContentSigner:
    return ContentSigner(ours.identity())


class Verifier:
    """A `CredentialReader` for tests that are not coroutines."""

    def __init__(self, ours: Provenance) -> None:
        self._reader = CredentialReader(ours.certificates(), PATIENT)

    def __call__(self, data: bytes) -> VerifyOutput:
        return asyncio.run(self._reader.verify(data))

    def close(self) -> None:
        asyncio.run(self._reader.close())


@pytest.fixture(scope="module")
def verify(ours: Provenance) -> Iterator[Verifier]:
    verifier = Verifier(ours)
    yield verifier
    verifier.close()


def picture(output_format: OutputFormat, mode: str = "RGB") -> bytes:
    return encode(noise(mode, 96, 80), output_format)


def decoded(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)))


def verdict_of(provenance: Provenance, data: bytes) -> VerifyOutput:
    verifier = Verifier(provenance)
    try:
        return verifier(data)
    finally:
        verifier.close()


# What is signed


@pytest.mark.parametrize("output_format", FORMATS)
def test_a_signed_picture_is_genuine_and_says_what_drew_it(
    signer: ContentSigner, verify: Verifier, output_format: OutputFormat
) -> None:
    found = verify(signer.sign(picture(output_format), f"image/{output_format}", ASSERTION))
    assert (found.verdict, found.ours, found.intact, found.trust) == ("genuine", True, True, "development")
    assert found.credentials is not None
    assert found.credentials.statement == ASSERTION.statement()
    assert found.credentials.generator == f"face-avatar {GENERATOR['version']}"
    assert found.credentials.source_type == SOURCE_TYPE
    assert datetime.fromisoformat(found.credentials.made_at).tzinfo is not None


@pytest.mark.parametrize(
    ("output_format", "mode"), [("png", "RGB"), ("png", "RGBA"), ("webp", "RGBA"), ("jpeg", "RGB")]
)
def test_signing_changes_no_pixel(signer: ContentSigner, output_format: OutputFormat, mode: str) -> None:
    plain = picture(output_format, mode)
    signed = signer.sign(plain, f"image/{output_format}", ASSERTION)
    assert np.array_equal(decoded(signed), decoded(plain))
    assert len(signed) - len(plain) < 5000  # no thumbnail within


def test_the_statement_has_nothing_but_parameters_of_the_drawing() -> None:
    said = manifest("image/png", ASSERTION)
    (actions, statement) = said["assertions"]
    assert said.keys() == {"claim_generator_info", "format", "assertions"}
    assert actions["data"]["actions"][0].keys() == {"action", "digitalSourceType", "softwareAgent", "when"}
    assert statement["data"].keys() == {
        "app", "model", "seed", "num_inference_steps", "guidance_scale", "width", "height", "sampler",
    }  # fmt: skip


def test_c2pa_complains_of_nothing_but_the_certificate_and_trusts_it_with_our_anchor(
    ours: Provenance, signer: ContentSigner
) -> None:
    for output_format in FORMATS:
        signed = signer.sign(picture(output_format), f"image/{output_format}", ASSERTION)
        for trust, state, complaints in (
            ({}, "Valid", ["signingCredential.untrusted"]),
            ({"user_anchors": ours.certificates().anchors}, "Trusted", []),
        ):
            context = c2pa.Context.from_dict({"version": 1, "verify": {"verify_trust": True}, "trust": trust})
            with c2pa.Reader(f"image/{output_format}", io.BytesIO(signed), context=context) as reader:
                report = json.loads(reader.json())
            assert report["validation_state"] == state
            failures = report["validation_results"]["activeManifest"]["failure"]
            assert [failure["code"] for failure in failures] == complaints


def test_many_threads_sign_at_once(signer: ContentSigner, verify: Verifier) -> None:
    def sign(seed: int) -> bytes:
        return signer.sign(picture("webp"), "image/webp", C2paAssertion("a", "b", seed, 1, 1.0, 8, 8))

    with ThreadPoolExecutor(8) as pool:
        found = [verify(signed) for signed in pool.map(sign, range(40))]
    assert [one.credentials.statement["seed"] for one in found if one.credentials] == list(range(40))
    assert {one.verdict for one in found} == {"genuine"}


# What is not ours, or not as it was


@pytest.mark.parametrize("output_format", FORMATS)
def test_a_changed_pixel_is_detected(signer: ContentSigner, verify: Verifier, output_format: OutputFormat) -> None:
    signed = signer.sign(picture(output_format), f"image/{output_format}", ASSERTION)
    pixels = np.array(Image.open(io.BytesIO(picture("png"))))
    pixels[40, 48] ^= 255
    changed = encode(Image.fromarray(pixels), output_format)
    found = verify(with_credentials_of(signed, changed, output_format))
    assert (found.verdict, found.ours, found.intact) == ("altered", True, False)


def with_credentials_of(signed: bytes, other: bytes, output_format: OutputFormat) -> bytes:
    """Another picture that carries the credentials of a signed one."""
    if output_format == "png":
        start = signed.index(b"caBX") - 4
        end = start + 12 + int.from_bytes(signed[start : start + 4], "big")
        return other[:33] + signed[start:end] + other[33:]
    if output_format == "webp":
        chunk = signed[signed.index(b"C2PA") :]
        body = other[12:] + chunk
        return b"RIFF" + (len(body) + 4).to_bytes(4, "little") + b"WEBP" + body
    start = signed.index(b"\xff\xeb")
    end = start + 2 + int.from_bytes(signed[start + 2 : start + 4], "big")
    return other[:2] + signed[start:end] + other[2:]


def test_a_single_bit_of_the_picture_is_enough(signer: ContentSigner, verify: Verifier) -> None:
    signed = bytearray(signer.sign(picture("jpeg"), "image/jpeg", ASSERTION))
    signed[-100] ^= 1
    assert verify(bytes(signed)).verdict == "altered"


def test_what_another_service_signed_is_foreign(tmp_path: Path, verify: Verifier) -> None:
    other = ContentSigner(provenance(tmp_path).identity())
    found = verify(other.sign(picture("png"), "image/png", ASSERTION))
    assert (found.verdict, found.ours, found.intact, found.trust) == ("foreign", False, True, None)


def test_a_picture_without_credentials_is_unsigned(verify: Verifier) -> None:
    for output_format in FORMATS:
        found = verify(picture(output_format))
        assert (found.verdict, found.ours, found.intact, found.credentials) == ("unsigned", False, False, None)


def test_no_forged_statement_is_believed(signer: ContentSigner, verify: Verifier) -> None:
    signed = signer.sign(picture("png"), "image/png", ASSERTION)
    honest, verdicts = verify(signed), set()
    start = signed.index(b"caBX")
    for place in range(start + 40, start + 3400, 37):  # everywhere in the credentials
        forged = bytearray(signed)
        forged[place] ^= 1
        found = verify(bytes(forged))
        verdicts.add(found.verdict)
        # Some bytes there are padding, and say nothing.
        assert found.verdict != "genuine" or found.credentials == honest.credentials, place
    assert {"altered", "unreadable"} <= verdicts


def test_no_hostile_picture_breaks_the_child(ours: Provenance, signer: ContentSigner) -> None:
    verifier = Verifier(ours)
    pictures = list(hostile_pictures().values())
    signed = signer.sign(picture("webp"), "image/webp", ASSERTION)
    pictures += [signed[:length] for length in range(0, len(signed), len(signed) // 40)]
    verdicts = [verifier(data).verdict for data in pictures]
    child = verifier._reader._idle.get()
    assert len(pictures) >= 300
    assert not {"genuine", "foreign"} & set(verdicts)
    assert child is not None
    assert not child.has_ended
    assert child.ask(signed).state == "read"
    child.end()
    verifier.close()


def test_a_reader_fetches_no_credentials_from_elsewhere(ours: Provenance, verify: Verifier) -> None:
    visits: list[str] = []

    class Canary(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            visits.append(self.path)
            self.send_error(404)

    with http.server.HTTPServer(("127.0.0.1", 0), Canary) as canary:
        thread = threading.Thread(target=canary.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        found = verify(picture_with_credentials_at(f"http://127.0.0.1:{canary.server_port}/manifest", ours.identity()))
        canary.shutdown()
        thread.join()
    assert found.verdict in ("unsigned", "unreadable")
    assert visits == []


def picture_with_credentials_at(url: str, identity: SigningIdentity) -> bytes:
    info = c2pa.C2paSignerInfo(b"es256", identity.chain, identity.key, None)
    file = io.BytesIO()
    with c2pa.Builder(json.dumps(manifest("image/jpeg", ASSERTION))) as builder, c2pa.Signer.from_info(info) as signer:
        builder.set_no_embed()
        builder.set_remote_url(url)
        builder.sign(signer, "image/jpeg", io.BytesIO(picture("jpeg")), file)
    assert url.encode() in file.getvalue()
    return file.getvalue()


# Certificates


def test_the_development_certificate_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    first, again = provenance(tmp_path).identity(), provenance(tmp_path).identity()
    assert first == again
    assert (tmp_path / BUNDLE_FILE).stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in repr(first)
    assert b"PRIVATE" not in first.chain


def test_all_nodes_of_a_cluster_get_one_development_certificate_from_the_broker(valkey: Path, tmp_path: Path) -> None:
    broker = BrokerSettings.model_validate({"url": own_url(valkey), "prefix": "shared"})

    def identity(node: int) -> SigningIdentity:
        return Provenance(ProvenanceSettings(), broker, tmp_path / str(node)).identity()

    with ThreadPoolExecutor(8) as nodes:
        assert len(set(nodes.map(identity, range(8)))) == 1
    assert not list(tmp_path.iterdir())


def test_a_secret_that_is_there_is_not_made_again(valkey: Path) -> None:
    broker = BrokerSettings.model_validate({"url": own_url(valkey), "prefix": "test"})
    assert ensure_shared_secret(broker, "secret", lambda: "first") == "first"
    assert ensure_shared_secret(broker, "secret", lambda: pytest.fail("made again")) == "first"


def own_files(folder: Path) -> dict[str, Path]:
    """An operator's chain and key."""
    bundle = development_bundle().encode()
    folder.mkdir(exist_ok=True)
    (folder / "chain.pem").write_bytes(to_pem(read_chain(bundle)))
    (folder / "key.pem").write_bytes(bundle)
    return {"chain": folder / "chain.pem", "key": folder / "key.pem"}


def test_an_operators_own_certificate_signs_and_former_ones_are_still_known(tmp_path: Path) -> None:
    before, now = own_files(tmp_path / "before"), own_files(tmp_path / "now")
    old = ContentSigner(provenance(tmp_path, **before).identity()).sign(picture("png"), "image/png", ASSERTION)
    new = ContentSigner(provenance(tmp_path, **now).identity()).sign(picture("png"), "image/png", ASSERTION)

    alone = provenance(tmp_path, **now)
    both = provenance(tmp_path, **now, former_chains=[before["chain"]])
    assert (verdict_of(alone, new).trust, verdict_of(both, new).trust) == ("own", "own")
    assert (verdict_of(alone, old).verdict, verdict_of(both, old).verdict) == ("foreign", "genuine")
    assert not (tmp_path / BUNDLE_FILE).exists()


def test_a_chain_without_its_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs its key"):
        ProvenanceSettings(chain=tmp_path / "chain.pem")


def test_a_key_that_does_not_fit_is_refused_before_anything_is_signed(tmp_path: Path) -> None:
    own, other = own_files(tmp_path / "own"), own_files(tmp_path / "other")
    with pytest.raises(ValueError, match="not that of the first certificate"):
        provenance(tmp_path, chain=own["chain"], key=other["key"]).identity()
    wrong_curve = generate_private_key(SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValueError, match="P-256"):
        read_key(read_chain(own["chain"].read_bytes()), wrong_curve)


def test_a_chain_out_of_order_or_of_one_certificate_is_refused() -> None:
    signer, authority = read_chain(development_bundle().encode())
    with pytest.raises(ValueError, match="issued by the next"):
        read_chain(to_pem([authority, signer]))
    with pytest.raises(ValueError, match="at least"):
        read_chain(to_pem([signer]))


def test_a_certificate_that_may_not_sign_is_refused_at_the_start() -> None:
    bundle = development_bundle().encode()
    chain = read_chain(bundle)
    with pytest.raises(ValueError, match="cannot sign"):
        ContentSigner(SigningIdentity(to_pem(chain[1:]), read_key(chain, bundle)))


@pytest.mark.parametrize(("signed", "word", "exit_code"), [(True, "genuine", 0), (False, "unsigned", 1)])
def test_the_command_line_says_whether_a_picture_is_ours(
    tmp_path: Path, signed: bool, word: str, exit_code: int
) -> None:
    data = picture("png")
    if signed:
        data = ContentSigner(provenance(tmp_path).identity()).sign(data, "image/png", ASSERTION)
    (tmp_path / "picture.png").write_bytes(data)
    ran = CliRunner().invoke(cli, ["verify", str(tmp_path / "picture.png"), "--data-dir", str(tmp_path)])
    assert ran.exit_code == exit_code, ran.output
    assert word in ran.output
    assert ("num_inference_steps" in ran.output) == signed
