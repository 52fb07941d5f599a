"""The catalogue: which apps there are, what each draws with, what it takes when the client says nothing, and the files.

A catalogue file has `apps`, and under `downloads` what those need that the package does not bring.
"""

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from math import log
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Annotated, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from serve_app.errors import UnknownAppError

Size = tuple[int, int]
"""width, height"""

LicenseMode = Literal["any", "commercial"]
"""Which apps may be used: all, or those whose weights all allow commercial use."""

CATALOGUES = Path(__file__).parent
HUB = "https://huggingface.co"

# Formats that hold numbers and text. An old `.bin` is a pickle, which may hold code: it has to be marked.
SAFE_SUFFIXES = {".safetensors", ".onnx", ".json", ".txt"}

DEFAULT_PROMPT = (
    "SFW Content, black plain background, joyous dating profile, VECTOR CARTOON ILLUSTRATION, half-body shot portrait "
    "enjoyable pleasing pleasurable nice {gender_word}, looking at camera, Relaxed, Charming, Cordial, Gracious, "
    "5 o clock shadow, 3d bitmoji avatar render, pixar, high def textures 8k, highly detailed, 3d render, "
    "award winning, no background elements"
)


class Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\\" in path or ".." in parts or str(PurePosixPath(path)) != path:
        raise ValueError(f"{path!r} is not a plain relative path")
    return path


InnerPath = Annotated[str, AfterValidator(_inside)]
"""A path that stays within the folder that it is joined to."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ModelFile(Entry):
    """One file of a model: where it comes from, and where it lies under the models folder."""

    path: InnerPath
    url: str
    member: str | None = None  # the file's name within the zip archive at `url`
    size: int | None = Field(None, ge=0)  # bytes; None: not known
    sha256: Sha256 | None = None  # None: nobody published it

    @property
    def source(self) -> str:
        return self.url if self.member is None else f"{self.url}#{self.member}"


class DownloadedFile(Entry):
    """What a download says of one file; the key that it stands under is the path in the download's folder."""

    source: InnerPath | None = None  # its path at the source, where that is another
    size: int | None = Field(None, ge=0)
    sha256: Sha256 | None = None
    weights_only: bool = False  # a pickle, of which torch reads nothing but tensors


class Licence(Entry):
    """Under what some weights of an app are. `commercial`: whether it allows commercial use."""

    weights: str
    licence: str
    spdx_id: str  # `LicenseRef-…` where SPDX has none
    commercial: bool
    url: str = Field(pattern=r"^https://")


class Download(Entry):
    """Files of one source at one revision under one licence.

    They are files of a Hugging Face `repo`, or lie under `url`, or are members of it where it ends in `.zip`.
    """

    repo: str | None = Field(None, pattern=r"^\w[\w.-]*/\w[\w.-]*$")
    url: str | None = Field(None, pattern=r"^https://\S+\{revision\}\S*$")  # where `{revision}` stands for it
    revision: str
    licence: str
    licence_url: str = Field(pattern=r"^https://")
    spdx_id: str = "LicenseRef-unknown"
    commercial: bool = False  # what is not said to allow it, does not
    folder: InnerPath
    files: dict[InnerPath, DownloadedFile] = Field(min_length=1)

    @model_validator(mode="after")
    def _from_one_place_that_stays(self) -> Self:
        if (self.repo is None) == (self.url is None):
            raise ValueError("name either a repo or a url")
        if self.repo is not None and not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise ValueError(f"revision {self.revision!r} of {self.repo} is not a commit, and a branch moves")
        return self

    @model_validator(mode="after")
    def _of_formats_without_code(self) -> Self:
        for name, file in self.files.items():
            suffix = PurePosixPath(name).suffix
            if suffix not in SAFE_SUFFIXES and not (suffix == ".bin" and file.weights_only):
                raise ValueError(f"{name}: neither one of {sorted(SAFE_SUFFIXES)} nor a .bin marked weights_only")
        return self

    def model_files(self) -> list[ModelFile]:
        return [self._model_file(name, file) for name, file in self.files.items()]

    def _model_file(self, name: str, file: DownloadedFile) -> ModelFile:
        source = file.source or name
        base = (self.url or f"{HUB}/{self.repo}/resolve/{{revision}}").replace("{revision}", self.revision)
        zipped = base.endswith(".zip")
        return ModelFile(
            path=f"{self.folder}/{name}",
            url=base if zipped else f"{base}/{source}",
            member=source if zipped else None,
            size=file.size,
            sha256=file.sha256,
        )


class AppDefaults(Entry):
    width: int = Field(ge=256, le=1536)
    height: int = Field(ge=256, le=1536)
    num_inference_steps: int = Field(ge=1, le=50)
    guidance_scale: float = Field(ge=1, le=30)
    negative_prompt: str = ""


class App(Entry):
    """One app. `model` names a model of the generator's settings, `downloads` what has to lie in the models folder."""

    title: str
    description: str
    licence: str
    safety: str = "none"  # what keeps unsafe pictures back
    model: str
    native_sizes: tuple[Size, ...] = Field(min_length=1)
    defaults: AppDefaults
    prompt: str = DEFAULT_PROMPT
    downloads: tuple[str, ...] = Field((), exclude=True)  # the operator's business, not the client's
    weights: tuple[Licence, ...] = Field((), exclude=True)  # those that no download brings

    def native_size(self, width: int, height: int) -> Size:
        """The native size nearest in aspect ratio, and among those of one ratio the nearest in area."""

        def distance(size: Size) -> tuple[float, float]:
            ratio = abs(log(size[0] / size[1]) - log(width / height))
            area = abs(log(size[0] * size[1]) - log(width * height))
            return round(ratio, 3), area

        return min(self.native_sizes, key=distance)


class CatalogFile(Entry):
    downloads: dict[str, Download] = {}
    apps: dict[str, App]


class Catalog:
    """Apps by their ids, downloads by their names.

    Raises: ValueError where an app needs a download that is not there and, when read, where two files name the same.
    """

    def __init__(self, apps: Mapping[str, App], downloads: Mapping[str, Download] = MappingProxyType({})) -> None:
        self.apps = apps
        self.downloads = downloads
        for app_id, app in apps.items():
            if absent := set(app.downloads) - downloads.keys():
                raise ValueError(f"app {app_id}: there is no download {', '.join(sorted(absent))}")

    @classmethod
    def read(cls, names: Sequence[str]) -> "Catalog":
        """Read catalogues by name (`embedded` is a file of this package) or by path of a YAML file."""
        apps: dict[str, App] = {}
        downloads: dict[str, Download] = {}
        for name in names:
            path = Path(name) if name.endswith((".yaml", ".yml")) else CATALOGUES / f"{name}.yaml"
            read = CatalogFile.model_validate(yaml.safe_load(path.read_text()))
            if twice := (apps.keys() & read.apps.keys()) | (downloads.keys() & read.downloads.keys()):
                raise ValueError(f"{path}: these are in another catalogue too: {', '.join(sorted(twice))}")
            apps |= read.apps
            downloads |= read.downloads
        return cls(apps, downloads)

    def check_models(self, models: Container[str]) -> None:
        """Raises: ValueError where an app draws with a model that is none of these."""
        for app_id, app in self.apps.items():
            if app.model not in models:
                raise ValueError(f"app {app_id}: the generator has no model {app.model!r}")

    def licences(self, app_id: str) -> list[Licence]:
        """Those of all weights of an app."""
        downloads = {name: self.downloads[name] for name in self.apps[app_id].downloads}
        brought = [
            Licence(
                weights=name,
                licence=download.licence,
                spdx_id=download.spdx_id,
                commercial=download.commercial,
                url=download.licence_url,
            )
            for name, download in downloads.items()
        ]
        return [*self.apps[app_id].weights, *brought]

    def refusal(self, app_id: str, mode: LicenseMode) -> str:
        """Why an app may not be used; empty where it may."""
        if mode == "any":
            return ""
        forbidding = [licence.weights for licence in self.licences(app_id) if not licence.commercial]
        if forbidding:
            return f"The licences of these weights forbid commercial use: {', '.join(forbidding)}."
        return "" if self.licences(app_id) else "The app does not say under which licences its weights are."

    def check_licences(self, mode: LicenseMode) -> None:
        """Raises: ValueError where no app may be used."""
        refusals = {app_id: self.refusal(app_id, mode) for app_id in self.apps}
        if all(refusals.values()):
            reasons = " ".join(f"{app_id}: {reason}" for app_id, reason in refusals.items())
            raise ValueError(f"license_mode {mode} leaves no app. {reasons}")

    def needed(self, names: Iterable[str]) -> dict[str, Download]:
        """The downloads that these apps need, by name. A name may be that of a download as well.

        Raises: ValueError where it is neither.
        """
        needed: dict[str, Download] = {}
        for name in names:
            if name not in self.apps and name not in self.downloads:
                raise ValueError(f"{name!r} is none of {', '.join([*self.apps, *self.downloads])}")
            for download in self.apps[name].downloads if name in self.apps else (name,):
                needed[download] = self.downloads[download]
        return needed

    def files(self, names: Iterable[str]) -> list[ModelFile]:
        """The files of what is `needed`, each once."""
        return [file for download in self.needed(names).values() for file in download.model_files()]

    def __getitem__(self, app_id: str) -> App:
        try:
            return self.apps[app_id]
        except KeyError:
            raise UnknownAppError(f"There is no app {app_id!r}.", accepted=sorted(self.apps)) from None
