"""Whether the drawing of a job has begun, where its images may be drawn by several generators."""

import asyncio

from deployments.errors import NotBegunError


class JobStart:
    """Gathers what becomes of the images of a job that must begin by a start deadline.

    A job has begun with the first step of any of its images. A generator knows that of its own images alone, so it may
    give up one of a job that has begun elsewhere.
    """

    def __init__(self, images: int) -> None:
        self._unknown = images  # those of which no generator has said whether they began
        self._known = asyncio.Event()
        self._begun = False

    def image_begun(self) -> None:
        """An image was drawn, at least in part."""
        self._begun = True
        self._known.set()

    async def image_given_up(self, error: NotBegunError) -> None:
        """One was given up: returns when another one is known to have begun. Raises: `error` where none has."""
        self._unknown -= 1
        if not self._unknown:
            self._known.set()
        await self._known.wait()
        if not self._begun:
            raise error
