"""When queued tasks will be done, by how fast the workers were of late."""

import math
from typing import NamedTuple

from serve_app.errors import MAX_RETRY_AFTER_S
from serve_app.tasks.models import Pace


class Forecast(NamedTuple):
    """`running` tasks are being worked on. While others wait they are as many as the workers take at once."""

    pace: Pace
    running: int

    def start_s(self, position: int) -> float:
        """Until the task at a place in the queue (1 is next) is taken: each end of a task makes room for one."""
        return position * self.pace.task_s / self.running if self.running else 0.0

    def done_s(self, position: int, images: int) -> float:
        """Until it is done; 0 is being worked on, and `images` are those that are left."""
        return self.start_s(position) + images * self.pace.image_s

    def retry_after_s(self, too_late_s: float = 0.0) -> int:
        """When to try again: after the next end of a task, or when the queue is shorter by so many seconds."""
        wait_s = max(self.start_s(1), too_late_s)
        return min(max(math.ceil(wait_s), 1), MAX_RETRY_AFTER_S)
