"""The bytes of one request body while they arrive."""

import mmap

SMALL_BYTES = 64 * 1024


class BodyBuffer:
    """Large bodies are in memory of their own, never in a file, whose pages are taken as bytes arrive.

    It goes back to the system at once. On the heap, bodies that grow side by side leave holes as large as they are.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._small = bytearray()
        self._large: mmap.mmap | None = None
        self.size = 0

    def append(self, chunk: bytes) -> None:
        """Raises: ValueError beyond `max_bytes`."""
        end = self.size + len(chunk)
        if end > self._max_bytes:
            raise ValueError("the body is larger than its buffer")
        if self._large is None and end > SMALL_BYTES:
            self._large = mmap.mmap(-1, self._max_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self._large[: self.size] = bytes(self._small)
            self._small.clear()
        if self._large is None:
            self._small += chunk
        else:
            self._large[self.size : end] = chunk
        self.size = end

    def take(self) -> bytes:
        """The whole body; the buffer is empty then."""
        body = bytes(self._small) if self._large is None else self._large[: self.size]
        self.clear()
        return body

    def clear(self) -> None:
        """Empty the buffer and give its memory back to the system; may be repeated."""
        self._small.clear()
        if self._large is not None:
            self._large.close()
            self._large = None
        self.size = 0
