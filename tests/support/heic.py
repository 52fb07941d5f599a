"""Small HEIC files, written by pillow-heif: what is installed here only decodes HEIC."""

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "photos" / "heic"


def heic(name: str) -> bytes:
    """A file of the folder, by its name without the ending."""
    return (FOLDER / f"{name}.heic").read_bytes()
