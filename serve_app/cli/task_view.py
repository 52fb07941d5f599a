"""Shows the progress of a task: bars on a terminal, otherwise a line for each change."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from serve_app.client import Task, TaskProgress


class TaskView:
    """Shows the states of one task; its bars disappear at the end of the block."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = _Bars(console) if console.is_terminal else None
        self._printed: object = None

    def __enter__(self) -> "TaskView":
        if self._bars is not None:
            self._bars.progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._bars is not None:
            self._bars.progress.stop()

    def show(self, task: Task) -> None:
        """Update the bars; without a terminal, print an unfinished task if its place, status or images changed."""
        if self._bars is not None:
            self._bars.show(task)
            return
        progress = task.progress or TaskProgress()
        current = task.status, progress.queue_position, progress.images_done
        if current != self._printed and not task.finished:
            self._printed = current
            self._console.print(state(task), markup=False)


class _Bars:
    """A bar for the task, and below it one for each of its images."""

    def __init__(self, console: Console) -> None:
        columns = TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[steps]}")
        # Without the redirects: they would send stdout to this console, too.
        self.progress = Progress(
            *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._task = self.progress.add_task("queued", total=None, steps="")
        self._images: list[TaskID] = []

    def show(self, task: Task) -> None:
        """Update the bars: one for the task, and one for each image once its steps are known."""
        progress = task.progress
        self.progress.update(self._task, description=state(task))
        if progress is None or not progress.steps or not progress.images:
            return
        self.progress.update(self._task, total=progress.steps, completed=progress.step or 0)
        if not self._images:
            self._images = [self._add(index, progress.steps) for index in range(progress.images)]
        for bar, step in zip(self._images, progress.image_steps, strict=False):
            self.progress.update(bar, completed=step, steps=f"{step} of {progress.steps}")

    def _add(self, index: int, steps: int) -> TaskID:
        return self.progress.add_task(f"  image {index + 1}", total=steps, steps="")


def state(task: Task) -> str:
    """The state of a task in one line: `STARTED, step 12 of 30, 1 of 4 images, about 8 s left`."""
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
