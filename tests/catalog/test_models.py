"""Prefetching, against a real web server that breaks off, knows ranges or does not, and keeps a record."""

import asyncio
import contextlib
import fcntl
import hashlib
import http.server
import io
import os
import random
import shutil
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from deployments.background.deployment import BackgroundRemover
from deployments.config import AvatarGeneratorConfig, BackgroundRemoverConfig, FaceEmbedderConfig, MattingModelConfig
from deployments.diffusion.deployment import AvatarGenerator
from deployments.face.deployment import FaceEmbedder
from serve_app.app import build_app
from serve_app.catalog.catalog import CATALOGUES
from serve_app.catalog.download import ATTEMPTS, PrefetchError, missing, prefetch
from serve_app.catalog.model_files import HUB, ModelFile
from serve_app.catalog.pins import LOCK_FILE, Pins, UnpublishedFiles, UnreadablePinsError
from serve_app.cli.models import hub_token
from serve_app.cli.root import cli
from serve_app.settings import Settings

WEIGHTS = random.Random(0).randbytes(300_000)
OTHERS = random.Random(1).randbytes(300_000)


@dataclass
class Web:
    """What the server has, how it misbehaves, and what it was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)  # of the next answers, instead of the file
    break_after: list[int] = field(default_factory=list)  # bytes of the next answers' bodies; then the connection ends
    knows_ranges: bool = True
    states_length: bool = True  # without it a client cannot tell the end from a break
    shifted_by: int = 0  # bytes by which a range starts too late
    gated_by: str | None = None  # the token without which nothing is given out
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range
    tokens: list[str | None] = field(default_factory=list)  # the `Authorization` of each
    url: str = ""

    def model_file(self, name: str, data: bytes | None = WEIGHTS, *, size: int | None = None, **more: str) -> ModelFile:
        """A file of the server, under its own name; `data` is what its digest says it holds, None: no digest."""
        digest = None if data is None else hashlib.sha256(data).hexdigest()
        return ModelFile(**{"path": name, "url": f"{self.url}/{name}", **more}, size=size, sha256=digest)


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked_range = self.headers.get("Range")
            web.asked.append((self.path, asked_range))
            web.tokens.append(self.headers.get("Authorization"))
            if web.gated_by is not None and web.tokens[-1] != f"Bearer {web.gated_by}":
                self.send_error(401)
                return
            data = web.files.get(self.path.removeprefix("/"))
            status = web.statuses.pop(0) if web.statuses else 200 if data is not None else 404
            if status != 200 or data is None:
                self.send_error(status)
                return
            start = int(asked_range.removeprefix("bytes=").removesuffix("-")) if asked_range and web.knows_ranges else 0
            if start >= len(data):
                self.send_error(416)
                return
            start += web.shifted_by if start else 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            if web.states_length:
                self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            end = start + web.break_after.pop(0) if web.break_after else len(data)
            with contextlib.suppress(ConnectionError):  # a client need not read it all
                self.wfile.write(data[start:end])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield web
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(files: list[ModelFile], models_dir: Path, *, pin: bool = False, mirror: str = HUB) -> list[ModelFile]:
    return prefetch(files, models_dir, pin=pin, mirror=mirror, retry_wait_s=0)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_fetched_is_there_and_a_second_prefetch_asks_for_nothing(web: Web, tmp_path: Path) -> None:
    web.files = {"sd/unet.safetensors": WEIGHTS, "sd/config.json": b"{}"}
    files = [web.model_file("sd/unet.safetensors", size=len(WEIGHTS)), web.model_file("sd/config.json", b"{}")]
    assert missing(files, tmp_path) == files

    assert fetch([*files, files[0]], tmp_path) == files
    assert contents(tmp_path) == web.files
    assert missing(files, tmp_path) == []
    web.asked.clear()

    assert fetch(files, tmp_path) == []
    assert web.asked == []


def test_progress_is_reported_up_to_the_size_of_each_file(web: Web, tmp_path: Path) -> None:
    web.files = {"a.safetensors": WEIGHTS}
    sizes: list[int] = []
    prefetch([web.model_file("a.safetensors")], tmp_path, report=lambda _file, size: sizes.append(size))
    assert sizes == sorted(sizes)
    assert sizes[-1] == len(WEIGHTS)


def test_a_wrong_digest_leaves_nothing_behind_and_says_what_was_expected_and_what_came(
    web: Web, tmp_path: Path
) -> None:
    web.files = {"a.safetensors": OTHERS}
    expected, got = (hashlib.sha256(data).hexdigest() for data in (WEIGHTS, OTHERS))
    with pytest.raises(PrefetchError, match=rf"a\.safetensors: expected SHA-256 {expected}, got {got}"):
        fetch([web.model_file("a.safetensors")], tmp_path)
    assert contents(tmp_path) == {}


def test_a_file_that_is_there_but_wrong_is_deleted_and_fetched(web: Web, tmp_path: Path) -> None:
    file = web.model_file("a.safetensors", size=len(WEIGHTS))
    (tmp_path / "a.safetensors").write_bytes(OTHERS)
    with pytest.raises(PrefetchError, match="HTTP 404"):
        fetch([file], tmp_path)
    assert contents(tmp_path) == {}

    (tmp_path / "a.safetensors").write_bytes(OTHERS)
    web.files = {"a.safetensors": WEIGHTS}
    assert fetch([file], tmp_path) == [file]
    assert contents(tmp_path) == web.files


def test_a_file_of_another_size_is_missing(web: Web, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"{")
    assert missing([web.model_file("a.json", b"{}", size=2)], tmp_path)
    assert not missing([web.model_file("a.json", b"{}")], tmp_path)


def test_a_broken_connection_is_taken_up_where_it_ended(web: Web, tmp_path: Path) -> None:
    web.files = {"a.safetensors": WEIGHTS}
    web.break_after = [100_000, 50_000]
    fetch([web.model_file("a.safetensors")], tmp_path)
    assert contents(tmp_path) == web.files
    assert [asked for _, asked in web.asked] == [None, "bytes=100000-", "bytes=150000-"]


def test_an_end_that_comes_before_the_known_size_is_a_break(web: Web, tmp_path: Path) -> None:
    web.files, web.states_length, web.break_after = {"a.safetensors": WEIGHTS}, False, [100_000]
    fetch([web.model_file("a.safetensors", size=len(WEIGHTS))], tmp_path)
    assert contents(tmp_path) == web.files
    assert [asked for _, asked in web.asked] == [None, "bytes=100000-"]


def test_a_part_that_is_whole_already_is_not_fetched_again(web: Web, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors.part").write_bytes(WEIGHTS)
    fetch([web.model_file("a.safetensors")], tmp_path)
    assert contents(tmp_path) == {"a.safetensors": WEIGHTS}
    assert web.asked == []


def test_a_server_without_ranges_sends_it_all_again(web: Web, tmp_path: Path) -> None:
    web.files, web.knows_ranges, web.break_after = {"a.safetensors": WEIGHTS}, False, [100_000]
    fetch([web.model_file("a.safetensors")], tmp_path)
    assert contents(tmp_path) == web.files


def test_a_range_that_was_not_asked_for_is_not_taken(web: Web, tmp_path: Path) -> None:
    web.files, web.shifted_by, web.break_after = {"a.safetensors": WEIGHTS}, 7, [100_000]
    fetch([web.model_file("a.safetensors")], tmp_path)
    assert contents(tmp_path) == web.files


def test_a_file_that_arrives_bit_by_bit_needs_more_connections_than_the_attempts_without_progress(
    web: Web, tmp_path: Path
) -> None:
    web.files, web.break_after = {"a.safetensors": WEIGHTS}, [10_000] * (2 * ATTEMPTS)
    fetch([web.model_file("a.safetensors")], tmp_path)
    assert len(web.asked) == 2 * ATTEMPTS + 1
    assert contents(tmp_path) == web.files


def test_a_connection_that_brings_nothing_is_given_up_and_the_next_prefetch_goes_on(web: Web, tmp_path: Path) -> None:
    web.files, web.break_after = {"a.safetensors": WEIGHTS}, [100_000] + [0] * ATTEMPTS
    file = web.model_file("a.safetensors")
    with pytest.raises(PrefetchError, match=r"a\.safetensors"):
        fetch([file], tmp_path)
    assert len(web.asked) == 1 + ATTEMPTS
    assert missing([file], tmp_path)
    web.asked.clear()

    fetch([file], tmp_path)
    assert contents(tmp_path) == web.files
    assert web.asked == [("/a.safetensors", "bytes=100000-")]


def test_a_busy_server_is_asked_again_and_a_refusal_is_final(web: Web, tmp_path: Path) -> None:
    web.files, web.statuses = {"a.json": b"{}"}, [503, 429]
    fetch([web.model_file("a.json", b"{}")], tmp_path)
    assert len(web.asked) == 3

    web.asked.clear()
    web.files, web.statuses = {"b.json": b"{}"}, [403]
    with pytest.raises(PrefetchError, match=r"b\.json: HTTP 403"):
        fetch([web.model_file("b.json", b"{}")], tmp_path)
    assert len(web.asked) == 1
    assert "b.json.part" not in contents(tmp_path)


def test_more_bytes_than_the_catalogue_says_are_not_read(web: Web, tmp_path: Path) -> None:
    web.files = {"a.safetensors": WEIGHTS * 100}
    sizes: list[int] = []
    with pytest.raises(PrefetchError, match="expected SHA-256"):
        prefetch([web.model_file("a.safetensors", size=1000)], tmp_path, report=lambda _file, size: sizes.append(size))
    assert sizes[-1] < len(WEIGHTS * 100)
    assert contents(tmp_path) == {}


def test_without_a_digest_a_file_is_refused_before_anything_is_fetched(web: Web, tmp_path: Path) -> None:
    web.files = {"a.json": b"{}", "b.bin": WEIGHTS}
    with pytest.raises(PrefetchError, match=r"no SHA-256 is published or pinned of b\.bin; .*prefetch --pin"):
        fetch([web.model_file("a.json", b"{}"), web.model_file("b.bin", None)], tmp_path)
    assert web.asked == []


def test_a_pinned_file_is_held_to_what_came_first(web: Web, tmp_path: Path) -> None:
    web.files = {"b.bin": WEIGHTS}
    file = web.model_file("b.bin", None)
    fetch([file], tmp_path, pin=True)
    pin = {"sha256": hashlib.sha256(WEIGHTS).hexdigest(), "size": len(WEIGHTS)}
    assert yaml.safe_load((tmp_path / LOCK_FILE).read_text()) == {file.url: pin}
    assert fetch([file], tmp_path) == []

    (tmp_path / "b.bin").unlink()
    web.files = {"b.bin": OTHERS}
    for pin in (False, True):
        with pytest.raises(PrefetchError, match="expected SHA-256"):
            fetch([file], tmp_path, pin=pin)
    assert set(contents(tmp_path)) == {LOCK_FILE}


def test_a_file_of_another_size_is_not_pinned(web: Web, tmp_path: Path) -> None:
    web.files = {"b.bin": WEIGHTS}
    with pytest.raises(PrefetchError, match=r"b\.bin: expected 5 bytes, got"):
        fetch([web.model_file("b.bin", None, size=5)], tmp_path, pin=True)
    assert contents(tmp_path) == {}


def test_a_pin_is_of_one_revision(web: Web, tmp_path: Path) -> None:
    web.files = {"r1/b.bin": WEIGHTS, "r2/b.bin": OTHERS}
    first, second = (web.model_file("b.bin", None, url=f"{web.url}/{revision}/b.bin") for revision in ("r1", "r2"))
    fetch([first], tmp_path, pin=True)
    with pytest.raises(PrefetchError, match="no SHA-256 is published or pinned"):
        fetch([second], tmp_path)
    fetch([second], tmp_path, pin=True)
    assert (tmp_path / "b.bin").read_bytes() == OTHERS


def test_a_lock_file_of_former_versions_which_has_digests_alone_still_counts(web: Web, tmp_path: Path) -> None:
    file, other = web.model_file("b.bin", None), web.model_file("c.bin", None)
    (tmp_path / LOCK_FILE).write_text(yaml.safe_dump({file.url: hashlib.sha256(WEIGHTS).hexdigest()}))
    web.files = {"b.bin": OTHERS, "c.bin": OTHERS}
    with pytest.raises(PrefetchError, match="expected SHA-256"):
        fetch([file], tmp_path, pin=True)
    fetch([other], tmp_path, pin=True)
    assert Pins(tmp_path).expected(file) == hashlib.sha256(WEIGHTS).hexdigest()
    (tmp_path / LOCK_FILE).write_text("a list: [instead]")
    with pytest.raises(UnreadablePinsError, match=LOCK_FILE):
        fetch([file], tmp_path)


def test_a_stage_loads_a_file_without_a_published_digest_only_as_it_was_pinned(web: Web, tmp_path: Path) -> None:
    stage = MattingModelConfig(model_path=Path("models:rembg/own.onnx"))
    models_dir = tmp_path / "models"
    own = web.model_file("rembg/own.onnx", None)
    others = [web.model_file("rembg/own.json", None), web.model_file("rembg/known.onnx")]
    unpublished = UnpublishedFiles.of([own, *others], stage, models_dir)
    assert unpublished.files == (own,)
    path = models_dir / own.path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"from somewhere")
    with pytest.raises(ValueError, match=r"rembg/own\.onnx: no SHA-256 of it is published or pinned; .*prefetch --pin"):
        unpublished.check()

    path.unlink()
    web.files = {own.path: onnx_file(tmp_path, external=False)}
    fetch([own], models_dir, pin=True)
    unpublished.check()
    pinned = path.read_bytes()
    for changed in (pinned[:-1] + bytes([pinned[-1] ^ 1]), pinned[:-1]):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"rembg/own\.onnx has changed since it was pinned"):
            unpublished.check()
    fetch([own], models_dir)
    unpublished.check()


def test_the_files_in_a_folder_that_a_stage_loads_are_its_own(web: Web, tmp_path: Path) -> None:
    safety = {"kind": "concepts", "path": "models:safety"}
    models = {"m": {"path": "models:sd", "ip_adapter": "models:ip/a.bin", "safety": safety}}
    stage = AvatarGeneratorConfig.model_validate({"models": models, "compile_cache": "models:compiled"})
    named = [
        "sd/unet/w.safetensors",
        "sd/model_index.json",
        "ip/a.bin",
        "ip/b.bin",
        "safety/w.safetensors",
        "sd2/w.json",
    ]
    files = [web.model_file(name, None) for name in named]
    assert [file.path for file in UnpublishedFiles.of(files, stage, tmp_path).files] == [*named[:3], named[4]]


def test_each_stage_is_told_the_files_that_it_has_to_check(tmp_path: Path) -> None:
    app = yaml.safe_load((CATALOGUES / "embedded.yaml").read_text())["apps"]["face-avatar"]
    downloads = {"own": own_download({"face.onnx": {}, "unet/w.json": {}, "matting.onnx": {}})}
    catalogue = tmp_path / "own.yaml"
    catalogue.write_text(yaml.safe_dump({"apps": {"own": app | {"downloads": ["own"]}}, "downloads": downloads}))
    settings = Settings.model_validate(
        {
            "catalogs": [str(catalogue)],
            "models_dir": tmp_path,
            "face": {"model": {"kind": "cascade", "encoder": "models:model/face.onnx"}},
            "generator": {"models": {"embedded": {"path": "models:model/unet"}}},
            "background": {"model": {"model_path": "models:model/matting.onnx"}},
        }
    )
    stages = [each._bound_deployment for each in stages_of(build_app(settings))]
    told = {
        stage.name: [file.path for file in each.files]
        for stage in stages
        for each in stage.init_args
        if isinstance(each, UnpublishedFiles)
    }
    assert told == {
        "FaceEmbedder": ["model/face.onnx"],
        "AvatarGenerator": ["model/unet/w.json"],
        "BackgroundRemover": ["model/matting.onnx"],
    }


def stages_of(app: Any) -> list[Any]:
    """What is bound to the ingress."""
    return [each for each in app._bound_deployment.init_args if hasattr(each, "_bound_deployment")]


def own_download(files: dict[str, Any]) -> dict[str, Any]:
    licence = {"licence": "MIT", "licence_url": "https://models.example/licence"}
    return {"repo": "owner/name", "revision": "0" * 40, "folder": "model", "files": files, **licence}


class Refusal:
    """A check that lets nothing be loaded."""

    def check(self) -> None:
        raise ValueError("changed since it was pinned")


def test_no_stage_loads_what_its_check_refuses() -> None:
    async def generator() -> None:
        made = AvatarGenerator.__new__(AvatarGenerator)
        await made.__init__(AvatarGeneratorConfig(), None, Refusal())  # type: ignore[misc]  # as Serve does

    for start in (
        lambda: FaceEmbedder(FaceEmbedderConfig(), Refusal()),
        lambda: BackgroundRemover(BackgroundRemoverConfig(), None, Refusal()),
        lambda: asyncio.run(generator()),
    ):
        with pytest.raises(ValueError, match="changed since it was pinned"):
            start()


def test_the_command_pins_and_prints_what_a_catalogue_can_hold(web: Web, tmp_path: Path) -> None:
    catalogue = tmp_path / "own.yaml"

    def prefetched(*options: str) -> str:
        command = ["models", "prefetch", "mine", "--catalog", str(catalogue), "--mirror", web.url]
        result = CliRunner().invoke(cli, [*command, "--models-dir", str(tmp_path / "models"), *options])
        return result.output if result.exit_code == 0 else str(result.exception)

    catalogue.write_text(yaml.safe_dump({"downloads": {"mine": own_download({"a.json": {}})}}))
    web.files = {f"owner/name/resolve/{'0' * 40}/a.json": b"{}"}
    assert "published or pinned of model/a.json" in prefetched()
    assert "no SHA-256 is published" in prefetched("--dry-run")
    assert web.asked == []

    pin = f"{{size: 2, sha256: {hashlib.sha256(b'{}').hexdigest()}}}"
    assert f"  model/a.json: {pin}\n" in prefetched("--pin")
    assert "model/a.json: size unknown; pinned" in prefetched("--dry-run")
    assert "All there and right." in prefetched()

    catalogue.write_text(yaml.safe_dump({"downloads": {"mine": own_download({"a.json": yaml.safe_load(pin)})}}))
    (tmp_path / "models" / LOCK_FILE).unlink()
    assert "All there and right." in prefetched()  # on a node that never pinned


def test_a_mirror_stands_in_for_hugging_face_alone(web: Web, tmp_path: Path) -> None:
    web.files = {"hub/owner/name/resolve/abc/a.json": b"{}", "b.json": b"[]"}
    files = [
        web.model_file("a.json", b"{}", url=f"{HUB}/owner/name/resolve/abc/a.json"),
        web.model_file("b.json", b"[]"),
    ]
    fetch(files, tmp_path, mirror=f"{web.url}/hub/")
    assert contents(tmp_path) == {"a.json": b"{}", "b.json": b"[]"}
    with pytest.raises(PrefetchError, match="a mirror is a URL"):
        fetch(files, tmp_path, mirror="mirror.example")


def test_a_gated_repository_is_opened_by_a_token_that_nobody_else_sees(web: Web, tmp_path: Path) -> None:
    web.files = {"some/gated/resolve/main/a.txt": b"a", "b.txt": b"b"}
    of_hub = web.model_file("a.txt", b"a", url=f"{HUB}/some/gated/resolve/main/a.txt")
    elsewhere = web.model_file("b.txt", b"b")
    prefetch([of_hub, elsewhere], tmp_path, mirror=web.url, hub_token="hf_secret")
    assert web.tokens == ["Bearer hf_secret", None]

    web.gated_by = "hf_secret"
    (tmp_path / "a.txt").unlink()
    for token in (None, "hf_other"):
        with pytest.raises(PrefetchError, match=f"HTTP 401.* accepted on {HUB}/some/gated by .* HF_TOKEN") as caught:
            prefetch([of_hub], tmp_path, mirror=web.url, hub_token=token)
        assert "hf_other" not in str(caught.value)
    prefetch([of_hub], tmp_path, mirror=web.url, hub_token="hf_secret")
    assert (tmp_path / "a.txt").read_bytes() == b"a"


def test_the_token_is_where_hugging_faces_own_programs_look_for_it(tmp_path: Path) -> None:
    assert hub_token({"HF_HOME": str(tmp_path)}) is None
    (tmp_path / "token").write_text("hf_kept\n")
    assert hub_token({"HF_HOME": str(tmp_path)}) == "hf_kept"
    assert hub_token({"HF_TOKEN_PATH": str(tmp_path / "token")}) == "hf_kept"
    assert hub_token({"HF_TOKEN": "hf_given", "HF_HOME": str(tmp_path)}) == "hf_given"


def test_the_environments_proxy_is_used(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", web.url)
    web.files = {"http://models.example/a.json": b"{}"}
    fetch([web.model_file("a.json", b"{}", url="http://models.example/a.json")], tmp_path)
    assert contents(tmp_path) == {"a.json": b"{}"}


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def test_of_an_archive_only_the_named_members_are_taken_and_it_is_fetched_once(web: Web, tmp_path: Path) -> None:
    members = {"a.json": b"{}", "b.safetensors": WEIGHTS, "c.json": b"[]", "../outside.json": b"!", "/root.json": b"!"}
    web.files, web.break_after = {"pack.zip": zipped(members)}, [100_000]
    files = [
        web.model_file(f"pack/{name}", members[name], url=f"{web.url}/pack.zip", member=name)
        for name in ("a.json", "b.safetensors")
    ]
    models_dir = tmp_path / "models"
    fetch(files, models_dir)
    assert contents(tmp_path) == {"models/pack/a.json": b"{}", "models/pack/b.safetensors": WEIGHTS}
    assert [asked for _, asked in web.asked] == [None, "bytes=100000-"]
    assert fetch(files, models_dir) == []


def test_a_member_that_points_outside_lands_where_the_catalogue_says(web: Web, tmp_path: Path) -> None:
    web.files = {"pack.zip": zipped({"../../outside.json": b"{}"})}
    models_dir = tmp_path / "a" / "b"
    fetch([web.model_file("in.json", b"{}", url=f"{web.url}/pack.zip", member="../../outside.json")], models_dir)
    assert contents(tmp_path) == {"a/b/in.json": b"{}"}


@pytest.mark.parametrize("path", ["../a.json", "a/../../b.json", "/etc/a.json", "a\\..\\b.json", "", "a//b.json"])
def test_a_path_that_leaves_the_models_folder_is_no_path(path: str) -> None:
    with pytest.raises(ValueError, match="is not a plain relative path"):
        ModelFile(path=path, url="https://models.example/a.json")


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (b"no zip at all", "not a zip file"),
        (zipped({"other.json": b"{}"}), "no item named"),
        (zipped({"a.json": b"[]"}), "expected SHA-256"),
        (
            zipped({"a.json": b"{}"}).replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"),
            "encr",
        ),
    ],
    ids=["no zip", "no such member", "another content", "encrypted"],
)
def test_an_archive_that_is_not_as_expected_leaves_nothing_behind(
    web: Web, tmp_path: Path, archive: bytes, reason: str
) -> None:
    web.files = {"pack.zip": archive}
    with pytest.raises(PrefetchError, match=reason):
        fetch([web.model_file("a.json", b"{}", url=f"{web.url}/pack.zip", member="a.json")], tmp_path)
    assert contents(tmp_path) == {}


def onnx_file(folder: Path, *, external: bool) -> bytes:
    """A model of one constant, the numbers of which lie in another file if `external`."""
    weight = numpy_helper.from_array(np.zeros(4, dtype=np.float32), "weight")
    output = helper.make_tensor_value_info("weight", TensorProto.FLOAT, [4])
    model = helper.make_model(helper.make_graph([], "constant", [], [output], [weight]))
    path = folder / "made.onnx"
    onnx.save(model, path, save_as_external_data=external, size_threshold=0, location="made.data")
    return path.read_bytes()


def test_an_onnx_file_that_keeps_weights_elsewhere_is_refused_whatever_its_digest(
    web: Web, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole, split = (onnx_file(tmp_path_factory.mktemp("onnx"), external=external) for external in (False, True))
    web.files = {"whole.onnx": whole, "split.onnx": split, "page.onnx": b"<html>"}
    fetch([web.model_file("whole.onnx", whole)], tmp_path)
    with pytest.raises(PrefetchError, match="keeps weights in another file"):
        fetch([web.model_file("split.onnx", split)], tmp_path)
    with pytest.raises(PrefetchError, match=r"page\.onnx"):
        fetch([web.model_file("page.onnx", None)], tmp_path, pin=True)
    assert contents(tmp_path) == {"whole.onnx": whole}


def test_two_prefetches_of_one_folder_do_not_meet(web: Web, tmp_path: Path) -> None:
    web.files = {"a.json": b"{}"}
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(PrefetchError, match="another prefetch is at work"):
            fetch([web.model_file("a.json", b"{}")], tmp_path)
    finally:
        os.close(descriptor)
    assert fetch([web.model_file("a.json", b"{}")], tmp_path)


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_fetched(web: Web, tmp_path: Path) -> None:
    with pytest.raises(PrefetchError, match=r"GB free; 1000000000\.0 GB are to come"):
        fetch([web.model_file("a.json", b"{}", size=10**18)], tmp_path)
    assert web.asked == []


def test_what_is_there_of_a_file_needs_no_more_room(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web.files = {"a.safetensors": WEIGHTS}
    (tmp_path / "a.safetensors.part").write_bytes(WEIGHTS[:200_000])
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=150_000))
    assert fetch([web.model_file("a.safetensors", size=len(WEIGHTS))], tmp_path)
