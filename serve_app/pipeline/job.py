"""The values of the pipeline: a job, and the drawings of its images."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from deployments.types import Avatar, AvatarSpec, C2paAssertion, PostprocessSpec, SamplerName
from serve_app.schemas.requests import MAX_SEED, EffectiveRequest, rgb
from serve_app.schemas.responses import Attempt
from serve_app.tasks.models import StoredAvatar

MAX_REDRAWS = 2  # of an image whose face similarity is below the requested one
SHARED_ATTEMPTS = 2  # then the image is generated alone, as it may be what kills the replica

STATED = {field.name for field in fields(C2paAssertion)} & {field.name for field in fields(AvatarSpec)}


class Drawing(NamedTuple):
    """One drawing of an image, post-processed but not stored."""

    spec: AvatarSpec
    avatar: Avatar
    face_similarity: float | None

    @property
    def rank(self) -> float:
        """Face similarity for comparing drawings; one without a face is below all others."""
        return -2.0 if self.face_similarity is None else self.face_similarity

    @property
    def attempt(self) -> Attempt:
        """Its seed and face similarity, for answers and records."""
        return Attempt(seed=self.spec.seed, face_similarity=self.face_similarity)


ImageDone = Callable[[int, StoredAvatar], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class AvatarJob:
    """One request in the pipeline. `tenant` is its owner; `done` are the images that are stored already."""

    task_id: str
    tenant: str
    request: EffectiveRequest
    model: str
    native_size: tuple[int, int]
    submitted_at: float  # unix seconds
    done: Mapping[int, StoredAvatar] = field(default_factory=dict)
    tenant_used_s: float = 0.0  # what its tenant used recently in front of the stages
    face_model: str | None = None  # a name of `face.models`; None: `face.model`
    instruction: str = "{prompt}"  # what the model is told
    lora: str | None = None  # of the model's; the one of the request's style
    speed_lora: str | None = None  # likewise; the one of its quality
    sampler: SamplerName | None = None  # None: the model's own
    begun: bool = False  # some of it may have been drawn before
    decoder: str | None = None  # of the model's; None: its VAE

    @property
    def deadline(self) -> float:
        """Unix seconds. The stages enforce it themselves; the caller of the pipeline stops it then."""
        return self.submitted_at + self.request.deadline_s

    @property
    def start_deadline(self) -> float | None:
        """Unix seconds; None: it may begin at any time. The generator enforces it from when it has an image."""
        within_s = self.request.start_deadline_s
        return None if within_s is None or self.begun else self.submitted_at + within_s

    def seed(self, index: int, redraw: int) -> int:
        """Image i has seed + i, its redraws have seeds after those of the batch: all drawings of a task differ."""
        if redraw == 0:
            return self.request.seed + index
        return (self.request.seed + self.request.batch + MAX_REDRAWS * index + redraw - 1) % (MAX_SEED + 1)

    def is_like(self, face_similarity: float | None) -> bool:
        """Whether a face similarity satisfies the request."""
        least = self.request.min_similarity
        return least is None or (face_similarity is not None and face_similarity >= least)

    def avatar_spec(self, index: int, redraw: int = 0) -> AvatarSpec:
        """What the generator gets for a drawing: `redraw` 0 is the first; the size is the app's native one."""
        width, height = self.native_size
        prompt = self.instruction.replace("{prompt}", self.request.prompt)
        of_the_image = {"seed": self.seed(index, redraw), "width": width, "height": height}
        return AvatarSpec(
            **(self._asked_of(AvatarSpec) | of_the_image | {"prompt": prompt}),
            model=self.model,
            lora=self.lora,
            speed_lora=self.speed_lora,
            sampler=self.sampler,
            decoder=self.decoder,
            task_id=self.task_id,
            image_index=index,
            submitted_at=self.submitted_at,
            deadline=self.deadline,
            tenant=self.tenant,
            tenant_used_s=self.tenant_used_s,
            start_deadline=None if redraw else self.start_deadline,
        )

    def postprocess_spec(self, drawn: AvatarSpec) -> PostprocessSpec:
        """What the background remover gets for a drawing: the requested size and format, and its C2PA assertion."""
        request = self.request
        stated = {name: getattr(drawn, name) for name in STATED}
        assertion = C2paAssertion(app=request.app_id, **stated)
        color = rgb(request.bg_color) if request.bg_color else None
        return PostprocessSpec(**(self._asked_of(PostprocessSpec) | {"bg_color": color}), assertion=assertion)

    def _asked_of(self, stage_input: type[AvatarSpec | PostprocessSpec]) -> dict[str, Any]:
        """What the request says of a stage: its fields with the names of those of the stage's input."""
        return self.request.model_dump(include={field.name for field in fields(stage_input)})
