"""Failed authentications, counted by the address that they came from."""

import ipaddress

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

PER_MINUTE = 10  # from one address and at one ingress replica before it is slowed down
IPV6_PREFIX = 64  # what one customer of a network has


class FailedAttempts:
    """Those of one ingress replica. An address is forgotten a minute after its first one."""

    def __init__(self) -> None:
        self._windows = FixedWindowRateLimiter(MemoryStorage())

    async def count(self, address: str) -> bool:
        """Count one; whether there are too many from this address."""
        return not await self._windows.hit(RateLimitItemPerMinute(PER_MINUTE), _network(address))


def _network(address: str) -> str:
    """The address itself, or the network of an IPv6 one; what is no address stands for itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False)) if parsed.version == 6 else address
