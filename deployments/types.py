"""The values that the stages exchange. All are frozen; arrays are never modified.

While an application is updated, replicas of two versions of this package call each other. So a new field comes last,
and has a default.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
"""A picture: (height, width, 3) RGB or (height, width, 4) RGBA."""

Alpha = npt.NDArray[np.uint8]
"""How much of each pixel is figure: (height, width), 0 is background, 255 is figure."""

Vector = npt.NDArray[np.float32]

Landmarks = npt.NDArray[np.float32]
"""(5, 2) pixels of the photo: eyes, nose, mouth corners, each pair from the photo's left."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the photo."""

OutputFormat = Literal["png", "webp", "jpeg"]

SamplerName = Literal["euler-trailing", "lcm"]
"""Samplers of models that were distilled to few steps; every model has one of its own besides."""


PHOTO_WARNINGS = ("clipped", "first_frame")
"""`clipped`: the file lost its end, and what was there of it is used. `first_frame`: it has others, too."""

FACE_WARNINGS = ("too_dark", "backlit", "colour_cast", "monochrome", "tilted", "blurred")
"""What a photo does to the face on it; `deployments.face.quality.face_warnings` tells them."""


def _restore(value: Any, state: Sequence[Any]) -> None:
    """Unpickle a value: a field that its sender did not know has its default, one that is not known here is dropped."""
    type(value).__init__(value, *state[: len(fields(value))])


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """A picture of a face, upright, in sRGB: `pixels` is (h, w, 3). `is_generated`: an avatar, no reference photo.

    `warnings` are the codes of what its owner should know about the file, of `PHOTO_WARNINGS`.
    """

    pixels: Pixels
    is_generated: bool = False
    warnings: tuple[str, ...] = ()

    __setstate__ = _restore


@dataclass(frozen=True, slots=True, eq=False)
class FaceEmbedding:
    """One face of a photo: `vector` is (512,), SFace's (128,), and has length 1.

    `landmarks` is (5, 2) where the detector gives them: eyes, nose, mouth corners, each pair from the photo's left.
    `weights` are the SHA-256 of the face model's files, by their names in a receipt. `face_model` is its name in the
    settings, None for that of apps which name no other: vectors of two models cannot be compared. `heads` are JPEGs of
    the upright head, one for each photo, where a model draws from them: they stay in memory, and are never written or
    logged. Of several photos of one person the rest is that of the first, and `doubtful` are those, from 0, that seem
    to show somebody else. `warnings` are the codes of FACE_WARNINGS for each photo. `likeness`, of length 1, is of a
    network that nothing is drawn from, for `face_similarity`; None where the face model has no such network.
    """

    vector: Vector
    box: Box
    score: float
    landmarks: npt.NDArray[np.float32] | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    face_model: str | None = None
    heads: tuple[bytes, ...] = field(default=(), repr=False)
    doubtful: tuple[int, ...] = ()
    warnings: tuple[tuple[str, ...], ...] = ()
    likeness: Vector | None = field(default=None, repr=False)

    __setstate__ = _restore


@dataclass(frozen=True, slots=True)
class FoundFace:
    """One detected face; `sharpness` is that of `deployments.face.quality.sharpness`."""

    box: Box
    score: float
    sharpness: float

    __setstate__ = _restore


@dataclass(frozen=True, slots=True)
class FoundFaces:
    """All faces of a photo, the largest first. That one is embedded, unless `refusal` says why it cannot be.

    `warnings` are codes of FACE_WARNINGS, of the face that is embedded. `uncertain`: there is none, but something that
    may be one.
    """

    faces: tuple[FoundFace, ...]
    min_face_px: int
    refusal: Literal["no_face", "face_too_small"] | None = None
    warnings: tuple[str, ...] = ()
    uncertain: bool = False

    __setstate__ = _restore


@dataclass(frozen=True, slots=True)
class AvatarSpec:
    """Everything that one generated image depends on besides the face, and whose it is: one row of the generator.

    A field with the name of one of the request has its value.
    """

    model: str
    seed: int
    prompt: str
    negative_prompt: str
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    task_id: str
    image_index: int
    submitted_at: float  # unix seconds
    deadline: float  # unix seconds
    tenant: str = ""  # tenants take turns
    alone: bool = False  # shares no step with other rows: suspected of killing its process
    tenant_used_s: float = 0.0  # what its tenant used recently before this stage (`FairShare`)
    ip_adapter_scale: float | None = None  # weight of the face, 0 to 1; None: the model's setting
    lora: str | None = None  # one of the model's `loras`
    previews: bool = False  # somebody wants to see the image become clear
    speed_lora: str | None = None  # a second of the model's `loras`, for fewer steps, worn beside `lora`
    sampler: SamplerName | None = None  # None: the model's own
    start_deadline: float | None = None  # unix seconds; until then a step of its task must have begun
    decoder: str | None = None  # one of the model's `decoders`; None: its VAE

    __setstate__ = _restore


@dataclass(frozen=True, slots=True)
class GenerationMetadata:
    """What an image depends on besides its spec and the photo. `weights` are SHA-256 digests by file name."""

    model: str
    weights: Mapping[str, str]
    sampler: str
    schedule: Mapping[str, Any]  # where it differs from the defaults of diffusers
    adapter_scale: float  # used where the spec has none
    lora_scale: float | None
    precision: str
    device: str
    versions: Mapping[str, str]  # of libraries
    lora_scales: Mapping[str, float] = field(default_factory=dict)  # of those that the image wears, named as in weights

    __setstate__ = _restore


@dataclass(frozen=True, slots=True, eq=False)
class GeneratedImage:
    """Output of the generator: `pixels` is (h, w, 3) at a native size of the model."""

    pixels: Pixels
    runtime_s: float
    startup_s: float  # how long the request waited for this replica to start
    drawn_with: GenerationMetadata | None = None

    __setstate__ = _restore


@dataclass(frozen=True, slots=True)
class ImageProgress:
    """Progress of an unfinished image. `queue_position` is 1 or more until its first step begins, then 0."""

    task_id: str
    image_index: int
    step: int  # steps made
    steps: int
    eta_s: float  # estimated seconds until its last step
    queue_position: int

    __setstate__ = _restore


@dataclass(frozen=True, slots=True)
class ImagePreview:
    """A small picture of an unfinished image after `step` of its `steps`. It is shown, and stored nowhere."""

    task_id: str
    image_index: int
    step: int
    steps: int
    picture: str = field(repr=False)  # a data URL


@dataclass(frozen=True, slots=True)
class C2paAssertion:
    """What the content credentials of an image state about its generation. It holds no personal data."""

    app: str
    model: str
    seed: int
    num_inference_steps: int
    guidance_scale: float
    width: int  # as generated; the file may have another size
    height: int
    sampler: str = ""

    __setstate__ = _restore

    def statement(self) -> dict[str, str | int | float]:
        """The fields by name, as JSON values: the data of the C2PA assertion in the file."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class PostprocessSpec:
    """How a generated image becomes a file; signed with `assertion`. `bg_color` wins over `remove_background`.

    A field with the name of one of the request has its value.
    """

    width: int
    height: int
    remove_background: bool = False
    bg_color: tuple[int, int, int] | None = None
    output_format: OutputFormat = "png"
    assertion: C2paAssertion | None = None

    __setstate__ = _restore

    @property
    def cuts_out(self) -> bool:
        """Whether postprocessing needs an alpha: for a transparent background or a filled one."""
        return self.remove_background or self.bg_color is not None


@dataclass(frozen=True, slots=True)
class Avatar:
    """A finished avatar: the encoded image, its WebP thumbnail, and how long the stages took."""

    data: bytes
    thumbnail: bytes
    output_format: OutputFormat
    startup_s: float
    diffusion_s: float
    finish_s: float
    drawn_with: GenerationMetadata | None = None
    drawn_sha256: str = ""  # of the generated pixels, before resizing and background removal

    __setstate__ = _restore
