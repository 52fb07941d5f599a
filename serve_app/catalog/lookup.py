"""Which apps of this package's catalogues have given weights, by SHA-256: for what was drawn before, or elsewhere."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from serve_app.catalog.catalog import Catalog, package_catalogues


@dataclass(frozen=True, slots=True)
class KnownApp:
    """An app of a catalogue of this package, and the licences of its weights, each once."""

    app_id: str
    catalogue: str
    licences: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.app_id} of the catalogue {self.catalogue}"


def apps_with(digests: Collection[str]) -> Iterator[KnownApp]:
    """The apps among whose files are all these; none for weights that no catalogue of the package has."""
    for name in package_catalogues():
        catalog = Catalog.read([name])
        for app_id in catalog.apps:
            if digests and set(digests) <= {file.sha256 for file in catalog.files([app_id])}:
                licences = dict.fromkeys(licence.licence for licence in catalog.licences(app_id))
                yield KnownApp(app_id, name, tuple(licences))
