"""Files of models that are not in the package: where they come from, and under which licence."""

import re
from pathlib import PurePosixPath
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

HUB = "https://huggingface.co"

# Formats that contain data only; a `.jinja` is a chat template, which transformers runs in Jinja's sandbox. A `.bin` is
# a pickle, which may contain code, so it must be marked.
SAFE_SUFFIXES = {".safetensors", ".onnx", ".json", ".txt", ".jinja"}


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
