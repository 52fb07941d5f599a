"""Fair-share accounting: generator time that each tenant used recently, so that tenants who used little go first."""

from collections.abc import Iterable

HALF_LIFE_S = 30.0  # usage this old counts half
NEGLIGIBLE_S = 0.01
MUCH_MORE = 2.0  # factor over another tenant's usage
MAX_TENANTS = 1000


class FairShare:
    """Seconds of denoising steps by tenant, decaying; a shared step is split by each tenant's part of the batch."""

    def __init__(self) -> None:
        self._used: dict[str, tuple[float, float]] = {}  # seconds, and when that was (unix seconds)

    def charge(self, parts: Iterable[tuple[str, float]], now: float) -> None:
        """Add the seconds that each tenant used."""
        for tenant, seconds in parts:
            self._used[tenant] = (self.used_s(tenant, now) + seconds, now)
        if len(self._used) > MAX_TENANTS:
            self._used = {
                tenant: used for tenant, used in self._used.items() if self.used_s(tenant, now) > NEGLIGIBLE_S
            }

    def used_s(self, tenant: str, now: float) -> float:
        seconds, at = self._used.get(tenant, (0.0, now))
        return float(seconds * 0.5 ** ((now - at) / HALF_LIFE_S))

    def level(self, tenant: str, now: float) -> int:
        """Usage on a logarithmic scale: 0 below a second, then one more for each doubling."""
        return int(1 + self.used_s(tenant, now)).bit_length() - 1

    def used_much_more(self, tenant: str, other: str, now: float) -> bool:
        """Whether a tenant used much more than another one."""
        return self.level(tenant, now) > 0 and self.used_s(tenant, now) > MUCH_MORE * self.used_s(other, now)
