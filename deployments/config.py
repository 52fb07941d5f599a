"""Settings of the stages. Imports little: the graph is built in processes that never load a model library.

A model path that starts with `embedded:` names a file of this package, one that starts with `models:` a file under the
folder of downloaded models. Both are resolved where the model is loaded, so the same settings serve every node.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from deployments.model_memory import ModelMemory

WEIGHTS = Path(__file__).parent / "embedded" / "weights"
EMBEDDED = "embedded:"
MODELS = "models:"
CPU = ("CPUExecutionProvider",)
FACE_VECTOR = 512  # numbers, of all face models but SFace, and of FaceID adapters
SFACE_VECTOR = 128
CompileScope = Literal["unet", "blocks"]
Share = Annotated[float, Field(ge=0, le=1)]
Similarity = Annotated[float, Field(ge=-1, le=1)]  # cosine
SAME_FACE = 0.2  # below it are different people, says InsightFace's demo of buffalo_l (web-demos/src_recognition)
SAME_TRAITS = 0.75  # below it are none of 80 pairs of one drawn person, and 79% of those of two


class Config(BaseModel):
    """The base of all settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def located(self, models_dir: Path) -> Self:
        """The same, with every `models:NAME` as the path NAME under `models_dir`."""
        return type(self).model_validate(_located(self.model_dump(), models_dir))

    def paths(self) -> Iterator[Path]:
        """The files and folders that it names, `embedded:` ones as they are."""
        yield from _paths(self.model_dump())


def _located(value: Any, models_dir: Path) -> Any:
    if isinstance(value, dict):
        return {key: _located(item, models_dir) for key, item in value.items()}
    if isinstance(value, Path) and str(value).startswith(MODELS):
        return models_dir / str(value).removeprefix(MODELS)
    return value


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    for item in value.values() if isinstance(value, dict) else ():
        yield from _paths(item)


def model_path(path: Path) -> Path:
    """The file or folder that a model path names on this machine."""
    name = str(path)
    return WEIGHTS / name.removeprefix(EMBEDDED) if name.startswith(EMBEDDED) else path.expanduser()


class CascadeFaceModelConfig(Config):
    """A search for faces, and an ONNX encoder of upright ones.

    `providers` of encoder and `likeness` by their onnxruntime names; the first one must be available.
    """

    vector_length: ClassVar[int] = FACE_VECTOR
    tells_identity: ClassVar[bool] = False  # it reads traits, in which photos of one person may differ

    kind: Literal["cascade"] = "cascade"
    encoder: Path = Path("embedded:face/encoder.onnx")
    finder: Path = Path("embedded:face/finder.onnx")  # proposes faces at any angle, beside the cascade
    verifier: Path = Path("embedded:face/verifier.onnx")  # looks again at each proposal, turned level
    likeness: Path | None = Path("embedded:face/likeness.onnx")
    """For `face_similarity`: a network of the encoder's input that no generator draws from. None: the encoder's own."""
    threads: int = Field(1, ge=1)
    min_face_px: int = Field(48, ge=1)  # pixels of the photo
    avatar_face: tuple[Share, Share, Share, Share] | None = None
    """Where a square avatar's face always is: left, top, right, bottom as fractions of its side. None: detected."""
    same_person: Similarity | None = SAME_TRAITS
    """Of several photos, one whose cosine to the mean of the others is less gets a warning. None: none does."""
    providers: tuple[str, ...] = CPU


class InsightFaceModelConfig(Config):
    """A folder with an InsightFace pack: an SCRFD detector and an ArcFace recogniser as ONNX files."""

    sessions: ClassVar[int] = 2  # the detector's and the recogniser's
    vector_length: ClassVar[int] = FACE_VECTOR
    tells_identity: ClassVar[bool] = True

    kind: Literal["insightface"]
    pack: Path
    detection_size: int = Field(640, ge=32, multiple_of=32)  # pixels of a side
    detection_threshold: float = Field(0.5, gt=0, lt=1)
    min_face_px: int = Field(48, ge=1)  # pixels of the photo
    threads: int = Field(1, ge=1)
    providers: tuple[str, ...] = CPU
    gpu_memory_mb: int | None = Field(None, ge=64)  # of each CUDA session; None: no limit
    same_person: Similarity | None = SAME_FACE
    """Of several photos, one whose cosine to the mean of the others is less is refused. None: none is."""


class RecogniserConfig(Config):
    """A network that tells people apart, as an ONNX file: `kind` says how it is run.

    arcface: AuraFace and others in the format of InsightFace's recognisers, 512 numbers a face; sface: 128.
    No FaceID adapter of IP-Adapter knows their vectors: it was trained on those of InsightFace's buffalo_l.
    """

    kind: Literal["arcface", "sface"]
    file: Path


class YuNetFaceModelConfig(Config):
    """OpenCV's YuNet detector as an ONNX file, and a recogniser: both may be used commercially."""

    sessions: ClassVar[int] = 2  # the detector's and the recogniser's
    tells_identity: ClassVar[bool] = True

    kind: Literal["yunet"]
    detector: Path
    recogniser: RecogniserConfig
    detection_threshold: float = Field(0.6, gt=0, lt=1)  # of OpenCV's Python class; its demo takes 0.9
    min_face_px: int = Field(48, ge=1)  # pixels of the photo
    threads: int = Field(1, ge=1)
    providers: tuple[str, ...] = CPU
    gpu_memory_mb: int | None = Field(None, ge=64)  # of each CUDA session; None: no limit
    same_person: Similarity | None = SAME_FACE
    """As of InsightFace; of SFace's vectors OpenCV takes two for one person's from 0.363."""

    @property
    def vector_length(self) -> int:
        """How many numbers a face has."""
        return SFACE_VECTOR if self.recogniser.kind == "sface" else FACE_VECTOR


FaceModelConfig = Annotated[
    CascadeFaceModelConfig | InsightFaceModelConfig | YuNetFaceModelConfig, Field(discriminator="kind")
]


class FaceEmbedderConfig(Config):
    """The face models, and how photos share their batches.

    A batch is run when it has `max_batch_size` photos, or `batch_wait_s` seconds after its first one came.
    """

    model: FaceModelConfig = CascadeFaceModelConfig()  # of the apps that name no other
    # Others, by the names that apps give them (`face_model`); those that no app may use are not loaded.
    models: dict[str, FaceModelConfig] = {}
    max_batch_size: int = Field(8, ge=1)
    batch_wait_s: float = Field(0.01, ge=0)
    # Side of the pictures of heads, in pixels, which the models of some apps draw from. None: 512 where an app's does.
    head_px: int | None = Field(None, ge=64, le=1024, multiple_of=16)

    def loaded(self) -> tuple[FaceModelConfig, ...]:
        """The settings of the models that an embedder loads: equal ones once, whatever their names."""
        return tuple(dict.fromkeys((self.model, *self.models.values())))


class ConceptCheckerConfig(Config):
    """The safety checker of Stable Diffusion in diffusers' format: a folder with its configuration and weights.

    `preprocessor` is the folder of its `preprocessor_config.json`, where it is a different one.
    """

    kind: Literal["concepts"] = "concepts"
    path: Path
    preprocessor: Path | None = None
    variant: str | None = None  # of the weight files
    dtype: Literal["float32", "float16"] = "float32"


class ClassifierConfig(Config):
    """An image classifier in transformers' format: `threshold` for one of `labels` withholds an image."""

    kind: Literal["classifier"]
    path: Path
    preprocessor: Path | None = None
    labels: tuple[str, ...] = Field(min_length=1)
    threshold: float = Field(0.5, gt=0, le=1)
    dtype: Literal["float32", "float16"] = "float32"


SafetyConfig = Annotated[ConceptCheckerConfig | ClassifierConfig, Field(discriminator="kind")]


class LoraConfig(Config):
    """A LoRA that rows of a model may wear, and how much it counts.

    The .safetensors file is for its UNet and text encoders, or its transformer.
    """

    file: Path
    scale: float = Field(1.0, ge=-2, le=2)
    # No row wears two styles: compiled graphs need no room for both, as they do for two of the others.
    is_style: bool = False


def _rising(interval: tuple[float, float]) -> tuple[float, float]:
    if not interval[0] < interval[1]:
        raise ValueError("the lower noise level comes first")
    return interval


GuidanceInterval = Annotated[
    tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)]], AfterValidator(_rising)
]


class DiffusionModelConfig(Config):
    """A diffusers folder: SD 1.5 or SDXL with an IP-Adapter file, FaceID or Plus; or FLUX.2 klein."""

    path: Path
    ip_adapter: Path | None = None  # required for Stable Diffusion; FLUX.2 klein sees the photos themselves
    image_encoder: Path | None = None  # for an IP-Adapter Plus: the folder of its CLIP vision model
    ip_adapter_scale: float = Field(1.0, ge=0, le=1)
    lora: Path | None = None  # of the FaceID adapter, in place of the one that `ip_adapter` holds
    lora_scale: float = Field(1.0, ge=0, le=1)
    # By the names that rows give them (`AvatarSpec.lora`): those of the styles of the apps that draw with the model.
    loras: dict[str, LoraConfig] = {}
    # Tiny VAEs, .safetensors files, likewise (`AvatarSpec.decoder`): those of the apps' presets of few steps.
    decoders: dict[str, Path] = {}
    # Noise levels (sigma) between which guidance acts, the lower one excluded: in steps outside of them an image with
    # guidance takes one row of the UNet instead of two. None: it acts in all. Not of images with a sampler or a LoRA
    # for few steps, nor of FLUX.2 klein.
    guidance_interval: GuidanceInterval | None = None
    variant: str | None = None  # of the weight files: `fp16` takes *.fp16.safetensors
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: bfloat16 where the device is faster in it
    device: str = "cpu"
    threads: int = Field(2, ge=1)
    memory_gb: float = Field(0, ge=0)  # of the device: weights, steps, a picture, the safety checker; without `loras`
    # Of `memory_gb`, what stays while another model draws: the steps and pictures of all models are made in the same
    # memory. None: all of it, as if each model had memory of its own for them.
    weights_gb: float | None = Field(None, ge=0)
    safety: SafetyConfig | None = None  # checks every image on the same device; flagged ones are withheld
    # FLUX.2 klein: keep the transformer's weights as float8_e4m3fn, half of bfloat16's memory; it computes in `dtype`,
    # and cannot be compiled.
    fp8_weights: bool = False
    compile: bool = False  # the UNet or transformer, for `compile_sizes`; other sizes run uncompiled
    # unet: a graph of the whole network for each shape; blocks: of its transformer blocks only, which starts sooner and
    # takes longer a step.
    compile_scope: CompileScope = "unet"
    # (width, height) in pixels; empty: the native sizes of the apps that draw with the model. The first is compiled
    # while a replica starts, the others while it draws nothing.
    compile_sizes: tuple[tuple[int, int], ...] = ()
    # true: for rows in pairs, as guidance above 1 makes them; false: for single ones; None: as the apps' defaults say.
    compile_guided: bool | None = None
    # true: beside pairs for a single row, which an image takes in a step without guidance; None: where the apps have a
    # preset of few steps without it, or `guidance_interval` is set.
    compile_single: bool | None = None

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if self.weights_gb is not None and self.weights_gb > self.memory_gb:
            raise ValueError("weights_gb is a part of memory_gb, and cannot be more")
        return self

    def memory(self) -> ModelMemory:
        """`memory_gb`, and the files of its `loras`, which are all in memory with the weights. A missing one has 0.

        A file that several have at the same scale is there once.
        """
        files = {(model_path(lora.file), lora.scale) for lora in self.loras.values()}
        loras_gb = sum(file.stat().st_size for file, _scale in files if file.is_file()) / 1e9
        weights_gb = self.memory_gb if self.weights_gb is None else self.weights_gb
        return ModelMemory(weights_gb + loras_gb, self.memory_gb - weights_gb)

    @property
    def takes_pictures(self) -> bool:
        """Whether it draws from pictures of the head, and not from the vector of a face."""
        return self.ip_adapter is None or self.image_encoder is not None


class AvatarGeneratorConfig(Config):
    """The diffusion models, by the names that apps give them, and how rows share their steps and their memory.

    A replica loads at its start those that fit into `memory_gb` together, in this order; the others on first use.
    """

    models: dict[str, DiffusionModelConfig] = {
        "embedded": DiffusionModelConfig(
            path=Path("embedded:diffusion"), ip_adapter=Path("embedded:diffusion/ip-adapter-faceid.safetensors")
        )
    }
    memory_gb: float | None = Field(None, gt=0)  # of the device for models; None: no model is evicted
    # Images with guidance that may share a step, or twice as many without; fewer do where more would only slow all.
    max_rows: int = Field(8, ge=1)
    compile_cache: Path | None = (
        None  # a folder that keeps compiled kernels for the next start; None: they are not kept
    )
    batch_invariant: bool = False  # each row of a step alone: an image is bit-identical whatever shares its steps
    ageing: float = Field(0.25, ge=0)  # seconds of remaining work that a second of waiting offsets
    progress_every_s: float = Field(0.5, ge=0.2)  # between two progress reports


class MattingModelConfig(Config):
    """`session` is rembg's name of the architecture, `model_path` its ONNX file."""

    session: str = "u2net_custom"
    model_path: Path = Path("embedded:matting/u2net.onnx")
    threads: int = Field(1, ge=1)
    providers: tuple[str, ...] = CPU
    gpu_memory_mb: int | None = Field(None, ge=256)  # the session takes no more on a CUDA device


class BackgroundRemoverConfig(Config):
    """The matting model, which runs only for images whose background is removed or filled."""

    model: MattingModelConfig = MattingModelConfig()
    max_runs: int = Field(1, ge=1)  # of the model at once: more take as much memory again, and are no faster on a CPU
