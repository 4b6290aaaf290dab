"""Where the proxy may connect to: the address table, development origins, and the URL's second reading."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.catalogue import OutgoingRequest
from nomos.errors import DestinationRefused, LimitExceeded, Misconfigured, UpstreamFailed
from nomos_proxy.destination import (
    Origin,
    check_addresses,
    check_origin,
    check_request,
    is_allowed_address,
    parse_development_origin,
)

GITHUB = Origin(scheme="https", host="api.github.com", port=443)
LOCAL = Origin(scheme="http", host="127.0.0.1", port=8042)

PUBLIC = ["140.82.121.6", "1.1.1.1", "8.8.8.8", "2606:50c0:8000::153", "2a00:1450:4001:80b::200e"]

METADATA = [
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "fd00:ec2::254",
    "fd20:ce::254",
]

NEVER = [
    *METADATA,
    "0.0.0.0",
    "0.1.2.3",
    "100.64.0.1",
    "100.127.255.255",
    "169.254.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "100::1",
    "2001::1",  # Teredo
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",  # 6to4 of 127.0.0.1
    "2002:a9fe:a9fe::",  # 6to4 of metadata
    "2002:808:808::",  # 6to4 even of a public address
    "3fff::1",
    "5f00::1",
    "64:ff9b:1::1",  # local NAT64
    "64:ff9b:1:a9fe:a9:fe00::",
    "::ffff:0:127.0.0.1",  # translated
    "::127.0.0.1",  # compatible
    "::169.254.169.254",
    "2606:4700:0:0:0:5efe:10.0.0.1",  # ISATAP
    "2606:4700::200:5efe:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:168.63.129.16",
    "64:ff9b::169.254.169.254",
    "64:ff9b::192.0.0.192",
    "64:ff9b::100.64.0.1",
    "64:ff9b::0.0.0.0",
    "64:ff9b::1:0:0",
    "",
    "localhost",
    "127.1",
    "0x7f000001",
    "2130706433",
    "010.0.0.1",
    "127.0.0.1 ",
    "１２７.0.0.1",
]

PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "::1",
    "fc00::1",
    "fd12:3456::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::10.0.0.1",
]


@pytest.mark.parametrize("address", [*PUBLIC, "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"])
def test_a_public_address_is_allowed(address: str) -> None:
    assert is_allowed_address(address)


@pytest.mark.parametrize("address", [*NEVER, *PRIVATE])
def test_any_other_address_is_refused(address: str) -> None:
    assert not is_allowed_address(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_a_development_origin_may_be_private(address: str) -> None:
    assert check_addresses(LOCAL, [address], {LOCAL}) == (address,)


@pytest.mark.parametrize("address", NEVER)
def test_a_development_origin_is_never_metadata_or_special(address: str) -> None:
    with pytest.raises(DestinationRefused):
        check_addresses(LOCAL, [address], {LOCAL})


@pytest.mark.parametrize("address", [*NEVER, *PRIVATE])
def test_one_bad_address_among_good_ones_refuses_all(address: str) -> None:
    for addresses in ([address, *PUBLIC], [*PUBLIC, address]):
        with pytest.raises(DestinationRefused) as raised:
            check_addresses(GITHUB, addresses, frozenset())
        assert not address or address not in raised.value.detail


@given(st.integers(0, 2**32 - 1))
def test_what_is_not_global_for_ipv4_is_refused_in_every_form_that_carries_it(number: int) -> None:
    address = IPv4Address(number)
    is_allowed = is_allowed_address(str(address))
    assert is_allowed <= address.is_global
    for prefix in (0xFFFF << 32, 0x64FF9B << 96):
        assert is_allowed_address(str(IPv6Address(prefix | number))) == is_allowed
    assert not is_allowed_address(str(IPv6Address(0x2002 << 112 | number << 80)))


@given(st.integers(0, 2**128 - 1))
def test_no_allowed_ipv6_address_is_less_than_global(number: int) -> None:
    address = IPv6Address(number)
    if is_allowed_address(str(address)):
        assert address.is_global


def test_a_name_without_addresses_or_with_too_many_is_refused() -> None:
    with pytest.raises(UpstreamFailed):
        check_addresses(GITHUB, [], frozenset())
    with pytest.raises(LimitExceeded):
        check_addresses(GITHUB, ["1.1.1.1"] * 33, frozenset())


def test_clear_text_is_for_development_origins() -> None:
    check_origin(GITHUB, frozenset())
    check_origin(LOCAL, {LOCAL})
    with pytest.raises(DestinationRefused):
        check_origin(LOCAL, frozenset())
    with pytest.raises(DestinationRefused):
        check_origin(Origin(scheme="http", host="127.0.0.1", port=8043), {LOCAL})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:8042",
        "http://127.0.0.1",
        "http://127.0.0.1:8042/",
        "http://127.0.0.1:8042/x",
        "http://127.0.0.1:8042?x",
        "http://user@127.0.0.1:8042",
        "http://127.0.0.1:08042",
        "http://127.0.0.1:70000",
        "HTTP://127.0.0.1:8042",
        "http://*:8042",
        "http://127.0.0.1:8042\n",
        "ftp://127.0.0.1:8042",
    ],
)
def test_a_development_origin_is_exact(text: str) -> None:
    with pytest.raises(Misconfigured):
        parse_development_origin(text)


def test_a_development_origin_is_read() -> None:
    assert parse_development_origin("http://127.0.0.1:8042") == LOCAL
    assert parse_development_origin("http://[::1]:80") == Origin(scheme="http", host="::1", port=80)
    assert str(parse_development_origin("https://ghe.test:443")) == "https://ghe.test"
    assert Origin(scheme="http", host="::1", port=81).authority == "[::1]:81"


def request(path: str, *query: tuple[str, str]) -> OutgoingRequest:
    return OutgoingRequest(method="GET", path=path, query=query)


def test_a_built_url_is_read_back_as_its_parts() -> None:
    assert check_request(GITHUB, request("/repos/a/b", ("q", "x y&z"))) == "/repos/a/b?q=x%20y%26z"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "repos",
        "@evil.example/x",
        ":99999/x",
        ".evil.example/x",
        "//evil.example/x",
        "/x#y",
        "/x\r\ny",
        "/x y",
        "/x\ty",
        "/x\\y",
        "/ü",
        "/x\x00",
        "/x\x7f",
        "/x?y",
    ],
)
def test_a_path_that_could_move_the_origin_is_refused(path: str) -> None:
    with pytest.raises(DestinationRefused):
        check_request(GITHUB, request(path))
