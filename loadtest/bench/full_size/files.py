"""Where the files of the models lie."""

from dataclasses import dataclass
from pathlib import Path

VARIANT = "fp16"  # of the weights, as production.yaml takes them


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of one model, in a folder of their own."""

    folder: Path

    @property
    def pipeline(self) -> Path:
        """The diffusers folder."""
        return self.folder / "model"

    @property
    def adapter(self) -> Path:
        """The IP-Adapter FaceID, with its LoRA inside."""
        return self.folder / "ip-adapter-faceid.bin"

    def all(self) -> list[Path]:
        """Every file."""
        return [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
