"""Model files in a bucket of one's own: an S3 on loopback that checks signatures, and a folder."""

import hashlib
import http.server
import logging
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from typer.testing import CliRunner

from serve_app.catalog import bucket as buckets
from serve_app.catalog.bucket import BucketError, ModelBucket
from serve_app.catalog.download import PrefetchError, prefetch
from serve_app.catalog.mirror import mirror
from serve_app.catalog.model_files import ModelFile
from serve_app.catalog.pins import LOCK_FILE
from serve_app.cli.root import cli
from tests.support.object_stores import ACCESS_KEY, BUCKET, PREFIX, REGION, S3, SECRET_KEY, Gate, served

NOWHERE = "https://127.0.0.1:1"  # a source that nobody may ask
DATA = {
    "unet.safetensors": random.Random(0).randbytes(100_001),
    "config.json": b"{}",
    "empty.txt": b"",
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def files_of(data: dict[str, bytes], source: str = NOWHERE) -> list[ModelFile]:
    return [
        ModelFile(path=f"sd/{name}", url=f"{source}/{name}", size=len(content), sha256=sha256(content))
        for name, content in data.items()
    ]


def write(folder: Path, data: dict[str, bytes]) -> None:
    for name, content in data.items():
        path = folder / "sd" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "sd").iterdir()}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    gate = Gate(DomainDispatcherApplication(create_backend_app))
    with served(gate) as endpoint:
        for name, value in {
            "AWS_ENDPOINT": endpoint,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }.items():
            monkeypatch.setenv(name, value)
        store = S3(endpoint, gate)
        yield store
        store.close()


@pytest.fixture
def url(s3: S3, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a bucket whose files take several ranges each."""
    monkeypatch.setattr(buckets, "RANGE_BYTES", 10_000)
    assert s3.keys() == []
    return f"s3://{BUCKET}/{PREFIX}"


def test_what_was_mirrored_is_fetched_without_its_source_and_neither_is_done_twice(
    url: str, s3: S3, tmp_path: Path
) -> None:
    files = files_of(DATA)
    write(tmp_path / "here", DATA)
    assert mirror(files, tmp_path / "here", ModelBucket.open(url)) == files
    assert sorted(s3.keys()) == sorted(f"{PREFIX}/{sha256(content)}" for content in DATA.values())
    assert mirror(files, tmp_path / "here", ModelBucket.open(url)) == []

    sizes: list[int] = []
    fetched = prefetch(
        files, tmp_path / "node", bucket=ModelBucket.open(url), report=lambda _file, size: sizes.append(size)
    )
    assert fetched == files
    assert read(tmp_path / "node") == DATA
    assert max(sizes) == 100_001
    assert prefetch(files, tmp_path / "node", bucket=ModelBucket.open(url)) == []


def test_a_file_that_was_begun_is_gone_on_with(url: str, s3: S3, tmp_path: Path) -> None:
    (file, *_), content = files_of(DATA), DATA["unet.safetensors"]
    write(tmp_path / "here", DATA)
    mirror([file], tmp_path / "here", ModelBucket.open(url))
    write(tmp_path / "node", {"unet.safetensors.part": content[:70_000]})
    s3.gate.requests.clear()
    prefetch([file], tmp_path / "node", bucket=ModelBucket.open(url))
    assert read(tmp_path / "node") == {"unet.safetensors": content}
    assert len([request for request in s3.gate.requests if request.startswith("GET")]) == 4  # ranges of 10,000 bytes


@pytest.fixture
def source() -> Iterator[str]:
    """A web server that has the files."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = DATA[self.path.rpartition("/")[2]]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_what_the_bucket_has_not_or_has_damaged_comes_from_its_source_and_the_log_says_so(
    url: str, source: str, s3: S3, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = f"{PREFIX}/{sha256(DATA['unet.safetensors'])}"
    s3.client.put_object(Bucket=BUCKET, Key=damaged, Body=b"something else")
    files = files_of(DATA, source)
    with caplog.at_level(logging.WARNING):
        assert prefetch(files, tmp_path, bucket=ModelBucket.open(url)) == files
    assert read(tmp_path) == DATA
    assert sorted(message.split(":")[0] for message in caplog.messages) == sorted(
        f"{file.path} is not taken from the bucket" for file in files
    )


def test_a_bucket_that_does_not_answer_costs_no_prefetch(
    url: str, source: str, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert len(prefetch(files_of(DATA, source), tmp_path, bucket=ModelBucket.open(url))) == len(DATA)
    assert read(tmp_path) == DATA
    with pytest.raises(PrefetchError, match="cannot be copied to the bucket"):
        mirror(files_of(DATA), tmp_path, ModelBucket.open(url))


def test_a_pinned_file_is_taken_by_its_pin(url: str, tmp_path: Path) -> None:
    (known, *_), content = files_of(DATA), DATA["unet.safetensors"]
    file = known.model_copy(update={"sha256": None})
    for folder in ("here", "node"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / LOCK_FILE).write_text(yaml.safe_dump({file.source: sha256(content)}))
    write(tmp_path / "here", {"unet.safetensors": content})
    assert mirror([file], tmp_path / "here", ModelBucket.open(url)) == [file]
    prefetch([file], tmp_path / "node", bucket=ModelBucket.open(url))
    assert read(tmp_path / "node") == {"unet.safetensors": content}


def test_what_is_no_bucket_is_refused() -> None:
    with pytest.raises(ValueError, match="ftp://host is no URL of a bucket"):
        ModelBucket.open("ftp://host")


def test_a_file_that_is_not_there_has_no_size_and_cannot_be_read(tmp_path: Path) -> None:
    bucket = ModelBucket.open(f"file://{tmp_path}/bucket")
    assert bucket.size("0" * 64) is None
    with pytest.raises(BucketError, match="not in the bucket"):
        next(bucket.read("0" * 64, 0))


def test_the_commands_copy_an_app_to_a_bucket_and_fetch_it_from_there(source: str, tmp_path: Path) -> None:
    download = {
        "repo": "some/model",
        "revision": "0" * 40,
        "licence": "MIT",
        "licence_url": "https://example.org",
        "folder": "sd",
        "files": {name: {"size": len(content), "sha256": sha256(content)} for name, content in DATA.items()},
    }
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(yaml.safe_dump({"downloads": {"model": download}, "apps": {}}))
    bucket = f"file://{tmp_path}/bucket"
    common = ["model", "--catalog", str(catalog), "--models-dir"]
    mirrored = CliRunner().invoke(
        cli, ["models", "mirror", bucket, *common, str(tmp_path / "here"), "--mirror", source]
    )
    assert (mirrored.exit_code, "3 copied" in mirrored.output) == (0, True), mirrored.output
    node = tmp_path / "node"
    fetched = CliRunner().invoke(
        cli, ["models", "prefetch", *common, str(node), "--bucket", bucket, "--mirror", NOWHERE]
    )
    assert (fetched.exit_code, "3 fetched" in fetched.output) == (0, True), fetched.output
    assert read(node) == DATA
    refused = CliRunner().invoke(cli, ["models", "prefetch", *common, str(node), "--bucket", "ftp://host"])
    assert refused.exit_code == 2
