"""The answers that the users of a load test got: one line of JSON each, written on arrival."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

Group = Literal["sync", "queued", "events", "cancelled", "bad"]
"""Users that wait, poll, follow events or cancel, and the bad requests of all of them."""

Verdict = Literal["right", "refused", "wrong"]


class Answer(BaseModel):
    """One answer of the service, or how a queued task ended, as its user saw it.

    `refused` is what a 503 or 429 with Retry-After is: neither right nor wrong.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    group: Group
    kind: str
    ended: float  # unix seconds
    latency_s: float
    verdict: Verdict
    status: int | None  # HTTP; 0 without an answer, None for the end of a task, which is not an HTTP answer
    problem: str = ""  # of a wrong one
    images: int = 0
    stages: dict[str, float] = {}  # seconds
    queue_wait_s: float | None = None

    @property
    def started(self) -> float:
        """Unix seconds."""
        return self.ended - self.latency_s


class UserCount(BaseModel):
    """The number of users at one moment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: float  # unix seconds
    users: int  # active; a stopping user counts until its last answer


class Log:
    """Appends lines of JSON to a file, flushed at each line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def add(self, line: BaseModel) -> None:
        """One JSON object on a line; in the file when this returns."""
        self._file.write(line.model_dump_json() + "\n")

    def close(self) -> None:
        """Nothing can be added afterwards."""
        self._file.close()


def read_answers(path: Path) -> Iterator[Answer]:
    """The answers of a log; tolerates an incomplete last line."""
    return map(Answer.model_validate_json, _lines(path))


def read_counts(path: Path) -> Iterator[UserCount]:
    """The user counts of a log, oldest first; tolerates an incomplete last line, and a missing file."""
    return map(UserCount.model_validate_json, _lines(path))


def _lines(path: Path) -> Iterator[str]:
    """The complete lines; none where there is no file."""
    if path.exists():
        with path.open() as lines:
            yield from (line for line in lines if line.endswith("\n"))
