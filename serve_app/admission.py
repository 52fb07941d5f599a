"""How much a replica of the ingress takes on at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.errors import OverloadedError


class Admission:
    """How many images are being made at once; what would be too many is refused before any work is done for it."""

    def __init__(self, max_images: int, retry_after_s: int) -> None:
        self._max_images = max_images
        self._retry_after_s = retry_after_s
        self._images = 0

    @contextmanager
    def admit(self, images: int) -> Iterator[None]:
        """Raises: OverloadedError."""
        if self._images + images > self._max_images:
            raise OverloadedError(f"{self._images} images are being made already.", self._retry_after_s)
        self._images += images
        try:
            yield
        finally:
            self._images -= images
