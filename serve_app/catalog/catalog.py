"""The catalogue: the apps, and the downloads that they need.

A catalogue file has `apps`, and under `downloads` the files they need that are not in the package.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Self

import yaml
from pydantic import Field

from deployments.config import FaceEmbedderConfig
from serve_app.catalog.apps import NO_FALLBACK, App
from serve_app.catalog.model_files import Download, Entry, Licence, ModelFile
from serve_app.errors import UnknownAppError

LicenseMode = Literal["any", "commercial"]
"""Which apps may be used: any, or only those whose weights all allow commercial use."""

CATALOGUES = Path(__file__).parent


class CatalogFile(Entry):
    """One catalogue file: downloads by name, apps by id. `include` names catalogues with further downloads."""

    include: tuple[str, ...] = ()
    downloads: dict[str, Download] = Field({})
    apps: dict[str, App] = Field({})

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
