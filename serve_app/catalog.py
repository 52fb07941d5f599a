"""The catalogue: which apps there are, what each draws with, and what it takes when the client says nothing."""

from collections.abc import Container, Sequence
from math import log
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from deployments.errors import AvatarError

Size = tuple[int, int]
"""width, height"""

CATALOGUES = Path(__file__).with_name("catalog")

DEFAULT_PROMPT = (
    "SFW Content, black plain background, joyous dating profile, VECTOR CARTOON ILLUSTRATION, half-body shot portrait "
    "enjoyable pleasing pleasurable nice {gender_word}, looking at camera, Relaxed, Charming, Cordial, Gracious, "
    "5 o clock shadow, 3d bitmoji avatar render, pixar, high def textures 8k, highly detailed, 3d render, "
    "award winning, no background elements"
)


class UnknownAppError(AvatarError):
    """The client named an app that the catalogue does not have."""


class AppDefaults(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int = Field(ge=256, le=1536)
    height: int = Field(ge=256, le=1536)
    num_inference_steps: int = Field(ge=1, le=50)
    guidance_scale: float = Field(ge=1, le=30)
    negative_prompt: str = ""


class App(BaseModel):
    """One entry of the catalogue. `model` names a model of the generator's settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    description: str
    licence: str
    safety: str = "none"  # what keeps unsafe pictures back
    model: str
    native_sizes: tuple[Size, ...] = Field(min_length=1)
    defaults: AppDefaults
    prompt: str = DEFAULT_PROMPT

    def native_size(self, width: int, height: int) -> Size:
        """The native size nearest in aspect ratio, and among those of one ratio the nearest in area."""

        def distance(size: Size) -> tuple[float, float]:
            ratio = abs(log(size[0] / size[1]) - log(width / height))
            area = abs(log(size[0] * size[1]) - log(width * height))
            return round(ratio, 3), area

        return min(self.native_sizes, key=distance)


class Catalog:
    """Apps by their ids.

    Raises (when read): ValueError where two files name the same app.
    """

    def __init__(self, apps: dict[str, App]) -> None:
        self.apps = apps

    @classmethod
    def read(cls, names: Sequence[str]) -> "Catalog":
        """Read catalogues by name (`embedded` is a file of this package) or by path of a YAML file."""
        apps: dict[str, App] = {}
        for name in names:
            path = Path(name) if name.endswith((".yaml", ".yml")) else CATALOGUES / f"{name}.yaml"
            read = TypeAdapter(dict[str, App]).validate_python(yaml.safe_load(path.read_text()))
            if twice := apps.keys() & read.keys():
                raise ValueError(f"{path}: these apps are in another catalogue too: {', '.join(sorted(twice))}")
            apps |= read
        return cls(apps)

    def check_models(self, models: Container[str]) -> None:
        """Raises: ValueError where an app draws with a model that is none of these."""
        for app_id, app in self.apps.items():
            if app.model not in models:
                raise ValueError(f"app {app_id}: the generator has no model {app.model!r}")

    def __getitem__(self, app_id: str) -> App:
        try:
            return self.apps[app_id]
        except KeyError:
            raise UnknownAppError(f"There is no app {app_id!r}.", accepted=sorted(self.apps)) from None
