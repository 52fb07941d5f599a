"""The generator's replica, without Serve around it."""

import asyncio
import gc
import logging
import threading
import time
import weakref
from pathlib import Path

import pytest
import torch

from deployments.config import AvatarGeneratorConfig, DiffusionModelConfig
from deployments.diffusion.deployment import AvatarGenerator, LoadedModel
from deployments.diffusion.engine import engine
from deployments.diffusion.model.denoiser import FaceDiffusionModel
from deployments.diffusion.model.receipt import generation_metadata
from deployments.types import GenerationMetadata
from loadtest.bench.engine.queues import GENERATOR
from tests.support.fakes import CountingDenoiser, avatar_spec, face
from tests.support.polling import eventually


def test_the_loading_of_the_models_belongs_to_the_wait_for_a_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    load, loaded_at = AvatarGenerator._load, 0.0

    def noted(generator: AvatarGenerator, name: str) -> LoadedModel:
        nonlocal loaded_at
        loaded = load(generator, name)
        loaded_at = time.time()
        return loaded

    async def scenario() -> None:
        submitted_at = time.time()
        generator = AvatarGenerator.__new__(AvatarGenerator)
        await generator.__init__(GENERATOR)  # type: ignore[misc]  # as Serve does
        spec = avatar_spec(model="embedded", submitted_at=submitted_at, width=128, height=128, num_inference_steps=1)
        image = await generator.generate(spec, face())
        assert image.startup_s >= loaded_at - submitted_at > 0

    monkeypatch.setattr(AvatarGenerator, "_load", noted)
    asyncio.run(scenario())


def test_at_the_start_the_first_size_is_compiled_all_others_and_late_models_while_nothing_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[tuple[str, tuple[int, int], int]] = []  # by which thread
    first_is_compiled, all_of_them = threading.Event(), threading.Event()

    def compile_noted(_model: FaceDiffusionModel, size: tuple[int, int], batch_size: int) -> None:
        compiled.append((threading.current_thread().name.split("_")[0], size, batch_size))
        if len(compiled) == 4:
            first_is_compiled.set()
        if len(compiled) == 8:
            all_of_them.set()

    monkeypatch.setattr(FaceDiffusionModel, "compile", compile_noted)
    monkeypatch.setattr(engine, "IDLE_AFTER_S", 0.01)
    wide, square = (192, 128), (128, 128)
    embedded = GENERATOR.models["embedded"].model_copy(
        update={"compile": True, "compile_sizes": (square, wide), "memory_gb": 1.0}
    )
    config = AvatarGeneratorConfig(models={"first": embedded, "late": embedded}, memory_gb=1.0, max_rows=2)

    async def scenario() -> None:
        generator = AvatarGenerator.__new__(AvatarGenerator)
        await generator.__init__(config)  # type: ignore[misc]  # as Serve does
        at_the_start = compiled[:2]
        assert at_the_start == [("load", square, 2), ("load", square, 4)]
        spec = avatar_spec(model="first", width=128, height=128, num_inference_steps=1)
        await generator.generate(spec, face())
        assert await asyncio.to_thread(first_is_compiled.wait, 30)
        assert compiled[2:] == [("diffusion-engine", wide, 2), ("diffusion-engine", wide, 4)]
        await generator.generate(avatar_spec(model="late", width=128, height=128, num_inference_steps=1), face())
        assert await asyncio.to_thread(all_of_them.wait, 30)
        assert compiled[4:] == [("diffusion-engine", size, rows) for size in (square, wide) for rows in (2, 4)]
        generator._engine.close()

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_a_replica_is_ready_when_its_first_model_is_and_draws_while_others_load(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load, second_may_load = AvatarGenerator._load, threading.Event()

    def held_up(generator: AvatarGenerator, name: str) -> LoadedModel:
        if name == "second":
            assert second_may_load.wait(60)
        if name == "broken":
            raise RuntimeError("its weights are damaged")
        return load(generator, name)

    monkeypatch.setattr(AvatarGenerator, "_load", held_up)
    embedded = GENERATOR.models["embedded"]
    config = AvatarGeneratorConfig(models=dict.fromkeys(("first", "broken", "second"), embedded))

    async def scenario() -> None:
        generator = AvatarGenerator.__new__(AvatarGenerator)
        await generator.__init__(config)  # type: ignore[misc]  # as Serve does
        assert generator.record_routing_stats()["models"] == ["first"]
        assert generator._start.seconds.keys() == {
            "process",
            "import",
            "weights",
            "adapter",
            "lora",
            "load",
            "compile",
            "warm",
        }
        spec = avatar_spec(model="first", width=128, height=128, num_inference_steps=1)
        await generator.generate(spec, face())
        second_may_load.set()
        await generator._loading
        stats = generator.record_routing_stats()
        assert stats["models"] == ["first", "second"]
        assert stats["loads_s"].keys() == {"first", "second"}
        assert stats["row_s"] > 0  # of the image
        generator._engine.close()

    with caplog.at_level(logging.ERROR, "ray.serve"):
        asyncio.run(asyncio.wait_for(scenario(), 120))
    assert caplog.messages == ["model broken could not be loaded"]


@pytest.mark.parametrize("field", ["path", "ip_adapter", "lora"])
def test_missing_weights_of_a_model_that_is_loaded_later_fail_the_start(tmp_path: Path, field: str) -> None:
    embedded = GENERATOR.models["embedded"]
    later = embedded.model_copy(update={field: tmp_path / "nowhere"})
    config = AvatarGeneratorConfig(models={"first": embedded, "later": later})
    generator = AvatarGenerator.__new__(AvatarGenerator)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        asyncio.run(generator.__init__(config))  # type: ignore[misc]


def test_metadata_that_could_not_be_read_once_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []

    def read(name: str, config: DiffusionModelConfig) -> GenerationMetadata:
        reads.append(name)
        if len(reads) == 1:
            raise OSError("the disk is away")
        return generation_metadata(name, config)

    async def scenario() -> None:
        generator = AvatarGenerator.__new__(AvatarGenerator)
        await generator.__init__(GENERATOR)  # type: ignore[misc]  # as Serve does
        spec = avatar_spec(model="embedded", width=128, height=128, num_inference_steps=1)
        with pytest.raises(OSError, match="the disk is away"):
            await generator.generate(spec, face())
        images = [await generator.generate(spec, face()) for _ in range(2)]
        assert [image.drawn_with.model for image in images if image.drawn_with] == ["embedded"] * 2
        assert len(reads) == 2

    monkeypatch.setattr("deployments.diffusion.model.receipt.generation_metadata", read)
    asyncio.run(scenario())


@pytest.mark.parametrize("is_compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_model_that_drew_last_frees_its_memory_before_the_next_is_loaded(
    monkeypatch: pytest.MonkeyPatch, is_compiled: bool
) -> None:
    load, small = AvatarGenerator._load, (128, 128)
    unets: list[weakref.ref[object]] = []
    alive: list[bool] = []

    def load_noted(generator: AvatarGenerator, name: str) -> LoadedModel:
        alive.extend(unet() is not None for unet in unets)
        loaded = load(generator, name)
        assert isinstance(loaded.denoiser, FaceDiffusionModel)
        if is_compiled and not unets:
            loaded.denoiser.compile(small, 2, "eager")
        unets.append(weakref.ref(loaded.denoiser._pipeline.unet))
        return loaded

    monkeypatch.setattr(AvatarGenerator, "_load", load_noted)
    embedded = GENERATOR.models["embedded"].model_copy(update={"memory_gb": 1.0})
    config = AvatarGeneratorConfig(models={"first": embedded, "second": embedded}, memory_gb=1.0)

    async def scenario() -> None:
        generator = AvatarGenerator.__new__(AvatarGenerator)
        await generator.__init__(config)  # type: ignore[misc]  # as Serve does
        for model in ("first", "second"):
            spec = avatar_spec(model=model, width=small[0], height=small[1], num_inference_steps=1)
            await generator.generate(spec, face())
            # The engine's thread has given the image away, and may still be on its way to where it waits for rows.
            await eventually(lambda: asyncio.sleep(0, bool(generator._engine._changed._waiters)))  # type: ignore[attr-defined]
        generator._engine.close()

    gc.disable()  # what the collector happens to do would hide what is still referred to
    try:
        asyncio.run(asyncio.wait_for(scenario(), 120))
    finally:
        gc.enable()
        torch._dynamo.reset()
    assert alive == [False]


def test_a_model_whose_last_caller_left_makes_room_when_its_step_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    denoisers = {name: CountingDenoiser() for name in ("first", "second")}
    monkeypatch.setattr(AvatarGenerator, "_load", lambda _generator, name: LoadedModel(denoisers[name], None))
    embedded = GENERATOR.models["embedded"].model_copy(update={"memory_gb": 1.0})
    config = AvatarGeneratorConfig(models=dict.fromkeys(denoisers, embedded), memory_gb=1.0)
    gate = denoisers["first"].gate
    gate.clear()

    async def scenario() -> None:
        generator = AvatarGenerator.__new__(AvatarGenerator)
        await generator.__init__(config)  # type: ignore[misc]  # as Serve does
        leaving, waiting = (
            asyncio.create_task(generator.generate(avatar_spec(model=name), face())) for name in denoisers
        )
        assert await asyncio.to_thread(denoisers["first"].started.wait, 60)
        leaving.cancel()
        for _ in range(20):  # it has learned of that
            await asyncio.sleep(0)
        assert generator.record_routing_stats()["models"] == ["first"]
        gate.set()
        await waiting
        assert generator.record_routing_stats()["models"] == ["second"]
        assert leaving.cancelled()
        generator._engine.close()

    asyncio.run(asyncio.wait_for(scenario(), 120))
