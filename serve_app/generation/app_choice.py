"""Decides which app draws a task: the one that its request names, or the one to fall back on."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

from serve_app.catalog.catalog import Catalog
from serve_app.errors import BrokerError, OverloadedError
from serve_app.tasks.loaded_models import LoadedModels
from serve_app.tasks.models import Task

Check = Callable[[Task], Awaitable[None]]
"""Raises: OverloadedError where a task cannot be accepted, with the app of its request."""


class AppChoice:
    """Decides once for each task, when it is accepted.

    The other app draws where the task would miss a deadline with the app that was asked for, and would not with the
    other one: by the forecast of the queue, or as the model of the one must be loaded first, and that of the other one
    is in memory. What limits all apps alike refuses both.
    """

    def __init__(self, catalog: Catalog, models: LoadedModels, usual_load_s: float) -> None:
        """`usual_load_s` is assumed for a model whose load was not seen."""
        self._catalog = catalog
        self._models = models
        self._usual_load_s = usual_load_s

    async def choose(self, task: Task, check: Check) -> Task:
        """The task, with the app that draws it. Raises: what `check` raises of the app that was asked for."""
        if task.fallback is None:
            await check(task)
            return task
        asked, other = task, task.model_copy(update={"request": task.fallback, "fallback": None})
        refusals: dict[str, OverloadedError] = {}
        for each in (other, asked) if await self._loads_too_long(asked, other) else (asked, other):
            try:
                await check(each)
            except OverloadedError as refusal:
                refusals[each.request.app_id] = refusal
            else:
                return each
        raise refusals[asked.request.app_id]

    async def _loads_too_long(self, asked: Task, other: Task) -> bool:
        """Whether loading the model of the app asked for takes too long, while that of the other is in memory."""
        request = asked.request
        models = [self._catalog[task.request.app_id].model for task in (asked, other)]
        load_s, other_load_s = 0.0, 0.0
        with suppress(BrokerError):
            load_s, other_load_s = await self._models.load_s(models, self._usual_load_s)
        within_s = request.deadline_s if request.start_deadline_s is None else request.start_deadline_s
        return load_s > within_s and not other_load_s
