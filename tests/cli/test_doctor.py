"""What `face-avatar doctor` finds, of real files, sockets, brokers and certificates."""

import asyncio
import hashlib
import http.server
import io
import json
import os
import shutil
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from ray.serve.schema import ServeDeploySchema
from rich.console import Console
from typer.testing import CliRunner

from deployments.config import BackgroundRemoverConfig, LoraConfig, MattingModelConfig
from deployments.diffusion.model_cache import ModelCache
from serve_app.backends.object_store import FOLDER, StoreSettings
from serve_app.backends.redis import BrokerSettings, own_password, own_url
from serve_app.backends.secrets import ensure_token, signing_key
from serve_app.catalog.catalog import CATALOGUES, Catalog
from serve_app.catalog.pins import Pin, Pins
from serve_app.cli.doctor.doctor import examine, lines
from serve_app.cli.doctor.files import (
    CARD,
    check_card,
    check_catalog,
    check_data_dir,
    check_models,
    check_secrets,
    loaded_generator,
    model_paths,
)
from serve_app.cli.doctor.finding import Finding, State, fail, ok
from serve_app.cli.doctor.gpu import (
    CudaVersions,
    Gpu,
    GpuNeed,
    check_gpu,
    gpu_needs,
    judge_cuda,
    judge_memory,
    judge_models,
    wants_gpu,
)
from serve_app.cli.doctor.machine import (
    check_disk,
    check_memory,
    check_port,
    check_processors,
    check_versions,
)
from serve_app.cli.doctor.sandbox import check_sandbox, judge_sandbox
from serve_app.cli.doctor.services import (
    Endpoint,
    check_broker,
    check_certificate,
    check_own_server,
    check_store,
    judge_broker,
    judge_clock,
    judge_tokens,
    tls_endpoints,
)
from serve_app.cli.root import cli
from serve_app.launcher import CONFIG, ServiceOptions, free_port, read_config
from serve_app.photos.decode import PhotoSettings
from serve_app.sandbox.process import SandboxSettings
from serve_app.settings import Settings
from tests.support.object_stores import ACCESS_KEY, BUCKET, REGION, S3, SECRET_KEY, Gate, served

PRODUCTION = CONFIG.with_name("production.yaml")
GOOD_BROKER = {
    "server_name": "valkey",
    "valkey_version": "8.1.0",
    "redis_version": "7.2.4",
    "redis_mode": "standalone",
    "role": "master",
    "aof_enabled": 1,
    "maxmemory": 1000,
    "used_memory": 10,
    "maxmemory_policy": "noeviction",
}


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def states(*findings: Finding) -> list[State]:
    return [finding.state for finding in findings]


def broker_of(settings: Settings, *, many_nodes: bool = False) -> list[Finding]:
    return asyncio.run(check_broker(settings, many_nodes=many_nodes))


def store_of(settings: Settings, *, many_nodes: bool = False) -> Finding:
    return asyncio.run(check_store(settings, many_nodes=many_nodes))


def test_the_packages_of_this_environment_are_those_that_were_asked_for() -> None:
    assert check_versions().state == "ok"


def test_a_package_that_is_missing_or_of_another_version_is_named() -> None:
    found = check_versions(["numpy<1", "never-published>=1", "absent; sys_platform == 'none'", "pillow"])
    assert found.state == "fail"
    assert "numpy is " in found.reason
    assert "never-published is not installed" in found.reason
    assert "absent" not in found.reason
    assert "pillow" not in found.reason


def test_one_processor_is_few_for_one_machine_but_not_for_one_node_of_many() -> None:
    one_machine, many = (read_config(ServiceOptions(config))[0] for config in (CONFIG, PRODUCTION))
    assert states(check_processors(one_machine, 1), check_processors(one_machine, 2)) == ["warn", "ok"]
    assert check_processors(many, 1).state == "ok"


def test_little_memory_is_warned_of() -> None:
    assert states(check_memory(2), check_memory(16)) == ["warn", "ok"]


@pytest.mark.parametrize(("free_gb", "state"), [(0.1, "fail"), (2, "warn"), (50, "ok")])
def test_the_disk_of_a_folder_that_is_not_there_yet_is_that_of_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_gb: float, state: State
) -> None:
    seen: list[Path] = []

    def usage(path: Path) -> Usage:
        seen.append(path)
        return Usage(0, 0, round(free_gb * 1e9))

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert check_disk(tmp_path / "not" / "yet").state == state
    assert seen == [tmp_path]


def test_a_decoder_that_cannot_work_is_a_failure_and_one_that_works_says_whether_seccomp_is_there() -> None:
    found = check_sandbox(PhotoSettings(), SandboxSettings())
    if sys.platform == "linux":
        assert (found.state, "seccomp" in found.reason) == ("ok" if find_library("seccomp") else "warn", True)
        assert check_sandbox(PhotoSettings(), SandboxSettings(max_memory_bytes=1)).state == "fail"
    assert states(judge_sandbox("linux", restricted=False), judge_sandbox("darwin", restricted=False)) == ["warn", "ok"]


def read(config: Path) -> tuple[ServeDeploySchema, Settings]:
    return read_config(ServiceOptions(config))


def test_a_gpu_is_asked_for_by_the_production_config_only() -> None:
    assert [wants_gpu(*read(config)) for config in (CONFIG, PRODUCTION)] == [False, True]
    assert states(*check_gpu(*read(CONFIG))) == ["ok"]


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")
def test_a_machine_without_a_gpu_may_be_a_node_of_another_kind() -> None:
    assert states(*check_gpu(*read(PRODUCTION))) == ["warn"]


L40S = Gpu("NVIDIA L40S", 46068 * 2**20 / 1e9, "580.65.06")
L4 = Gpu("NVIDIA L4", 23034 * 2**20 / 1e9, "580.65.06")
CUDA_13 = CudaVersions("13.0", "13.0", True, "13.0", True)


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({}, ["NVIDIA L40S, 48.3 GB, driver 580.65.06, CUDA 13.0"]),
        ({"driver": "13.2", "onnxruntime": "13.1"}, ["NVIDIA L40S, 48.3 GB, driver 580.65.06, CUDA 13.0"]),
        (
            {"driver": "12.8", "torch_works": False},
            ["the driver knows CUDA 12.8, and torch is built for 13.0"],
        ),
        ({"driver": None, "torch_works": False}, ["the driver's libcuda.so.1 is not there"]),
        ({"onnxruntime": "12.8"}, ["onnxruntime is built for CUDA 12.8, torch for 13.0"]),
        ({"torch_works": False}, ["torch cannot use it"]),
        (
            {"torch": None, "torch_works": False, "onnxruntime": None, "onnxruntime_works": False},
            ["this torch is built without CUDA", "onnxruntime has no CUDAExecutionProvider"],
        ),
    ],
)
def test_driver_and_libraries_want_the_same_cuda(changes: dict[str, Any], reasons: list[str]) -> None:
    findings = judge_cuda([L40S], replace(CUDA_13, **changes))
    assert [finding.reason for finding in findings] == reasons
    assert {finding.state for finding in findings} == ({"ok"} if "CUDA 13.0" in reasons[0][-9:] else {"fail"})


def test_the_stages_of_production_fit_the_gpu_of_its_nodes_and_no_smaller_one() -> None:
    needs = gpu_needs(*read(PRODUCTION))
    (fits,) = judge_memory([L40S, L40S], needs)
    assert fits == ok("GPU memory", "GB of a replica: FaceEmbedder 2.7 of 2.9, AvatarGenerator 41.6 of 42.5")
    too_large = judge_memory([L40S, L4], needs)
    assert states(*too_large) == ["fail", "fail"]
    assert too_large[1].reason == "AvatarGenerator reserves 0.88 of 24.2 GB, 21.3 GB, and may take 41.6 GB"


@pytest.mark.parametrize(
    ("need", "state"),
    [
        (GpuNeed("AvatarGenerator", 1, 48), "ok"),
        (GpuNeed("AvatarGenerator", 2, 48), "ok"),  # a model is on one of them
        (GpuNeed("AvatarGenerator", 0, 20), "fail"),
        (GpuNeed("BackgroundRemover", 0.2, None), "warn"),
    ],
)
def test_what_reserves_nothing_or_is_not_bounded_is_named(need: GpuNeed, state: State) -> None:
    (finding,) = judge_memory([L40S], [need])
    assert (finding.state, need.deployment in finding.reason) == (state, True)


def test_what_computes_on_a_gpu_is_counted_as_its_settings_bound_it() -> None:
    schema, settings = read(PRODUCTION)
    free = settings.model_copy(
        update={
            "generator": settings.generator.model_copy(update={"memory_gb": None}),
            "face": settings.face.model_copy(
                update={"model": settings.face.model.model_copy(update={"gpu_memory_mb": None})}
            ),
            "background": settings.background.model_copy(
                update={"model": settings.background.model.model_copy(update={"providers": ("CUDAExecutionProvider",)})}
            ),
        }
    )
    needs = {need.deployment: (need.share, need.memory_gb) for need in gpu_needs(schema, free)}
    assert needs == {
        "FaceEmbedder": (0.06, None),
        "AvatarGenerator": (0.88, pytest.approx(40.2)),  # both models of the apps, none of the others
        "BackgroundRemover": (0, None),
    }
    assert gpu_needs(*read(CONFIG)) == []


def test_loras_count_beside_the_model_that_has_them_in_memory(tmp_path: Path) -> None:
    schema, settings = read(PRODUCTION)
    klein = next(iter(settings.generator.models))
    loras = {name: LoraConfig(file=tmp_path / f"{name}.safetensors") for name in ("one", "two")}
    for lora in loras.values():
        with lora.file.open("wb") as sparse:
            sparse.truncate(394_000_000)
    loras["one by another name"] = loras["one"]
    generator = settings.generator.model_copy(
        update={
            "models": settings.generator.models
            | {klein: settings.generator.models[klein].model_copy(update={"loras": loras})}
        }
    )
    wearing = settings.model_copy(update={"generator": generator.model_copy(update={"memory_gb": None})})
    plain = settings.model_copy(update={"generator": settings.generator.model_copy(update={"memory_gb": None})})
    (more,), (fewer,) = (
        [need.memory_gb for need in gpu_needs(schema, each) if need.deployment == "AvatarGenerator"]
        for each in (wearing, plain)
    )
    assert more == pytest.approx(fewer + 0.788)
    tight = settings.model_copy(update={"generator": generator.model_copy(update={"memory_gb": 24.5})})
    (finding,) = judge_models(tight)
    assert (finding.state, finding.reason) == (
        "fail", f"model {klein} takes 24.8 GB with its LoRAs, more than generator.memory_gb, 24.5",
    )  # fmt: skip
    assert judge_models(plain) == judge_models(settings) == []


def test_the_commercial_models_stay_in_memory_together_on_the_gpu_of_the_cluster(tmp_path: Path) -> None:
    schema, settings = read(PRODUCTION)
    settings = settings.model_copy(update={"models_dir": tmp_path})
    catalog = Catalog.read(settings.catalogs)
    for file in catalog.files(catalog.apps):
        (tmp_path / file.path).parent.mkdir(parents=True, exist_ok=True)
        with (tmp_path / file.path).open("wb") as sparse:
            sparse.truncate(file.size or 0)
    generator = loaded_generator(settings).located(tmp_path)
    sizes = {name: model.memory() for name, model in generator.models.items()}
    assert sizes["sdxl-plus-face"].weights_gb == pytest.approx(10.56, abs=0.01)  # with both of its LoRAs
    assert ModelCache(str, sizes, generator.memory_gb).fitting() == ["flux2-klein", "sdxl-plus-face"]
    (finding,) = judge_memory([L40S], gpu_needs(schema, settings))
    assert finding.state == "ok"


def test_each_face_model_of_the_apps_counts_and_those_that_no_app_names_do_not(tmp_path: Path) -> None:
    schema, settings = read(PRODUCTION)
    assert list(settings.face.models) == ["buffalo_l"]
    app = yaml.safe_load((CATALOGUES / "commercial.yaml").read_text())["apps"]["face-avatar"]
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"apps": {"bound": {**app, "face_model": "buffalo_l"}}}))
    named = settings.model_copy(update={"catalogs": ("commercial", str(own))})
    alone, both = (
        next(need.memory_gb for need in gpu_needs(schema, each) if need.deployment == "FaceEmbedder")
        for each in (settings, named)
    )
    assert alone is not None
    assert both == pytest.approx(alone + 2 * 1024 * 2**20 / 1e9)  # two more sessions, one CUDA
    models = settings.model_copy(update={"models_dir": tmp_path})
    paths = [set(model_paths(each)) for each in (models, models.model_copy(update={"catalogs": named.catalogs}))]
    assert paths[1] - paths[0] == {tmp_path / "insightface" / "buffalo_l"}


def test_a_face_model_whose_vectors_the_generator_does_not_take_is_a_failure() -> None:
    sface = {"kind": "yunet", "detector": "d.onnx", "recogniser": {"kind": "sface", "file": "s.onnx"}}
    found = check_catalog(Settings.model_validate({"face": {"model": sface}}))
    assert found.state == "fail"
    assert found.reason == "app face-avatar: its face model gives vectors of 128 numbers, and embedded takes 512"
    auraface = {**sface, "recogniser": {"kind": "arcface", "file": "g.onnx"}}
    assert check_catalog(Settings.model_validate({"face": {"model": auraface}})).state == "ok"


def test_an_app_whose_face_model_is_not_in_the_settings_is_a_failure(tmp_path: Path) -> None:
    app = yaml.safe_load((CATALOGUES / "embedded.yaml").read_text())["apps"]["face-avatar"]
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"apps": {"open": {**app, "face_model": "auraface"}}}))
    found = check_catalog(Settings(catalogs=(str(own),)))
    assert (found.state, "no model 'auraface'" in found.reason) == ("fail", True)


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_a_driver_that_hangs_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr("serve_app.cli.doctor.gpu.ASK_TIMEOUT_S", 0.2)
    found = [finding for finding in examine(*read(PRODUCTION), {}) if finding.check == "GPU"]
    assert [(finding.state, finding.reason) for finding in found] == [
        ("fail", "`nvidia-smi` does not answer within 0.2 s: the driver hangs")
    ]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")
def test_a_driver_without_libraries_for_it_is_found_by_asking_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi(tmp_path, monkeypatch, "echo '81920, 580.1, Some GPU, or another'")
    reasons = [finding.reason for finding in check_gpu(*read(PRODUCTION))]
    assert {"this torch is built without CUDA", "onnxruntime has no CUDAExecutionProvider"} <= set(reasons)


@contextmanager
def answering(body: bytes) -> Iterator[int]:
    """A web server that says the same to everything."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: Any) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_a_port_is_free_or_ours_or_somebody_elses() -> None:
    assert check_port("127.0.0.1", free_port()).state == "ok"
    with answering(json.dumps({"output": {"healthy": True}}).encode()) as port:
        assert "this service" in check_port("127.0.0.1", port).reason
    for foreign in (b"<html>", b'{"output": []}'):
        with answering(foreign) as port:
            assert check_port("127.0.0.1", port).state == "fail"


def test_a_catalogue_that_does_not_fit_the_models_is_a_failure() -> None:
    assert check_catalog(Settings()).state == "ok"
    assert check_catalog(Settings(catalogs=("absent",))).state == "fail"
    assert check_catalog(Settings(catalogs=("commercial",))).state == "fail"


def test_the_weights_of_the_package_are_those_of_their_card() -> None:
    assert check_card(CARD).state == "ok"
    assert states(*check_models(Settings(), runs_them=True)) == ["ok", "ok"]


def test_weights_that_changed_or_are_gone_are_named(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("no table")
    assert check_card(card).state == "fail"
    lines = [f"| `{name}` | 1 | `{'0' * 64}` |" for name in ("changed.onnx", "gone.onnx")]
    card.write_text("\n".join(lines))
    (tmp_path / "changed.onnx").write_bytes(b"x")
    assert "changed.onnx, gone.onnx" in check_card(card).reason


def test_models_that_are_missing_are_a_failure_where_they_are_run(tmp_path: Path) -> None:
    _, settings = read_config(ServiceOptions(PRODUCTION))
    settings = settings.model_copy(update={"models_dir": tmp_path})
    (found,) = check_models(settings, runs_them=True)
    assert found.state == "fail"
    assert str(tmp_path / "auraface") in found.reason
    assert f"prefetch face-avatar face-avatar-sdxl --catalog commercial --models-dir {tmp_path}" in found.remedy
    assert states(*check_models(settings, runs_them=False)) == ["warn"]


def test_a_download_that_is_not_whole_counts_as_missing(tmp_path: Path) -> None:
    catalogue = tmp_path / "own.yaml"
    app = yaml.safe_load((CONFIG.parent.parent / "catalog" / "embedded.yaml").read_text())["apps"]["face-avatar"]
    download = {
        "url": "https://example.org/{revision}",
        "revision": "1",
        "licence": "MIT",
        "licence_url": "https://example.org/licence",
        "folder": "own",
        "files": {"model.onnx": {"size": 3}},
    }
    catalogue.write_text(json.dumps({"apps": {"own": {**app, "downloads": ["own"]}}, "downloads": {"own": download}}))
    settings = Settings(catalogs=(str(catalogue),), models_dir=tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "model.onnx").write_bytes(b"12")
    assert check_models(settings, runs_them=True)[-1].state == "fail"
    (tmp_path / "own" / "model.onnx").write_bytes(b"123")
    assert check_models(settings, runs_them=True)[-1].state == "ok"

    loading = MattingModelConfig(model_path=Path("models:own/model.onnx"))
    settings = settings.model_copy(update={"background": BackgroundRemoverConfig(model=loading)})
    found = check_models(settings, runs_them=True)[-1]
    assert (found.state, "prefetch --pin" in found.reason) == ("fail", True)  # nobody published its SHA-256
    (file,) = Catalog.read(settings.catalogs).files(["own"])
    Pins(tmp_path).keep(file, Pin(sha256=hashlib.sha256(b"123").hexdigest(), size=3))
    assert check_models(settings, runs_them=True)[-1].state == "ok"


def test_a_data_directory_is_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    assert check_data_dir(folder).state == "ok"
    folder.mkdir()
    for mode, state in ((0o700, "ok"), (0o755, "warn"), (0o770, "fail"), (0o777, "fail")):
        folder.chmod(mode)
        assert check_data_dir(folder).state == state, oct(mode)
    folder.chmod(0o755)
    (folder / "anothers").touch()
    assert check_data_dir(folder).state == "fail"
    folder.chmod(0o700)
    assert check_data_dir(folder).state == "ok"
    (tmp_path / "file").touch()
    assert check_data_dir(tmp_path / "file").state == "fail"


def test_secrets_are_for_their_owner_alone_and_are_never_shown(tmp_path: Path) -> None:
    assert states(*check_secrets(tmp_path)) == ["ok"]
    ensure_token(tmp_path)
    secrets = [(tmp_path / "token").read_text().strip(), signing_key(tmp_path).hex(), own_password(tmp_path)]
    assert states(*check_secrets(tmp_path)) == ["ok"]
    (tmp_path / "signing.key").chmod(0o640)
    (tmp_path / "token").write_text("another\n")
    (tmp_path / "broker.password").write_text("\n")
    found = check_secrets(tmp_path)
    assert sorted(states(*found)) == ["fail", "fail", "warn"]
    assert not any(secret in str(found) for secret in [*secrets, "another"])


def test_our_own_broker_is_found_whether_it_runs_or_not(valkey: Path, tmp_path: Path) -> None:
    (idle,) = broker_of(Settings(data_dir=tmp_path))
    assert idle.state == "ok"
    assert "starts with the service" in idle.reason
    (running,) = broker_of(Settings(data_dir=valkey))
    assert running.state == "ok"
    assert "append-only file on, noeviction" in running.reason
    assert check_own_server(tmp_path / "absent").state == "fail"


def test_a_broker_by_its_url_is_asked_for_its_clock_and_tokens_too(valkey: Path, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, broker=BrokerSettings(url=own_url(valkey)))  # type: ignore[arg-type]
    found = broker_of(settings, many_nodes=True)
    assert [(finding.check, finding.state) for finding in found] == [
        ("broker", "ok"),
        ("clock", "ok"),
        ("tokens", "warn"),
    ]


def test_a_broker_that_refuses_or_is_not_there_is_a_failure_that_tells_no_password(
    valkey: Path, tmp_path: Path
) -> None:
    nowhere = f"redis://:hunter2@127.0.0.1:{free_port()}"
    for url in (nowhere, own_url(valkey).replace(own_password(valkey), "hunter2")):
        settings = Settings(data_dir=tmp_path, broker=BrokerSettings(url=url))  # type: ignore[arg-type]
        (found,) = broker_of(settings)
        assert found.state == "fail"
        assert "hunter2" not in str(found)


def test_many_nodes_need_a_broker_and_a_store_that_all_reach() -> None:
    assert states(*broker_of(Settings(), many_nodes=True), store_of(Settings(), many_nodes=True)) == ["fail", "fail"]


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "ok"),
        ({"valkey_version": "7.1.9"}, "fail"),
        ({"server_name": "redis", "redis_version": "6.2.14"}, "fail"),
        ({"server_name": "redis", "redis_version": "7.0.0"}, "ok"),
        ({"redis_mode": "cluster"}, "fail"),
        ({"role": "slave"}, "fail"),
        ({"aof_enabled": 0}, "warn"),
        ({"maxmemory_policy": "allkeys-lru"}, "fail"),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": 0}, "warn"),
        ({"maxmemory": 0}, "warn"),
        ({"used_memory": 900}, "warn"),
    ],
)
def test_a_broker_is_judged_by_what_would_lose_tasks(changes: dict[str, Any], state: State) -> None:
    assert states(*judge_broker(GOOD_BROKER | changes)) == [state]


def test_clocks_that_differ_by_half_a_lease_are_a_failure() -> None:
    assert states(*map(judge_clock, (0.1, -2, 2, -6))) == ["ok", "warn", "warn", "fail"]
    assert "6.00 s before" in judge_clock(-6).reason


def test_nobody_may_ask_without_a_token() -> None:
    assert states(judge_tokens(0), judge_tokens(2)) == ["warn", "ok"]


def test_a_store_is_written_read_and_left_as_it_was(tmp_path: Path) -> None:
    assert "first start" in store_of(Settings(data_dir=tmp_path / "absent")).reason
    assert not (tmp_path / "absent").exists()
    assert store_of(Settings(data_dir=tmp_path)).state == "ok"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_store_that_cannot_be_written_is_a_failure_that_tells_no_key(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    assert store_of(Settings(data_dir=tmp_path)).state == "fail"
    options = {
        "endpoint": f"http://127.0.0.1:{free_port()}",
        "region": "us-east-1",
        "access_key_id": "hunter1",
        "secret_access_key": "hunter2",
    }
    store = StoreSettings(url="s3://bucket/results", options=options, retries=0, timeout_s=2)  # type: ignore[arg-type]
    found = store_of(Settings(data_dir=tmp_path, store=store), many_nodes=True)
    assert found.state == "fail"
    assert "hunter" not in str(found)


def test_an_object_store_is_left_as_it_was_too(tmp_path: Path) -> None:
    gate = Gate(DomainDispatcherApplication(create_backend_app))
    with served(gate) as endpoint:
        bucket = S3(endpoint, gate)
        options = {
            "endpoint": endpoint,
            "region": REGION,
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
        }
        store = StoreSettings(url=f"s3://{BUCKET}/results", options=options)  # type: ignore[arg-type]
        found = store_of(Settings(data_dir=tmp_path, store=store), many_nodes=True)
        asked, left = [request.partition(" ")[0] for request in gate.requests], bucket.keys()
        bucket.close()
    assert found == Finding("store", "ok", f"s3://{BUCKET}/results")
    assert asked == ["PUT", "GET", "POST"]  # as S3 deletes several at once
    assert left == []


@contextmanager
def tls_server(folder: Path, valid_for: timedelta) -> Iterator[Endpoint]:
    """A server on loopback with a certificate of its own making, which `authorities` of the endpoint trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=90))
        .not_valid_after(now + valid_for)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "certificate.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / "key.pem").write_bytes(private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, folder / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_greet_one, args=(server, context))
        thread.start()
        try:
            yield Endpoint("broker", "localhost", server.getsockname()[1], str(pem))
        finally:
            thread.join()


def _greet_one(server: socket.socket, context: ssl.SSLContext) -> None:
    client, _ = server.accept()
    with client:
        try:
            context.wrap_socket(client, server_side=True).close()
        except OSError:
            return  # who does not trust the certificate breaks off


@pytest.mark.parametrize(("days", "state"), [(90, "ok"), (5, "warn"), (-1, "fail")])
def test_a_certificate_is_good_ends_soon_or_has_ended(tmp_path: Path, days: int, state: State) -> None:
    with tls_server(tmp_path, timedelta(days=days)) as endpoint:
        found = check_certificate(endpoint)
    assert found.state == state
    assert found.check == "certificate of broker"


def test_a_certificate_that_nobody_vouches_for_and_a_port_without_tls_are_failures(tmp_path: Path) -> None:
    with tls_server(tmp_path, timedelta(days=90)) as endpoint:
        untrusted = check_certificate(endpoint._replace(authorities=None))
    with answering(b"plain") as port:
        plain = check_certificate(Endpoint("store", "localhost", port))
    assert "self-signed" in untrusted.reason
    assert states(untrusted, plain) == ["fail", "fail"]


def test_certificates_are_those_of_the_settings_and_of_the_stores_environment(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path,
        public_url="https://avatars.example.org",
        broker={"url": "rediss://:hunter2@broker.example.org:6380/0?ssl_ca_certs=/ca.pem"},  # type: ignore[arg-type]
        store={"url": "s3://bucket", "options": {"endpoint": "http://inside:9000"}},  # type: ignore[arg-type]
    )
    environment = {"AWS_ENDPOINT_URL_S3": "https://store.example.org", "UNRELATED_URL": "https://no.example.org"}
    assert list(tls_endpoints(settings, environment)) == [
        Endpoint("broker", "broker.example.org", 6380, "/ca.pem"),
        Endpoint("store", "store.example.org", 443),
        Endpoint("public_url", "avatars.example.org", 443),
    ]
    assert list(tls_endpoints(Settings(data_dir=tmp_path), {})) == []


def test_a_line_tells_the_finding_and_the_next_what_to_do_unfolded_and_to_the_letter() -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=20, soft_wrap=True, highlight=False)
    for line in lines([fail("port", "taken [by 1]", f"Choose another {'x' * 40}."), ok("broker", "here")]):
        console.print(line)
    assert shown.getvalue().splitlines() == [
        "fail  port    taken [by 1]",
        f"              -> Choose another {'x' * 40}.",
        "ok    broker  here",
    ]


@pytest.fixture
def doctor(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs the command on a config with a free port; gives its exit code and what it printed."""

    def run(base: Path, **args: Any) -> tuple[int, str]:
        config = yaml.safe_load(base.read_text())
        config["http_options"]["port"] = free_port()
        config["applications"][0]["args"] |= {"data_dir": str(tmp_path / "data"), **args}
        path = tmp_path / "config.yaml"
        path.write_text(json.dumps(config))
        answer = CliRunner().invoke(cli, ["doctor", "--config", str(path)])
        return answer.exit_code, answer.output

    return run


def test_the_doctor_is_content_with_the_embedded_config_and_leaves_nothing_behind(
    doctor: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, shown = doctor(CONFIG)
    assert code == 0, shown
    assert "weights" in shown
    assert not (tmp_path / "data").exists()


def test_the_doctor_says_what_a_cluster_lacks_and_exits_with_1(doctor: Callable[..., tuple[int, str]]) -> None:
    code, shown = doctor(PRODUCTION)
    assert code == 1
    assert "FACE_AVATAR_BROKER__URL" in shown
    assert "FACE_AVATAR_STORE__URL" in shown
