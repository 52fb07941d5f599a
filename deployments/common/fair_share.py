"""Fair-share accounting: the work that each tenant used recently, so that tenants who used little go first."""

from collections.abc import Iterable

HALF_LIFE_S = 30.0  # usage this old counts half
NEGLIGIBLE_S = 0.01
MUCH_MORE = 2.0  # factor over another tenant's usage
MAX_TENANTS = 1000

Entry = tuple[float, float]
"""Seconds, and when that was (unix seconds)."""


class FairShare:
    """Seconds of work by tenant, decaying: what is charged here, and what other processes say."""

    def __init__(self) -> None:
        self._charged: dict[str, Entry] = {}
        self._elsewhere: dict[str, Entry] = {}

    def charge(self, parts: Iterable[tuple[str, float]], now: float) -> None:
        """Add the seconds that each tenant used."""
        for tenant, seconds in parts:
            self._charged[tenant] = (_left(self._charged, tenant, now) + seconds, now)
        _forget_negligible(self._charged, now)

    def note_elsewhere(self, tenant: str, seconds: float, now: float) -> None:
        """What a tenant used in other processes, as of now; replaces the last such figure."""
        if seconds > NEGLIGIBLE_S or tenant in self._elsewhere:
            self._elsewhere[tenant] = (seconds, now)
            _forget_negligible(self._elsewhere, now)

    def used_s(self, tenant: str, now: float) -> float:
        """Seconds that a tenant used here and elsewhere, decayed to `now` (unix seconds); 0 for an unknown one."""
        return _left(self._charged, tenant, now) + _left(self._elsewhere, tenant, now)

    def level(self, tenant: str, now: float) -> int:
        """The tenant's usage at `now` (unix seconds) on the scale of `level_of`."""
        return level_of(self.used_s(tenant, now))

    def used_much_more(self, tenant: str, other: str, now: float) -> bool:
        """Whether a tenant used much more than another one."""
        return is_much_more(self.used_s(tenant, now), self.used_s(other, now))


def level_of(used_s: float) -> int:
    """Usage on a logarithmic scale: 0 below a second, then one more for each doubling."""
    return int(1 + used_s).bit_length() - 1


def is_much_more(used_s: float, other_s: float) -> bool:
    """Whether a usage is so much more than another one that its work yields to the other's."""
    return level_of(used_s) > 0 and used_s > MUCH_MORE * other_s


def _left(entries: dict[str, Entry], tenant: str, now: float) -> float:
    seconds, at = entries.get(tenant, (0.0, now))
    return float(seconds * 0.5 ** ((now - at) / HALF_LIFE_S))


def _forget_negligible(entries: dict[str, Entry], now: float) -> None:
    if len(entries) > MAX_TENANTS:
        for tenant in [tenant for tenant in entries if _left(entries, tenant, now) <= NEGLIGIBLE_S]:
            del entries[tenant]
