"""Whom a request without a key comes from: an IPv4 address, or the /64 that a subscriber of IPv6 has whole."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

UNKNOWN = "unknown"
"""Whatever is no address (a Unix socket, nonsense from a proxy) counts as one sender."""


def network_of(client: tuple[str, int] | list[str | int] | None) -> str:
    """The sender of a request by its ASGI `client`: the peer, or what a trusted proxy says it is."""
    try:
        address = ip_address(str(client[0])) if client else None
    except ValueError:
        address = None
    if address is None:
        return UNKNOWN
    if isinstance(address, IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{address.packed[:8].hex(':', 2)}::/64"
