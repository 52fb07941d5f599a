"""`FairSlots` of many ingresses at once."""

import numpy as np

from loadtest.plan.fleet_calls import Mask
from loadtest.plan.replica_table import Numbers


class FleetSlots:
    """What owners hold at each ingress, as arrays: (ingresses, owners)."""

    def __init__(self, slots: int, owners: int) -> None:
        self._slots = slots
        self._held = np.zeros((8, owners), np.int32)
        self._totals = np.zeros(8, np.int64)
        self._owners = np.zeros(8, np.int64)  # that hold any

    def hold(self, ingresses: Numbers, owners: Numbers, images: Numbers) -> Mask:
        """As `FairSlots.hold`, of one request at each of different ingresses; whether each is let in."""
        self._grow(int(ingresses.max()) + 1)
        own, held = self._held[ingresses, owners], self._totals[ingresses]
        share = self._slots / np.maximum(1, self._owners[ingresses])
        is_in: Mask = ~((own > 0) & (held + images > self._slots) & (own + images > share))
        self._held[ingresses, owners] += np.where(is_in, images, 0).astype(np.int32)
        self._totals[ingresses] += np.where(is_in, images, 0)
        self._owners[ingresses] += is_in & (own == 0)
        return is_in

    def release(self, ingresses: Numbers, owners: Numbers, images: Numbers) -> None:
        """Any number of requests have ended."""
        np.subtract.at(self._held, (ingresses, owners), images)
        np.subtract.at(self._totals, ingresses, images)
        pairs = np.unique(ingresses * self._held.shape[1] + owners)
        done = pairs[self._held.ravel()[pairs] == 0] // self._held.shape[1]
        np.subtract.at(self._owners, done, 1)

    def _grow(self, ingresses: int) -> None:
        more = max(ingresses, 2 * len(self._held)) - len(self._held)
        if ingresses > len(self._held):
            self._held = np.pad(self._held, ((0, more), (0, 0)))
            self._totals = np.pad(self._totals, (0, more))
            self._owners = np.pad(self._owners, (0, more))
