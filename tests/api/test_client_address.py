from __future__ import annotations

import pytest

from api.client_address import UNKNOWN, network_of


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:0db8:0001:0002::/64"),
        ("2001:db8:1:2::", "2001:0db8:0001:0002::/64"),
        ("2001:db8:1:3::1", "2001:0db8:0001:0003::/64"),
        ("::1", "0000:0000:0000:0000::/64"),
        ("fe80::1%eth0", "fe80:0000:0000:0000::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("", UNKNOWN),
        ("testclient", UNKNOWN),
        ("203.0.113.007", UNKNOWN),
        ("203.0.113.7, 10.0.0.1", UNKNOWN),
        ("x" * 60_000, UNKNOWN),
    ],
)
def test_a_sender_is_an_address_or_a_network(host: str, network: str) -> None:
    assert network_of((host, 1)) == network


def test_a_unix_socket_has_no_address() -> None:
    assert network_of(None) == UNKNOWN
