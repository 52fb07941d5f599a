"""The generator's replica, without Serve around it."""

import asyncio
import time

import pytest

from deployments.diffusion.deployment import AvatarGenerator, LoadedModel
from loadtest.bench.engine.queues import GENERATOR
from tests.support.fakes import avatar_spec, face


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
