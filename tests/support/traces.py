"""What a photo leaves where it goes: pieces of every form that it has on its way, and the files that hold one."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from deployments.types import FaceEmbedding, Photo
from serve_app.photos.decode import pack_photo

WINDOW = 24  # bytes: long enough to occur nowhere by chance


def forms_of(file: bytes, photo: Photo, face: FaceEmbedding) -> dict[str, bytes]:
    """Every form of a photo whole: the uploaded file, what is read of it, and what is read of its face."""
    heads = {f"head {number}": head for number, head in enumerate(face.heads)}
    return {
        "file": file,
        "pixels": photo.pixels.tobytes(),
        "packed": pack_photo(photo),
        "embedding": face.vector.astype(np.float32).tobytes(),
        **heads,
    }


def traces_of(file: bytes, photo: Photo, face: FaceEmbedding) -> dict[str, list[bytes]]:
    """Windows of every form, by its name, and of how files are written into text."""
    forms = forms_of(file, photo, face)
    files = {name: data for name, data in forms.items() if name == "file" or name.startswith("head")}
    return {
        **{name: windows(data) for name, data in forms.items()},
        **{f"{name} in base64": _base64_windows(data) for name, data in files.items()},
        **{f"{name} in a log": windows(repr(data[100:3000]).encode()) for name, data in files.items()},
        "embedding in words": [str(float(value)).encode()[:12] for value in face.vector[:8]],
    }


def as_text(file: bytes, face: FaceEmbedding) -> dict[str, bytes]:
    """Text in which the traces of that name are to be found."""
    files = {"file": file} | {f"head {number}": head for number, head in enumerate(face.heads)}
    return {
        **{f"{name} in base64": b"x" * 1001 + base64.b64encode(data) for name, data in files.items()},
        **{f"{name} in a log": repr([data]).encode() for name, data in files.items()},
        "embedding in words": repr(face.vector.tolist()).encode(),
    }


def _base64_windows(data: bytes) -> list[bytes]:
    """Wherever in a longer text the data begins, one of them is there: three bytes are four letters."""
    return [base64.b64encode(data[start:])[1000:][:WINDOW] for start in range(3)]


def windows(data: bytes) -> list[bytes]:
    """From everywhere in the data; those of one byte alone, as a black corner is, would be found by chance."""
    pieces = [data[start : start + WINDOW] for start in range(0, len(data) - WINDOW, max(1, len(data) // 50))]
    return [piece for piece in pieces if len(set(piece)) > WINDOW // 3]


def found(traces: Mapping[str, Sequence[bytes]], *folders: Path) -> list[tuple[str, str]]:
    """Which of the traces lie in which files."""
    places = []
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                places += [(kind, str(path)) for kind, pieces in traces.items() if any(p in data for p in pieces)]
    return places
