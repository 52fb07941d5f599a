"""How much of the generator each tenant had of late: who had little goes first, and is hardly slowed by the others."""

from collections.abc import Iterable

HALF_LIFE_S = 30.0  # what was used so long ago counts half
FORGOTTEN_S = 0.01
GREEDY = 2.0  # times as much as another
MOST_TENANTS = 1000


class Shares:
    """Seconds of steps, by tenant; of a step that several share, each has its part of the width."""

    def __init__(self) -> None:
        self._used: dict[str, tuple[float, float]] = {}  # seconds, and when that was (unix seconds)

    def charge(self, parts: Iterable[tuple[str, float]], now: float) -> None:
        """Tenants and the seconds that each used."""
        for tenant, seconds in parts:
            self._used[tenant] = (self.used_s(tenant, now) + seconds, now)
        if len(self._used) > MOST_TENANTS:
            self._used = {tenant: used for tenant, used in self._used.items() if self.used_s(tenant, now) > FORGOTTEN_S}

    def used_s(self, tenant: str, now: float) -> float:
        seconds, at = self._used.get(tenant, (0.0, now))
        return float(seconds * 0.5 ** ((now - at) / HALF_LIFE_S))

    def level(self, tenant: str, now: float) -> int:
        """The same for tenants that used about as much: 0 below a second, then one more for each doubling."""
        return int(1 + self.used_s(tenant, now)).bit_length() - 1

    def greedier(self, tenant: str, other: str, now: float) -> bool:
        """Whether a tenant used much more than another one."""
        return self.level(tenant, now) > 0 and self.used_s(tenant, now) > GREEDY * self.used_s(other, now)
