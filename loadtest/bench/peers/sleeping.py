"""The whole service with a denoiser that sleeps instead of computing.

An application for a Serve config file: only the loading of the generator's model differs from the service.
"""

from collections.abc import Hashable, Sequence

from ray import serve

from deployments.diffusion.deployment import AvatarGenerator, LoadedModel
from deployments.types import AvatarSpec, FaceEmbedding, Pixels
from loadtest.bench.engine.queues import EndedStep, SleepingDenoiser
from loadtest.bench.peers.painters import CURVE, SIDES, picture
from serve_app.app import graph
from serve_app.settings import Settings


class SleepingModel(SleepingDenoiser):
    """Returns the same image as the peers, with the step times of the same curve."""

    def bucket(self, spec: AvatarSpec, face: FaceEmbedding) -> Hashable:
        """Images of one size share steps, as those of a model that computes."""
        return spec.width, spec.height

    def decode(self, sample: str | None, overlapped: bool = False) -> Pixels:
        """The picture that the peers with the same curve send, (512, 512, 3); takes no time."""
        return picture(SIDES[CURVE.name])

    def step(self, samples: Sequence[str | None]) -> EndedStep:
        """Sleeps as `SleepingDenoiser.step`, and forgets by how much it woke too late."""
        self.late_s.clear()  # unused here, and would grow in a long-lived replica
        return super().step(samples)


class SleepingGenerator(AvatarGenerator):
    """The service's generator, with a sleeping model in the place of each configured one; it reads no weights."""

    def _load(self, name: str) -> LoadedModel:
        self._latency_model.set_profile(name, CURVE.profile())
        return LoadedModel(SleepingModel(CURVE), checker=None)


def build_app(settings: Settings) -> serve.Application:
    """As `serve_app.app:build_app`."""
    return graph(settings, SleepingGenerator)
