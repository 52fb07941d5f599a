"""How far a request came."""

import time
from dataclasses import dataclass, field

from serve_app.schemas import Envelope, TimeRequired
from serve_app.task_models import Task


@dataclass
class RequestProgress:
    """Of one request: enough for the envelope of an error."""

    started: float = field(default_factory=time.perf_counter)
    app_id: str = ""
    task: Task | None = None

    def envelope(self) -> Envelope:
        return Envelope(
            time_required=TimeRequired(runtime=round(time.perf_counter() - self.started, 4)),
            input=self.task.request.model_dump() if self.task else {},
            app_id=self.app_id,
            task_id=self.task.task_id if self.task else "",
        )
