"""The values that the stages exchange. All are frozen; arrays are never written after they were made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
"""A picture: (height, width, 3) RGB or (height, width, 4) RGBA."""

Vector = npt.NDArray[np.float32]

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the photo."""

OutputFormat = Literal["png", "webp", "jpeg"]


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """A picture of a face, upright, in sRGB: `pixels` is (h, w, 3). `drawn`: an avatar, not a reference photo."""

    pixels: Pixels
    drawn: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class FaceEmbedding:
    """One face of a photo: `vector` is (512,) and has length 1, `landmarks` is (5, 2) where the detector gives them.

    `weights` are the SHA-256 of the files that it was read with, by their names in a receipt.
    """

    vector: Vector
    box: Box
    score: float
    landmarks: npt.NDArray[np.float32] | None = None
    weights: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FoundFace:
    """One face that a look at a photo found; `sharpness` is what `deployments.face.quality.sharpness` says."""

    box: Box
    score: float
    sharpness: float


@dataclass(frozen=True, slots=True)
class FoundFaces:
    """All faces of a photo, the largest first, which is the one that is used; `refusal` says why it cannot be."""

    faces: tuple[FoundFace, ...]
    min_face_px: int
    refusal: Literal["no_face", "face_too_small"] | None = None


@dataclass(frozen=True, slots=True)
class AvatarSpec:
    """All that one generated image depends on besides the face, and who waits for it: one row of the generator."""

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
    tenant: str = ""  # whose request it is: tenants take turns
    alone: bool = False  # shares no step with others: processes died under it
    deprioritised: bool = False  # its tenant exceeds its limits: other rows go first, for a while
    adapter_scale: float | None = None  # how much the face counts, 0 to 1; None: as the model is set up


@dataclass(frozen=True, slots=True)
class DrawnWith:
    """What an image depends on besides its spec and the photo. `weights` are the SHA-256 of files, by their names."""

    model: str
    weights: Mapping[str, str]
    sampler: str
    schedule: Mapping[str, Any]  # what differs from the defaults of diffusers
    adapter_scale: float  # where the spec names none
    lora_scale: float | None
    precision: str
    device: str
    versions: Mapping[str, str]  # of libraries


@dataclass(frozen=True, slots=True, eq=False)
class GeneratedImage:
    """What the generator drew: `pixels` is (h, w, 3) at a native size of the model."""

    pixels: Pixels
    runtime_s: float
    startup_s: float  # how long the request waited for this replica to come up
    drawn_with: DrawnWith | None = None


@dataclass(frozen=True, slots=True)
class ImageProgress:
    """How far an unfinished image is. `queue_position` is 0 once its first step has begun, before it 1 or more."""

    task_id: str
    image_index: int
    step: int  # so many are made
    steps: int
    eta_s: float  # seconds until all of them are made, as far as is known now
    queue_position: int


@dataclass(frozen=True, slots=True)
class Origin:
    """What the content credentials of an image say of how it was drawn. Nothing in it is about a person."""

    app: str
    model: str
    seed: int
    num_inference_steps: int
    guidance_scale: float
    width: int  # as drawn; the file may have another size
    height: int
    sampler: str = ""

    def statement(self) -> dict[str, str | int | float]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class FinishSpec:
    """How a generated image becomes a file, signed if it has an `origin`. `bg_color` wins over `remove_background`."""

    width: int
    height: int
    remove_background: bool = False
    bg_color: tuple[int, int, int] | None = None
    output_format: OutputFormat = "png"
    origin: Origin | None = None

    @property
    def cuts_out(self) -> bool:
        return self.remove_background or self.bg_color is not None


@dataclass(frozen=True, slots=True)
class Avatar:
    """A finished avatar: the encoded picture, its WebP thumbnail, and how long the stages took."""

    data: bytes
    thumbnail: bytes
    output_format: OutputFormat
    startup_s: float
    diffusion_s: float
    finish_s: float
    drawn_with: DrawnWith | None = None
    drawn_sha256: str = ""  # of the pixels as they were drawn, before size and background
