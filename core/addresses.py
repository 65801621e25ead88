"""Which addresses of a network a user's URL may lead to: public ones, and those an operator allows."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
_REFUSED: tuple[Network, ...] = (
    ipaddress.IPv4Network("192.0.0.0/24"),  # RFC 6890, protocol assignments
    ipaddress.IPv4Network("192.88.99.0/24"),  # RFC 7526, 6to4 relays
    ipaddress.IPv4Network("168.63.129.16/32"),  # Azure's channel between a machine and its host
    ipaddress.IPv6Network("2001::/23"),  # RFC 2928, among them Teredo and ORCHID
    ipaddress.IPv6Network("2002::/16"),  # RFC 3056, 6to4: an IPv4 address inside
    ipaddress.IPv6Network("3fff::/20"),  # RFC 9637, documentation
)
"""What `is_global` of some Python lets pass. NAT64 (64:ff9b::/96, 64:ff9b:1::/48) is not in 2000::/3 at all."""

_LOOPBACK = (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))

UNSERVED_PORTS = frozenset(
    {1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6679, 6697, 10080, *range(6665, 6670)}
)
"""Ports from 1024 on that are other protocols' (Fetch standard, "bad port")."""


@dataclass(frozen=True)
class Allowed:
    """What an operator lets a user's URL reach besides public addresses: a network or a host name; None: any port."""

    where: Network | str
    port: int | None = None

    def covers(self, host: str, address: Address, port: int) -> bool:
        """Whether `address`, which `host` of the URL stands for, may be reached at `port`."""
        if self.port not in (None, port):
            return False
        return self.where == host if isinstance(self.where, str) else address in self.where

    def may_cover(self, host: str, port: int) -> bool:
        """Whether there is an address that `host` may have for which `covers` is true."""
        return self.port in (None, port) and (not isinstance(self.where, str) or self.where == host)


def parse_allowed(text: str) -> tuple[Allowed, ...]:
    """A comma-separated list of networks (`10.1.0.0/16`), addresses, and `host:port` (`127.0.0.1:8080`, `[::1]:8080`).

    Raises:
        ValueError: an entry is none of these.
    """
    return tuple(_parse_entry(entry.strip()) for entry in text.split(",") if entry.strip())


def _parse_entry(entry: str) -> Allowed:
    try:
        return Allowed(ipaddress.ip_network(entry))
    except ValueError:
        parts = re.fullmatch(r"(?:\[(?P<v6>[0-9a-f:]+)\]|(?P<host>[a-z0-9._-]+)):(?P<port>[0-9]{1,5})", entry.lower())
    if parts is None or not 1 <= int(parts["port"]) <= 65535:
        raise ValueError(f"{entry!r} is neither a network such as 10.1.0.0/16 nor host:port")
    port = int(parts["port"])
    if parts["v6"]:
        return Allowed(ipaddress.ip_network(parts["v6"]), port)
    address = literal(parts["host"])
    return Allowed(parts["host"] if address is None else ipaddress.ip_network(address), port)


def literal(host: str) -> Address | None:
    """The address that `host` spells out, as `127.0.0.1`, `0x7f.1`, `0177.0.0.1`, `2130706433`, `::1`; None for a name.

    Raises:
        ValueError: the last part is a number, so that it is no name, but it is no address either (URL standard).
    """
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        if not re.fullmatch(r"[0-9]+|0x[0-9a-f]*", host.lower().rstrip(".").rpartition(".")[2]):
            return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host.rstrip(".")))
    except OSError:
        raise ValueError(f"{host[:80]!r} is no address") from None


def is_public(address: Address) -> bool:
    """Whether `address` is an ordinary address of the public internet.

    Not: private, shared, loopback, link-local (metadata services), multicast, reserved, or one that carries an IPv4
    address inside (mapped, NAT64, 6to4, Teredo), since a translator on the way may turn it into a private one.
    """
    if not address.is_global or address.is_multicast or any(address in network for network in _REFUSED):
        return False
    return isinstance(address, ipaddress.IPv4Address) or address in _UNICAST_V6


def may_reach(host: str, address: Address, port: int, allowed: Sequence[Allowed] = ()) -> bool:
    """Whether a user's URL may lead to `address` (which its `host` stands for) at `port`.

    Without an operator's word: public addresses at ports 80, 443, and 1024 to 65535 less `UNSERVED_PORTS`.
    """
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if any(entry.covers(host, mapped or address, port) for entry in allowed):
        return True
    return is_public(address) and _served(port)


def may_name(host: str, port: int, allowed: Sequence[Allowed] = ()) -> bool:
    """Whether a user's URL may name `host`, which spells out no address, at `port`, before anybody knows its address.

    Names that are always this machine (`localhost` and below, RFC 6761) are judged as its loopback addresses.
    """
    if host.rstrip(".") == "localhost" or host.rstrip(".").endswith(".localhost"):
        return any(may_reach(host, loopback, port, allowed) for loopback in _LOOPBACK)
    return _served(port) or any(entry.may_cover(host, port) for entry in allowed)


def _served(port: int) -> bool:
    return port in (80, 443) or (port >= 1024 and port not in UNSERVED_PORTS)
