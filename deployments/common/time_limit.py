"""Blocks that end by a moment."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from deployments.errors import DeadlineError


@asynccontextmanager
async def ends_by(moment: float | None, error: DeadlineError) -> AsyncIterator[None]:
    """Cancels the block at `moment` (unix seconds; None: never), or does not enter it. Raises: `error` then."""
    left_s = None if moment is None else moment - time.time()
    if left_s is not None and left_s <= 0:
        raise error
    try:
        async with asyncio.timeout(left_s) as scope:
            yield
    except TimeoutError:
        if not scope.expired():
            raise
        raise error from None
