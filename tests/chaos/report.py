"""What came of chaos: what clients were told against what the service has in the end, and the bars."""

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from serve_app.backends.object_store import photo_key
from serve_app.client import ClientError
from serve_app.tasks.models import UNFINISHED
from serve_app.worker.consumer import MAX_DEATHS
from tests.chaos.ledger import KINDS, Accepted, Kill, Ledger, Order, Plan, without_signatures
from tests.chaos.service import KEYS, Record, Service

RUNS_AGAIN_S = 15  # the bar for a task whose worker was killed
TIDY_S = 30  # after the last task ended: a dead worker's last files go when its message comes again
PROBE_S = 0.2


@dataclass(frozen=True)
class Ends:
    """How the accepted tasks ended, by the answers of the service; the lists are of what should not be."""

    statuses: dict[str, int]
    lost: list[str]
    stuck: list[str]
    duplicated: list[str]
    changed: list[str]
    untruthful: list[str]


@dataclass(frozen=True)
class Files:
    """What is in the store and should not be, or the other way round."""

    missing: list[str]
    left_over: list[str]
    unanswered_photos: int  # of tasks that nobody was told of: a repeat of the request would find them


@dataclass(frozen=True)
class Report:
    plan: Plan
    seconds: float
    kills: dict[str, int]
    accepted: int
    repeated: int
    ends: Ends
    files: Files
    runs_again_s: list[float]
    runs_again_amid_s: list[float]
    sync_requests: int
    sync_refused: dict[str, str]
    hung: int

    def misses(self) -> list[str]:
        """The bars that were missed."""
        killed, again_s = sum(self.kills.values()), max(self.runs_again_s, default=0)
        bars = {
            f"{self.plan.tasks} tasks are accepted in time": self.accepted == self.plan.tasks,
            f"{self.plan.kills} kills, of every kind": killed == self.plan.kills
            and len(self.kills) == min(killed, len(KINDS)),
            "no task is lost": not self.ends.lost,
            "no task is stuck": not self.ends.stuck,
            "no task is done twice": not self.ends.duplicated,
            "what is final stays": not self.ends.changed,
            "every end is truthful": not self.ends.untruthful,
            "every image is stored": not self.files.missing,
            "no file is left over": not self.files.left_over,
            f"tasks of a killed worker run again within {RUNS_AGAIN_S} s": again_s <= RUNS_AGAIN_S,
            "every synchronous request succeeds": not self.sync_refused,
            "no client hangs": not self.hung,
        }
        return [bar for bar, reached in bars.items() if not reached]

    def table(self) -> Table:
        ends, files = self.ends, self.files
        rows: dict[str, object] = {
            "kills": _counted(self.kills),
            "accepted (sent anew)": f"{self.accepted} ({self.repeated})",
            "ends": _counted(ends.statuses),
            "lost, stuck": f"{len(ends.lost)}, {len(ends.stuck)}",
            "done twice, changed later": f"{len(ends.duplicated)}, {len(ends.changed)}",
            "untruthful ends": len(ends.untruthful),
            "files missing, left over": f"{len(files.missing)}, {len(files.left_over)}",
            "photos of unanswered requests": files.unanswered_photos,
            "a killed worker's task runs again after": _spread(self.runs_again_s),
            "the same, the broker or the controller killed too": _spread(self.runs_again_amid_s),
            "synchronous requests, refused": f"{self.sync_requests}, {len(self.sync_refused)}",
            "clients that hang": self.hung,
            "bars missed": "; ".join(self.misses()) or "none",
        }
        table = Table("what", "how many", title=f"{self.plan.tasks} tasks, {self.seconds:.0f} s")
        for what, count in rows.items():
            table.add_row(what, str(count))
        return table


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _spread(times_s: Sequence[float]) -> str:
    if not times_s:
        return "-"
    return f"{statistics.median(times_s):.1f} s median, {max(times_s):.1f} s at most, of {len(times_s)}"


def examined(service: Service, ledger: Ledger, plan: Plan, seconds: float, hung: int) -> Report:
    for _ in _until_tidy(service, ledger):
        time.sleep(PROBE_S)
    return Report(
        plan=plan,
        seconds=round(seconds, 1),
        kills=dict(Counter(kill.kind for kill in ledger.kills)),
        accepted=len(ledger.accepted),
        repeated=len(ledger.repeated),
        ends=_ends(service, ledger),
        files=_files(service, ledger),
        runs_again_s=ledger.runs_again_s,
        runs_again_amid_s=ledger.runs_again_amid_s,
        sync_requests=len(ledger.asked),
        sync_refused=ledger.refused,
        hung=hung,
    )


def _until_tidy(service: Service, ledger: Ledger) -> Iterator[None]:
    deadline = time.monotonic() + TIDY_S
    while time.monotonic() < deadline and (_files(service, ledger).left_over or service.broker.zcard(KEYS.open)):
        yield


def _ends(service: Service, ledger: Ledger) -> Ends:
    now = {accepted.task_id: _asked_again(service, accepted) for accepted in ledger.accepted}
    records, open_tasks = service.records(), service.broker.zrange(KEYS.open, 0, -1)
    unfinished = {task_id for task_id, envelope in now.items() if envelope and envelope["status"] in UNFINISHED}
    changed = [task_id for task_id, envelope in ledger.final.items() if envelope != now[task_id]]
    ended = [(accepted, records[accepted.task_id]) for accepted in ledger.accepted if accepted.task_id in records]
    return Ends(
        statuses=dict(Counter(envelope["status"] for envelope in now.values() if envelope)),
        lost=[task_id for task_id, envelope in now.items() if not envelope],
        stuck=sorted(unfinished.union(open_tasks)),
        duplicated=_duplicated(records),
        changed=[f"{task_id}: {_differences(ledger.final[task_id], now[task_id])}" for task_id in changed],
        untruthful=[
            f"{accepted.task_id} {record.status} {accepted.order} {record.outcome.failure}"
            for accepted, record in ended
            if not _is_truthful(accepted.order, record, ledger.kills)
        ],
    )


def _asked_again(service: Service, accepted: Accepted) -> dict[str, Any]:
    """The envelope of a task; empty where there is none."""
    with service.client() as client:
        try:
            return without_signatures(client.avatars.get(accepted.task_id).envelope)
        except ClientError:
            return {}


def _differences(one: dict[str, Any], other: dict[str, Any]) -> str:
    names = sorted(one.keys() | other.keys())
    return "; ".join(f"{name} {one.get(name)} {other.get(name)}" for name in names if one.get(name) != other.get(name))


def _duplicated(records: dict[str, Record]) -> list[str]:
    """The orders that were carried out more than once."""
    done = Counter(record.task.request.ref_id for record in records.values() if record.status == "SUCCESS")
    return [str(name) for name, count in done.items() if count > 1]


def _is_truthful(order: Order, record: Record, kills: Sequence[Kill]) -> bool:
    """Whether a task ended as it had to. Given up it may be only if enough processes were killed under it."""
    if record.status == "CANCELLED":
        return order.cancelled
    if record.status == "SUCCESS":
        whole = len(record.outcome.avatars) == order.batch
        return not order.faceless and (whole or order.cancelled)  # who cancels what is done deletes its images
    if record.dead:
        lived = [kill for kill in kills if record.task.submitted_at <= kill.at <= record.finished_at]
        return sum(kill.kind in ("worker", "generator", "embedder", "remover") for kill in lived) >= MAX_DEATHS
    failure = record.outcome.failure
    return order.faceless and failure is not None and failure.error == "Face Consistent Error"


def _files(service: Service, ledger: Ledger) -> Files:
    needed = {key for record in service.records().values() for key in record.files}
    present = service.files()
    answered = {photo_key(accepted.task_id) for accepted in ledger.accepted}
    photos = {key for key in present - needed if key.startswith("photos/") and key not in answered}
    return Files(sorted(needed - present), sorted(present - needed - photos), len(photos))
