"""SHA-256 of model files for which none is published: kept when they are first fetched, and checked ever after."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BeforeValidator, Field, TypeAdapter

from deployments.common.checksums import file_sha256
from deployments.config import Config
from serve_app.catalog.model_files import Entry, ModelFile, Sha256

LOCK_FILE = "sha256.lock.yaml"  # in the models folder
HOW_TO_PIN = "`face-avatar models prefetch --pin`"


class Pin(Entry):
    """What a file was when it was pinned; `size` is in bytes, None in lock files of former versions."""

    sha256: Sha256
    size: int | None = Field(None, ge=0)


def _from_digest_alone(value: Any) -> Any:
    """Former versions kept only the digest."""
    return {"sha256": value} if isinstance(value, str) else value


PINS = TypeAdapter(dict[str, Annotated[Pin, BeforeValidator(_from_digest_alone)]])


class UnreadablePinsError(ValueError):
    """The lock file has something else than pins."""


class Pins:
    """The lock file: pins of files for which the catalogue has no digest, by source. Raises: UnreadablePinsError."""

    def __init__(self, models_dir: Path) -> None:
        self._path = models_dir / LOCK_FILE
        try:
            read = yaml.safe_load(self._path.read_text()) if self._path.exists() else None
            self._pins = PINS.validate_python(read or {})
        except (ValueError, yaml.YAMLError) as error:
            raise UnreadablePinsError(f"{self._path} has something else than pins: {error}") from error

    def of(self, file: ModelFile) -> Pin | None:
        """What the file has to be: by the catalogue, or else by the lock file; None where both do not say."""
        return self._pins.get(file.source) if file.sha256 is None else Pin(sha256=file.sha256, size=file.size)

    def expected(self, file: ModelFile) -> str | None:
        """The SHA-256 that the file has to have; None: unknown."""
        pin = self.of(file)
        return None if pin is None else pin.sha256

    def keep(self, file: ModelFile, pin: Pin) -> None:
        """Add a pin and replace the lock file atomically. Raises: OSError."""
        self._pins[file.source] = pin
        new = self._path.with_name(f"{LOCK_FILE}.part")
        kept = {source: each.model_dump(exclude_none=True) for source, each in self._pins.items()}
        new.write_text(yaml.safe_dump(kept))
        new.replace(self._path)


@dataclass(frozen=True, slots=True)
class UnpublishedFiles:
    """Files without a published SHA-256 that a stage loads: it does so only as they were pinned in `models_dir`.

    The others are verified by each prefetch alone.
    """

    models_dir: Path
    files: tuple[ModelFile, ...]

    @classmethod
    def of(cls, files: Iterable[ModelFile], stage: Config, models_dir: Path) -> Self:
        """Those of the files that the settings of a stage name, or a folder around them."""
        loaded = set(stage.located(models_dir).paths())
        unpublished = (file for file in files if file.sha256 is None)
        return cls(
            models_dir,
            tuple(file for file in unpublished if loaded & {(path := models_dir / file.path), *path.parents}),
        )

    def check(self) -> None:
        """Reads every byte of them. Raises: OSError; ValueError where one is not pinned, or not as it was."""
        if not self.files:
            return
        folder = self.models_dir.expanduser()
        pins = Pins(folder)
        for file in self.files:
            path, pin = folder / file.path, pins.of(file)
            if pin is None:
                raise ValueError(f"{path}: no SHA-256 of it is published or pinned; {HOW_TO_PIN} fetches and pins it")
            if pin.size not in (None, path.stat().st_size) or file_sha256(path) != pin.sha256:
                raise ValueError(
                    f"{path} has changed since it was pinned with SHA-256 {pin.sha256}; `face-avatar models prefetch`"
                    " fetches the pinned file again"
                )
