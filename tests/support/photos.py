"""Photos that installed packages ship, and forms in which they are sent."""

import base64
import importlib.util
import io
from pathlib import Path

from PIL import Image

from deployments.types import Pixels
from serve_app.photos.sample import sample_photo


def insightface_images() -> Path:
    """The folder of photos in the insightface package; importing it would need OpenCV's system libraries."""
    found = importlib.util.find_spec("insightface")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "data" / "images"


def photo_files() -> dict[str, bytes]:
    """Photos that installed packages ship, by the name under which the web server has them."""
    shipped = insightface_images()
    return {
        "astronaut.png": sample_photo().read_bytes(),
        "hanks.png": (shipped / "Tom_Hanks_54745.png").read_bytes(),
        "six.jpg": (shipped / "t1.jpg").read_bytes(),
        "cat.png": sample_photo().with_name("chelsea.png").read_bytes(),
    }


def png(array: Pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
