"""The catalogue: the apps, their models, default parameters and model files.

A catalogue file has `apps`, and under `downloads` the files they need that are not in the package.
"""

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from math import log
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from deployments.config import FaceEmbedderConfig
from deployments.types import SamplerName
from serve_app.errors import UnknownAppError

Size = tuple[int, int]
"""width, height"""

LicenseMode = Literal["any", "commercial"]
"""Which apps may be used: any, or only those whose weights all allow commercial use."""

Quality = Literal["standard", "fast"]
"""How long an image may take: as an app draws it by itself, or by its preset of few steps."""

CATALOGUES = Path(__file__).parent
HUB = "https://huggingface.co"

# Formats that contain data only; a `.jinja` is a chat template, which transformers runs in Jinja's sandbox. A `.bin` is
# a pickle, which may contain code, so it must be marked.
SAFE_SUFFIXES = {".safetensors", ".onnx", ".json", ".txt", ".jinja"}

DEFAULT_PROMPT = (
    "SFW Content, black plain background, joyous dating profile, VECTOR CARTOON ILLUSTRATION, half-body shot portrait "
    "enjoyable pleasing pleasurable nice {gender_word}, looking at camera, Relaxed, Charming, Cordial, Gracious, "
    "5 o clock shadow, 3d bitmoji avatar render, pixar, high def textures 8k, highly detailed, 3d render, "
    "award winning, no background elements"
)


NO_FALLBACK = "none"  # what a request says in place of a fallback app
GENDER_PLACE, PROMPT_PLACE = "{gender_word}", "{prompt}"
STYLED_SUBJECT = "half-body portrait of a nice {gender_word}, looking at the camera, relaxed and charming"


class Entry(BaseModel):
    """Base of everything in a catalogue file: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\\" in path or ".." in parts or str(PurePosixPath(path)) != path:
        raise ValueError(f"{path!r} is not a plain relative path")
    return path


InnerPath = Annotated[str, AfterValidator(_inside)]
"""A relative path that cannot leave the folder it is joined to."""

StyleName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ModelFile(Entry):
    """One file of a model: its source, and its path under the models folder."""

    path: InnerPath
    url: str
    member: str | None = None  # the file's name within the zip archive at `url`
    size: int | None = Field(None, ge=0)  # bytes; None: unknown
    sha256: Sha256 | None = None  # None: not published

    @property
    def source(self) -> str:
        """The URL, with `#member` for a file in an archive: its key in the lock file."""
        return self.url if self.member is None else f"{self.url}#{self.member}"


class DownloadedFile(Entry):
    """One file of a download; its key in `files` is the path in the download's folder."""

    source: InnerPath | None = None  # path at the source, if different
    size: int | None = Field(None, ge=0)
    sha256: Sha256 | None = None
    weights_only: bool = False  # a pickle that torch loads with weights_only


class Licence(Entry):
    """The licence of some weights of an app. `commercial`: whether it allows commercial use."""

    weights: str
    licence: str
    spdx_id: str  # `LicenseRef-…` if not in SPDX
    commercial: bool
    url: str = Field(pattern=r"^https://")


class Download(Entry):
    """Files of one source at one revision under one licence.

    The source is a Hugging Face `repo`, or a base `url`, or a zip archive if the URL ends in `.zip`.
    """

    repo: str | None = Field(None, pattern=r"^\w[\w.-]*/\w[\w.-]*$")
    url: str | None = Field(None, pattern=r"^https://\S+\{revision\}\S*$")  # contains `{revision}`
    revision: str
    licence: str
    licence_url: str = Field(pattern=r"^https://")
    spdx_id: str = "LicenseRef-unknown"
    commercial: bool = False  # not allowed unless stated
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
        """Its files, with their URLs at this revision and their paths under the models folder."""
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
    """The values of fields that a request to the app leaves out; `width` and `height` are pixels."""

    width: int = Field(ge=256, le=1536)
    height: int = Field(ge=256, le=1536)
    num_inference_steps: int = Field(ge=1, le=50)
    guidance_scale: float = Field(ge=1, le=30)
    negative_prompt: str = ""
    min_similarity: float | None = Field(None, ge=0, le=1)  # by the app's own face model; None: no redraws


FAST_LORA = "quality=fast"  # among the LoRAs of an app, whose others have names of styles


def lora_name(app_id: str, name: str) -> str:
    """The name of an app's LoRA among those of a model, with which several apps may draw."""
    return f"{app_id}/{name}"


class AppLora(Entry):
    """A LoRA of an app: `file` is of one of its downloads, by its path under the models folder."""

    file: InnerPath
    scale: float = Field(1.0, ge=-2, le=2)


class Style(Entry):
    """A look that an app can draw. `prompt` has `{gender_word}` and, where the client's prompt goes, `{prompt}`."""

    title: str
    prompt: str
    subject: str = STYLED_SUBJECT  # in the place of the client's prompt where there is none
    negative_prompt: str | None = None  # in the place of the app's
    lora: AppLora | None = Field(None, exclude=True)

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if self.prompt.count(PROMPT_PLACE) > 1:
            raise ValueError(f"a style has one {PROMPT_PLACE} at most")
        return self

    def filled(self, own_prompt: str | None, gender_word: str) -> str:
        """The prompt. One of the client's own replaces all of a style that has no place for it.

        One that has the style's words around it already, as those of receipts have, stays as it is.
        """
        prompt, subject = (text.replace(GENDER_PLACE, gender_word) for text in (self.prompt, self.subject))
        before, place, after = prompt.partition(PROMPT_PLACE)
        if not place:
            return prompt if own_prompt is None else own_prompt
        if own_prompt is not None and own_prompt.startswith(before) and own_prompt.endswith(after):
            return own_prompt
        return before + (subject if own_prompt is None else own_prompt) + after


class FastPreset(Entry):
    """How an app draws a request of the quality `fast`, which may say nothing else of the fields here."""

    num_inference_steps: int = Field(ge=1, le=50)
    guidance_scale: float = Field(1.0, ge=1, le=30)
    negative_prompt: str = ""
    sampler: SamplerName | None = Field(None, exclude=True)  # None: the model's own
    lora: AppLora | None = Field(None, exclude=True)  # beside that of a style
    decoder: InnerPath | None = Field(None, exclude=True)  # a tiny VAE, of one of the app's downloads; None: its own

    @property
    def fields(self) -> dict[str, Any]:
        """Of a request, by name."""
        return self.model_dump()


class App(Entry):
    """One app. `model` names a model of the generator's settings, `downloads` its files in the models folder.

    `face_model` names one of the face settings that finds and compares its faces, `fallback_app_id` the app that draws
    where this one would miss a deadline.
    """

    title: str
    description: str
    licence: str
    safety: str = "none"  # the safety checker
    model: str
    face_model: str | None = Field(None, exclude=True)  # of the face settings' `models`; None: their `model`
    native_sizes: tuple[Size, ...] = Field(min_length=1)
    defaults: AppDefaults
    prompt: str = DEFAULT_PROMPT
    styles: dict[StyleName, Style] = {}
    fast: FastPreset | None = None  # None: requests of the quality `fast` are refused
    fallback_app_id: str | None = None
    has_guidance: bool = True  # false: the model ignores `guidance_scale` and `negative_prompt`, as distilled ones do
    instruction: str = Field(
        PROMPT_PLACE, pattern=re.escape(PROMPT_PLACE), exclude=True
    )  # what the model is told of a prompt
    downloads: tuple[str, ...] = Field((), exclude=True)  # for operators, not shown to clients
    weights: tuple[Licence, ...] = Field((), exclude=True)  # of weights that are not downloads

    @property
    def loras(self) -> dict[str, AppLora]:
        """Those of its styles by the names of the styles, and FAST_LORA."""
        loras = {name: style.lora for name, style in self.styles.items() if style.lora is not None}
        return loras if self.fast is None or self.fast.lora is None else loras | {FAST_LORA: self.fast.lora}

    @property
    def named_files(self) -> set[str]:
        """Those of its downloads that it names by their paths."""
        decoder = None if self.fast is None else self.fast.decoder
        return {lora.file for lora in self.loras.values()} | ({decoder} if decoder is not None else set())

    @property
    def qualities(self) -> tuple[Quality, ...]:
        """Those that a request may name."""
        return ("standard",) if self.fast is None else ("standard", "fast")

    def preset(self, quality: Quality) -> FastPreset | None:
        """That of the quality `fast`, where the app has one."""
        return self.fast if quality == "fast" else None

    def defaults_of(self, style: str | None, quality: Quality = "standard") -> dict[str, Any]:
        """The values of fields that a request leaves out. Raises: KeyError for an unknown style."""
        defaults = self.defaults.model_dump()
        if (preset := self.preset(quality)) is not None:
            return defaults | preset.fields
        negative = self.styles[style].negative_prompt if style is not None and self.has_guidance else None
        return defaults if negative is None else {**defaults, "negative_prompt": negative}

    def filled_prompt(self, own_prompt: str | None, gender_word: str, style: str | None) -> str:
        """The prompt of a request. Raises: KeyError for an unknown style."""
        if style is not None:
            return self.styles[style].filled(own_prompt, gender_word)
        return self.prompt.replace(GENDER_PLACE, gender_word) if own_prompt is None else own_prompt

    def ignores(self, guidance_scale: float, negative_prompt: str) -> bool:
        """Whether a request asks for guidance, of which the model has none."""
        defaults = self.defaults
        asked = (guidance_scale, negative_prompt) != (defaults.guidance_scale, defaults.negative_prompt)
        return asked and not self.has_guidance

    def native_size(self, width: int, height: int) -> Size:
        """The native size nearest in aspect ratio; among equal ratios, the nearest in area."""

        def distance(size: Size) -> tuple[float, float]:
            ratio = abs(log(size[0] / size[1]) - log(width / height))
            area = abs(log(size[0] * size[1]) - log(width * height))
            return round(ratio, 3), area

        return min(self.native_sizes, key=distance)


class CatalogFile(Entry):
    """One catalogue file: downloads by name, apps by id. `include` names catalogues with further downloads."""

    include: tuple[str, ...] = ()
    downloads: dict[str, Download] = {}
    apps: dict[str, App] = {}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises: OSError; ValueError, of which pydantic's and YAML's errors are."""
        return cls.model_validate(yaml.safe_load(path.read_text()))


class Catalog:
    """Apps by id, downloads by name.

    Raises: ValueError where an app needs a missing download, or falls back on one that is missing or on itself over
    others, and on reading, where two files define the same name.
    """

    def __init__(self, apps: Mapping[str, App], downloads: Mapping[str, Download] = MappingProxyType({})) -> None:
        self.apps = apps
        self.downloads = downloads
        for app_id, app in apps.items():
            if missing := set(app.downloads) - downloads.keys():
                raise ValueError(f"app {app_id}: there is no download {', '.join(sorted(missing))}")
            if missing := app.named_files - {file.path for file in self.files([app_id])}:
                raise ValueError(f"app {app_id}: none of its downloads brings {', '.join(sorted(missing))}")
        _check_fallbacks(apps)

    @classmethod
    def read(cls, names: Sequence[str]) -> "Catalog":
        """Read catalogues by name (such as `embedded`, a file of this package) or by path of a YAML file."""
        files = [(path, CatalogFile.read(path)) for path in map(_path_of, names)]
        included = {_path_of(name) for _, file in files for name in file.include} - {path for path, _ in files}
        files += [(path, CatalogFile.read(path).model_copy(update={"apps": {}})) for path in sorted(included)]
        of: dict[str, Path] = {}  # the file of each app and download
        for path, file in files:
            for name in (*file.apps, *file.downloads):
                if name in of:
                    raise ValueError(f"{name} is in two catalogues, {of[name]} and {path}: leave one of them out")
            of |= dict.fromkeys((*file.apps, *file.downloads), path)
        apps = {app_id: app for _, file in files for app_id, app in file.apps.items()}
        return cls(apps, {name: each for _, file in files for name, each in file.downloads.items()})

    def check_models(self, models: Container[str]) -> None:
        """Raises: ValueError where the model of an app is not one of these."""
        for app_id, app in self.apps.items():
            if app.model not in models:
                raise ValueError(f"app {app_id}: the generator has no model {app.model!r}")

    def faces(self, config: FaceEmbedderConfig, mode: LicenseMode) -> FaceEmbedderConfig:
        """The face settings, with those of their `models` that apps use which may be used.

        Raises: ValueError where the face model of an app is none of them.
        """
        for app_id, app in self.apps.items():
            if app.face_model is not None and app.face_model not in config.models:
                raise ValueError(f"app {app_id}: the face settings have no model {app.face_model!r}")
        used = {app.face_model for app in self.usable(mode).values()}
        models = {name: model for name, model in config.models.items() if name in used}
        return config.model_copy(update={"models": models})

    def usable(self, mode: LicenseMode) -> dict[str, App]:
        """The apps that may be used, by id."""
        return {app_id: app for app_id, app in self.apps.items() if not self.refusal(app_id, mode)}

    def licences(self, app_id: str) -> list[Licence]:
        """The licences of all weights of an app."""
        downloads = {name: self.downloads[name] for name in self.apps[app_id].downloads}
        downloaded = [
            Licence(
                weights=name,
                licence=download.licence,
                spdx_id=download.spdx_id,
                commercial=download.commercial,
                url=download.licence_url,
            )
            for name, download in downloads.items()
        ]
        return [*self.apps[app_id].weights, *downloaded]

    def refusal(self, app_id: str, mode: LicenseMode) -> str:
        """Why an app may not be used; empty if it may."""
        if mode == "any":
            return ""
        forbidding = [licence.weights for licence in self.licences(app_id) if not licence.commercial]
        if forbidding:
            return f"The licences of these weights forbid commercial use: {', '.join(forbidding)}."
        return "" if self.licences(app_id) else "The app does not say under which licences its weights are."

    def check_licences(self, mode: LicenseMode) -> None:
        """Raises: ValueError if no app may be used, or one falls back on another that may not be."""
        refusals = {app_id: self.refusal(app_id, mode) for app_id in self.apps}
        if all(refusals.values()):
            reasons = " ".join(f"{app_id}: {reason}" for app_id, reason in refusals.items())
            raise ValueError(f"license_mode {mode} leaves no app. {reasons}")
        for app_id, app in self.usable(mode).items():
            if app.fallback_app_id is not None and (refusal := refusals[app.fallback_app_id]):
                raise ValueError(f"app {app_id}: its fallback {app.fallback_app_id} may not be used. {refusal}")

    def needed(self, names: Iterable[str]) -> dict[str, Download]:
        """The downloads that these apps need, by name. `names` may also name downloads.

        Raises: ValueError for a name that is neither.
        """
        needed: dict[str, Download] = {}
        for name in names:
            if name not in self.apps and name not in self.downloads:
                raise ValueError(f"{name!r} is none of {', '.join([*self.apps, *self.downloads])}")
            for download in self.apps[name].downloads if name in self.apps else (name,):
                needed[download] = self.downloads[download]
        return needed

    def files(self, names: Iterable[str]) -> list[ModelFile]:
        """The files of the `needed` downloads."""
        return [file for download in self.needed(names).values() for file in download.model_files()]

    def __getitem__(self, app_id: str) -> App:
        try:
            return self.apps[app_id]
        except KeyError:
            raise UnknownAppError(f"There is no app {app_id!r}.", accepted=sorted(self.apps)) from None


def package_catalogues() -> list[str]:
    """The names of the catalogues with apps that are files of this package."""
    return sorted(path.stem for path in CATALOGUES.glob("*.yaml") if CatalogFile.read(path).apps)


def _check_fallbacks(apps: Mapping[str, App]) -> None:
    """Raises: ValueError where an app falls back on one that there is not, or on itself, also over others."""
    if NO_FALLBACK in apps:
        raise ValueError(f"no app can be called {NO_FALLBACK}, which is what requests without a fallback say")
    for app_id in apps:
        chain = [app_id]
        while (other := apps[chain[-1]].fallback_app_id) is not None:
            if other not in apps:
                raise ValueError(f"app {chain[-1]}: there is no app {other} to fall back on")
            chain.append(other)
            if other in chain[:-1]:
                raise ValueError(f"app {app_id}: its fallbacks are circular: {', '.join(chain)}")


def _path_of(name: str) -> Path:
    """Of a catalogue by name, a file of this package, or by path. Raises: ValueError for a name of none."""
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    path = CATALOGUES / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"there is no catalogue {name!r}: name {', '.join(package_catalogues())}, or a YAML file")
    return path
