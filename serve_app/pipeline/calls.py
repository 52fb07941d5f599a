"""Calls to stages through Serve 2.60: their values, errors and cancellation."""

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentResponse

from deployments.errors import AvatarError

PATIENCE_S = 5.0  # for a chained call, before its argument is checked

T = TypeVar("T")
log = logging.getLogger(__name__)

# Serve wraps the death of an earlier stage in a RayServeException of the later one.
STAGE_LOST = (RayActorError, ObjectLostError, RayServeException)


class Calls(list[DeploymentResponse[Any]]):
    """The responses of one job. Leaving the block with an error cancels them all, finished ones included.

    Cancelling only the last one of a chain would not stop the stages before it.
    """

    def __enter__(self) -> "Calls":
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _traceback: object) -> None:
        if kind is not None:
            cancel(*self)

    def add(self, response: DeploymentResponse[T]) -> DeploymentResponse[T]:
        """Add a response to those that an error cancels, and return it."""
        self.append(response)
        return response


async def value_of(response: DeploymentResponse[T]) -> T:
    """The value of a response. Raises: the AvatarError that the stage raised; RayTaskError for its bugs."""
    try:
        value: T = await response
        return value
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # The stage is shutting down, the caller is not cancelled.
        raise RayServeException("the stage gave the work up") from None
    except RayTaskError as error:
        cause: BaseException = error
        while isinstance(cause, RayTaskError):
            cause = cause.cause
        if isinstance(cause, AvatarError):
            raise cause from None
        raise


async def value_of_chained(response: DeploymentResponse[T], source: DeploymentResponse[Any]) -> T:
    """The value of a call whose argument is the response of another call.

    If the argument fails because its replica is unreachable, as on a node that is gone, Serve 2.60 blames the called
    replica and retries without end. So after a while the argument is checked, too.
    """
    value: asyncio.Task[T] = asyncio.create_task(value_of(response))
    try:
        done, _ = await asyncio.wait({value}, timeout=PATIENCE_S)
        if not done:
            # Never cancelled: that would cancel the other call itself.
            argument: asyncio.Task[Any] = asyncio.create_task(value_of(source))
            argument.add_done_callback(lambda task: task.cancelled() or task.exception())
            await asyncio.wait({value, argument}, return_when=asyncio.FIRST_COMPLETED)
            if not value.done():
                argument.result()
        return await value
    finally:
        value.cancel()


async def assigned(response: DeploymentResponse[Any]) -> None:
    """Wait until a replica has a call. An error is told where its value is awaited."""
    try:
        await response._to_object_ref()  # which is there before the value is
    except STAGE_LOST:
        return
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # otherwise the call was cancelled, not its caller


async def all_or_none(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; the first error cancels the others and waits for them."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def is_lost(response: DeploymentResponse[Any]) -> bool:
    """Wait for a call; whether its replica or its value is lost. Raises: the errors of its stage."""
    try:
        await value_of(response)
    except STAGE_LOST:
        return True
    return False


def cancel(*responses: DeploymentResponse[Any]) -> None:
    """Cancel calls without waiting for them, finished ones too. Raises nothing."""
    for response in responses:
        # Cancelling a call that was never assigned to a replica raises the reason why it was not.
        with contextlib.suppress(Exception):
            response.cancel()


def detach(work: Coroutine[Any, Any, T], running: set[asyncio.Task[Any]], failure: str) -> asyncio.Task[T]:
    """Start work that continues when its caller is cancelled; it is in `running` until it is done.

    An error that is not an AvatarError is logged as `failure`.
    """

    def finished(task: asyncio.Task[T]) -> None:
        running.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, AvatarError):
            log.error(failure, exc_info=error)

    # In a context of its own: Serve cancels the calls that were made in the context of a cancelled request.
    task = asyncio.create_task(work, context=contextvars.Context())
    running.add(task)
    task.add_done_callback(finished)
    return task
