"""The requests under way in a fleet, and their images in its replicas, as arrays."""

import numpy as np
import numpy.typing as npt

from loadtest.plan.replica_table import Floats, Numbers

REQUEST = np.dtype(
    [
        ("number", np.int64),
        ("came_at", float),
        ("kind", np.int32),  # of the load's columns
        ("tenant", np.int32),
        ("ingress", np.int32),
        ("deadline", float),
        ("called_at", float),  # when its images have a replica, at the earliest
        ("calls", np.int32),  # images that no replica has
        ("late", np.int32),  # images that are late
        ("ends_at", float),  # of its images that replicas have or had
    ]
)
CALL = np.dtype(
    [("request", np.int64), ("ends_at", float), ("group", np.int32), ("replica", np.int32), ("is_late", bool)]
)
"""An image in a replica: in any of a group, or, with the group -1, in the one of that number."""

Rows = npt.NDArray[np.void]
Mask = npt.NDArray[np.bool_]


class FleetCalls:
    """Requests wait at handles while an image of theirs has no replica. Each image ends once: drawn, or late."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self.waiting: Rows = np.empty(0, REQUEST)
        self.placed: Rows = np.empty(0, REQUEST)  # all of whose images have or had a replica
        self.calls: Rows = np.empty(0, CALL)
        self._new: list[Rows] = []

    @property
    def waiting_images(self) -> int:
        """Images that no replica has."""
        return int(self.waiting["calls"].sum())

    def in_groups(self, groups: int) -> Numbers:
        """How many images each group has."""
        return np.bincount(self.calls["group"] + 1, minlength=groups + 1)[1:]

    def end_images(self, now: float) -> int:
        """Let go of the images that have ended; returns how many."""
        is_over = self.calls["ends_at"] <= now
        ended = int(is_over.sum())
        if ended:
            self.calls = self.calls[~is_over]
        return ended

    def end_requests(self, now: float, after_s: float) -> Rows:
        """Those whose images have ended, and that are late or had `after_s` for what comes then."""
        if not len(self.placed):
            return self.placed
        has_ended = self.placed["ends_at"] + np.where(self.placed["late"], 0.0, after_s) <= now
        ended = self.placed[has_ended]
        if len(ended):
            self.placed = self.placed[~has_ended]
        return ended

    def give_up_late(self, now: float) -> int:
        """Waiting images whose deadline has passed end late; returns how many."""
        is_over = self.waiting["deadline"] <= now
        if not is_over.any():
            return 0
        images = int(self.waiting["calls"][is_over].sum())
        self.waiting["late"][is_over] += self.waiting["calls"][is_over]
        self.waiting["ends_at"][is_over] = np.maximum(self.waiting["ends_at"][is_over], now)
        self.place(is_over)
        return images

    def give(self, chosen: Numbers, ends_at: Floats, group: int, replicas: Numbers | int = 0) -> None:
        """A group, or replicas without one, take the images of waiting requests: `ends_at` is (requests, images).

        Only as many of a request's as it calls for count; each ends at the deadline at the latest.
        """
        rows = self.waiting[chosen]
        asked = np.arange(ends_at.shape[1]) < rows["calls"][:, None]
        is_late = asked & (ends_at > rows["deadline"][:, None])
        ends_at = np.where(asked, np.minimum(ends_at, rows["deadline"][:, None]), 0.0)
        calls = np.empty(int(asked.sum()), CALL)
        calls["request"] = np.repeat(rows["number"], rows["calls"])
        calls["ends_at"], calls["is_late"] = ends_at[asked], is_late[asked]
        calls["group"], calls["replica"] = group, replicas
        self._new.append(calls)
        self.waiting["late"][chosen] += is_late.sum(axis=1).astype(np.int32)
        self.waiting["ends_at"][chosen] = np.maximum(rows["ends_at"], ends_at.max(axis=1))

    def place(self, is_placed: Mask) -> None:
        """Those of the waiting requests whose images all were given wait no more."""
        if is_placed.any():
            placed = self.waiting[is_placed]
            placed["calls"] = 0
            self.placed = np.concatenate([self.placed, placed])
            self.calls = np.concatenate([self.calls, *self._new])
            self.waiting = self.waiting[~is_placed]
            self._new.clear()

    def move_share(self, group: int, replicas: int, to_group: int, replica: int = 0) -> None:
        """One of the replicas of a group goes elsewhere with its images: which they are is drawn."""
        moved = (self.calls["group"] == group) & (self._random.random(len(self.calls)) * replicas < 1)
        self.calls["group"][moved] = to_group
        self.calls["replica"][moved] = replica

    def join(self, replica: int, group: int) -> None:
        """The images of one replica are its group's from now on."""
        joining = self.calls["replica"] == replica
        self.calls["group"][joining] = group
        self.calls["replica"][joining] = 0

    def last_end(self, replica: int) -> float | None:
        """When the last image of one replica ends; None where it has none."""
        ends_at = self.calls["ends_at"][self.calls["replica"] == replica]
        return float(ends_at.max()) if len(ends_at) else None

    def redo(self, replica: int, now: float) -> int:
        """The images of one replica are called for again; returns how many."""
        is_lost = self.calls["replica"] == replica
        lost, self.calls = self.calls[is_lost], self.calls[~is_lost]
        if len(lost):
            rows = np.concatenate([self.waiting, self.placed])
            order = np.argsort(rows["number"])
            at = order[np.searchsorted(rows["number"], lost["request"], sorter=order)]
            np.add.at(rows["calls"], at, 1)
            np.subtract.at(rows["late"], at, lost["is_late"])
            rows["called_at"][at] = now
            rows["ends_at"][at] = now
            others = self.calls[np.isin(self.calls["request"], lost["request"])]
            at = order[np.searchsorted(rows["number"], others["request"], sorter=order)]
            np.maximum.at(rows["ends_at"], at, others["ends_at"])
            self.waiting, self.placed = rows[rows["calls"] > 0], rows[rows["calls"] == 0]
        return len(lost)
