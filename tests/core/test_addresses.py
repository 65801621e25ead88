from __future__ import annotations

import ipaddress

import pytest

from core.addresses import Allowed, is_public, literal, may_reach, parse_allowed

INSIDE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:10.0.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]
OUTSIDE = ["1.1.1.1", "8.8.8.8", "100.128.0.1", "172.32.0.1", "192.0.1.1", "2001:4860:4860::8888", "2606:4700::1111"]


@pytest.mark.parametrize("text", INSIDE)
def test_no_address_inside_is_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))
    assert not may_reach("example.com", ipaddress.ip_address(text), 443)


@pytest.mark.parametrize("text", OUTSIDE)
def test_ordinary_addresses_are_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    ("port", "reachable"),
    [(80, True), (443, True), (8080, True), (1024, True), (65535, True)]
    + [(port, False) for port in (0, 21, 22, 25, 53, 81, 1023, 2049, 5060, 6000, 6667, 10080)],
)
def test_ports(port: int, reachable: bool) -> None:
    assert may_reach("example.com", ipaddress.ip_address("8.8.8.8"), port) is reachable


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0X7F000001", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("::1", "::1"),
        ("::ffff:10.0.0.1", "::ffff:a00:1"),
    ],
)
def test_every_spelling_of_an_address_is_understood(host: str, address: str) -> None:
    assert literal(host) == ipaddress.ip_address(address)


@pytest.mark.parametrize(
    "host", ["example.com", "1.example.com", "0x7f.example", "dead.beef", "", "a.", "127.0.0.1.nip.io"]
)
def test_names_are_no_addresses(host: str) -> None:
    assert literal(host) is None


@pytest.mark.parametrize("host", ["256.0.0.1", "1.2.3.4.5", "99999999999", "09.0.0.1", "example.1", "0x", "1" * 5000])
def test_a_name_that_ends_in_a_number_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        literal(host)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("", ()),
        (" , ", ()),
        ("10.1.0.0/16", (Allowed(ipaddress.ip_network("10.1.0.0/16")),)),
        ("127.0.0.1", (Allowed(ipaddress.ip_network("127.0.0.1/32")),)),
        ("127.0.0.1:8080", (Allowed(ipaddress.ip_network("127.0.0.1/32"), 8080),)),
        (
            "[::1]:8080, fd00::/8",
            (Allowed(ipaddress.ip_network("::1"), 8080), Allowed(ipaddress.ip_network("fd00::/8"))),
        ),
        ("Media.Internal:9000", (Allowed("media.internal", 9000),)),
    ],
)
def test_parse_allowed(text: str, parsed: tuple[Allowed, ...]) -> None:
    assert parse_allowed(text) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "*",
        "media.internal",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "host:0",
        "host:70000",
        "host:",
        "http://host:80",
        "[::1]",
        "[zz]:1",
        "1.1.1.1;2.2.2.2",
        "::1:8080x",
        "999.1:80",
        "a b:80",
    ],
)
def test_parse_allowed_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_allowed(text)


def test_allowed_entries_reach_no_further_than_they_say() -> None:
    inside, other = ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("10.0.0.2")
    by_address, by_name, by_network = (
        parse_allowed("10.0.0.1:81"),
        parse_allowed("nas.lan:81"),
        parse_allowed("10.0.0.0/31"),
    )
    assert may_reach("any.name", inside, 81, by_address)
    assert not may_reach("any.name", inside, 82, by_address)
    assert not may_reach("any.name", other, 81, by_address)
    assert may_reach("nas.lan", inside, 81, by_name)
    assert not may_reach("evil.nas.lan", inside, 81, by_name)
    assert not may_reach("nas.lan", inside, 80, by_name)
    assert may_reach("any.name", inside, 22, by_network)
    assert not may_reach("any.name", other, 80, by_network)
    assert may_reach("any.name", ipaddress.ip_address("::ffff:10.0.0.1"), 80, by_network)
