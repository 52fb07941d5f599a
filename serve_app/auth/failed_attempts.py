"""Failed authentications, counted by the address that they came from."""

import ipaddress
import time
from collections import Counter

PER_MINUTE = 10  # from one address and at one ingress replica before it is slowed down
WINDOW_S = 60.0
MAX_ADDRESSES = 4096  # that are counted at once
IPV6_PREFIX = 64  # what one customer of a network has


class FailedAttempts:
    """Those of one ingress replica, in windows of a minute."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._began = time.monotonic()

    def count(self, address: str) -> bool:
        """Count one; whether there are too many from this address. Beyond MAX_ADDRESSES new ones are not counted."""
        now, network = time.monotonic(), _network(address)
        if now - self._began >= WINDOW_S:
            self._counts.clear()
            self._began = now
        if network in self._counts or len(self._counts) < MAX_ADDRESSES:
            self._counts[network] += 1
        return self._counts[network] > PER_MINUTE


def _network(address: str) -> str:
    """The address itself, or the network of an IPv6 one; what is no address stands for itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped is not None:  # as a socket for both shows it
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))
