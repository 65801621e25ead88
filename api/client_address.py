"""Whom a request without a key comes from: an IPv4 address, or the /64 that a subscriber of IPv6 has whole."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

UNKNOWN = "unknown"
"""Whatever is no address (a Unix socket, nonsense from a proxy) counts as one sender."""


Client: TypeAlias = tuple[str, int] | list[str | int] | None
"""As ASGI has it in `scope["client"]`."""


def network_of(client: Client) -> str:
    """The sender of a request by its ASGI `client`: the peer, or what a trusted proxy says it is."""
    return _network(str(client[0])) if client else UNKNOWN


@lru_cache(maxsize=4096)
def _network(host: str) -> str:
    """Remembered: to parse an address costs as much as to route its request."""
    address = _address(host)
    if address is None:
        return UNKNOWN
    if isinstance(address, IPv4Address):
        return str(address)
    return f"{address.packed[:8].hex(':', 2)}::/64"


def of_this_machine(client: Client) -> bool:
    """Whether it is a loopback address."""
    address = _address(str(client[0])) if client else None
    return address is not None and address.is_loopback


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
