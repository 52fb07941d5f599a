"""The families of models: which class draws with a diffusers folder."""

from collections.abc import Callable

from deployments.config import DiffusionModelConfig, model_path
from deployments.diffusion.model.denoiser import FaceDiffusionModel
from deployments.diffusion.model.klein import KleinModel
from deployments.diffusion.model.loader import FAMILIES, Timed, class_name, untimed

KLEIN = "Flux2KleinPipeline"

DiffusionModel = FaceDiffusionModel | KleinModel


def load_model(
    config: DiffusionModelConfig,
    batch_invariant: bool = False,
    on_compile_failure: Callable[[], None] = lambda: None,
    timed: Timed = untimed,
) -> DiffusionModel:
    """Raises: what `load` of the family's class raises; ValueError where there is none."""
    if family(config) == KLEIN:
        with timed("weights"):
            return KleinModel.load(config, batch_invariant, on_compile_failure)
    return FaceDiffusionModel.load(config, batch_invariant, on_compile_failure, timed)


def family(config: DiffusionModelConfig) -> str:
    """The name of a folder's pipeline class. Raises: OSError where a file is missing, ValueError for another class."""
    folder = model_path(config.path)
    name = class_name(folder)
    if name not in (KLEIN, *FAMILIES):
        raise ValueError(f"{folder} is made for {name}; only {', '.join((*FAMILIES, KLEIN))} can be loaded")
    return name


def check_files(config: DiffusionModelConfig) -> None:
    """Whether the files of a model are there, without reading weights.

    Raises: OSError where one is missing, ValueError where the folder is of another family.
    """
    family(config)
    safety = None if config.safety is None else config.safety.path
    worn = [lora.file for lora in config.loras.values()]
    for path in (config.ip_adapter, config.image_encoder, config.lora, *worn, *config.decoders.values(), safety):
        if path is not None and not model_path(path).exists():
            raise FileNotFoundError(f"{model_path(path)} is missing")
