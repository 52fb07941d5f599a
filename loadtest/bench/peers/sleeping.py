"""The service, whole, with a denoiser that sleeps in place of the one that computes.

An application for a Serve config file: everything is the service's own but how the generator comes by its model.
"""

from collections.abc import Sequence

from ray import serve

from deployments.diffusion.deployment import AvatarGenerator, LoadedModel
from deployments.types import Pixels
from loadtest.bench.engine.queues import SleepingDenoiser
from loadtest.bench.peers.painters import CURVE, SIDES, picture
from serve_app.app import graph
from serve_app.settings import Settings


class SleepingModel(SleepingDenoiser):
    """Draws the picture that the peers draw, in the time of the same curve."""

    def decode(self, sample: None, overlapped: bool = False) -> Pixels:
        return picture(SIDES[CURVE.name])

    def step(self, samples: Sequence[None]) -> None:
        super().step(samples)
        self.late_s.clear()  # nobody asks, and a replica lives long


class SleepingGenerator(AvatarGenerator):
    def _load(self, name: str) -> LoadedModel:
        self._latency_model.set_profile(name, CURVE.profile())
        return LoadedModel(SleepingModel(CURVE), checker=None)


def build_app(settings: Settings) -> serve.Application:
    """As `serve_app.app:build_app`."""
    return graph(settings, SleepingGenerator)
