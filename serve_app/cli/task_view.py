"""A task as whoever waits for it at a command line sees it: bars on a terminal, else a line at every change."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from serve_app.client import Task, TaskProgress


class TaskView:
    """Shows the states of one task; what it has drawn on a terminal is gone after the block."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = _Bars(console) if console.is_terminal else None
        self._said: object = None

    def __enter__(self) -> "TaskView":
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, task: Task) -> None:
        if self._bars is not None:
            self._bars.show(task)
            return
        progress = task.progress or TaskProgress()
        said = task.status, progress.queue_position, progress.images_done
        if said != self._said and not task.finished:
            self._said = said
            self._console.print(state(task), markup=False)


class _Bars:
    """One line for the task, and under it a bar for each of its images."""

    def __init__(self, console: Console) -> None:
        columns = TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[steps]}")
        # Otherwise it would take stdout along to the stream that it is drawn on.
        self._shown = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
        self._whole = self._shown.add_task("queued", total=None, steps="")
        self._images: list[TaskID] = []

    def start(self) -> None:
        self._shown.start()

    def stop(self) -> None:
        self._shown.stop()

    def show(self, task: Task) -> None:
        progress = task.progress
        self._shown.update(self._whole, description=state(task))
        if progress is None or not progress.steps or not progress.images:
            return
        self._shown.update(self._whole, total=progress.steps, completed=progress.step or 0)
        if not self._images:
            self._images = [self._add(index, progress.steps) for index in range(progress.images)]
        for bar, made in zip(self._images, progress.image_steps, strict=False):
            self._shown.update(bar, completed=made, steps=f"{made} of {progress.steps}")

    def _add(self, index: int, steps: int) -> TaskID:
        return self._shown.add_task(f"  image {index + 1}", total=steps, steps="")


def state(task: Task) -> str:
    """A task in one line: `STARTED, step 12 of 30, 1 of 4 images, about 8 s left`."""
    progress = task.progress
    parts = [task.status]
    if progress is not None:
        if progress.queue_position:
            parts.append(f"number {progress.queue_position} in the queue")
        if progress.step is not None and progress.steps:
            parts.append(f"step {progress.step} of {progress.steps}")
        if progress.images_done is not None and progress.images:
            parts.append(f"{progress.images_done} of {progress.images} images")
        if progress.eta_s is not None:
            parts.append(f"about {progress.eta_s:.0f} s left")
    return ", ".join(parts)
