"""Compiled kernels on their way through a bucket."""

import io
import logging
import os
import tarfile
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from deployments.diffusion.compile_cache import VARIABLE, cache_key
from deployments.diffusion.model.denoiser import FaceDiffusionModel
from serve_app.catalog.bucket import ModelBucket
from serve_app.catalog.kernels import fetch_kernels, upload_kernels
from serve_app.cli.root import cli
from serve_app.launcher import CONFIG


def bucket_of(folder: Path) -> ModelBucket:
    return ModelBucket.open(f"file://{folder}/bucket")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_every_folder_comes_as_it_was_and_what_is_there_stays(tmp_path: Path) -> None:
    here, node = tmp_path / "here", tmp_path / "node"
    write(here / "torch-1" / "fx" / "a.py", "a")
    write(here / "torch-2" / "b.so", "b")
    write(node / "torch-2" / "b.so", "its own")
    assert upload_kernels(here, bucket_of(tmp_path)) == ["torch-1", "torch-2"]
    assert fetch_kernels(node, bucket_of(tmp_path)) == ["torch-1"]
    assert (node / "torch-1" / "fx" / "a.py").read_text() == "a"
    assert (node / "torch-2" / "b.so").read_text() == "its own"
    assert sorted(path.name for path in node.iterdir()) == ["torch-1", "torch-2"]
    assert fetch_kernels(node, bucket_of(tmp_path)) == []


def test_a_bucket_without_kernels_brings_none(tmp_path: Path) -> None:
    assert fetch_kernels(tmp_path / "node", bucket_of(tmp_path)) == []


def archive(name: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as opened:
        member = tarfile.TarInfo(name)
        member.size = 100_000
        opened.addfile(member, io.BytesIO(os.urandom(member.size)))
    return packed.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"no archive", archive("fine")[:50_000], archive("../../escaped"), b""],
    ids=["other", "cut", "out", "empty"],
)
def test_an_archive_that_is_damaged_or_leaves_its_folder_is_left_out_and_the_log_says_so(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    packed = tmp_path / "bucket" / "compiled" / "torch-1.tar.gz"
    packed.parent.mkdir(parents=True)
    packed.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert fetch_kernels(tmp_path / "node", bucket_of(tmp_path)) == []
    assert "the compiled kernels torch-1 are not taken from the bucket" in caplog.text
    assert list((tmp_path / "node").iterdir()) == []
    assert not (tmp_path / "escaped").exists()


def test_what_one_machine_compiled_a_prefetch_of_an_app_brings_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "")  # so that it is put back

    def compiled(_model: FaceDiffusionModel, _size: tuple[int, int], batch_size: int) -> None:
        write(Path(os.environ[VARIABLE]) / f"kernel-{batch_size}", "")

    monkeypatch.setattr(FaceDiffusionModel, "compile", compiled)
    config = yaml.safe_load(CONFIG.read_text())
    generator = config["applications"][0]["args"]["generator"]
    generator |= {"max_rows": 1, "compile_cache": str(tmp_path / "here")}
    generator["models"]["embedded"]["compile"] = True
    write(tmp_path / "config.yaml", yaml.safe_dump(config))
    bucket = f"file://{tmp_path}/bucket"
    run = CliRunner()
    made = run.invoke(cli, ["models", "compile", "--config", str(tmp_path / "config.yaml"), "--bucket", bucket])
    assert (made.exit_code, f"copied to the bucket: {cache_key('cpu')}" in made.output.replace("\n", "")) == (0, True)

    common = ["--catalog", "embedded", "--models-dir", str(tmp_path / "node"), "--bucket", bucket]
    brought = run.invoke(cli, ["models", "prefetch", "face-avatar", *common])
    assert brought.exit_code == 0, brought.output
    assert (tmp_path / "node" / "compiled" / cache_key("cpu") / "kernel-2").exists()
