"""What egress decides, by itself: patterns, requests, hosts and addresses. Hostile spellings are refused."""

from __future__ import annotations

import ipaddress

import pytest

from gateway.core.egress import EgressCode, Verdict, judge, judge_addresses, read_connect
from gateway.core.policy.egress import HostRule, common, parse_host_rule
from gateway.core.policy.public_hosts import reachable

RULES = tuple(map(parse_host_rule, ("api.example.com", "*.docs.example.com:8443", "93.184.216.34")))
ALLOWED = judge("api.example.com", 443, RULES)


def code(verdict: Verdict) -> EgressCode:
    assert not verdict.allowed
    return verdict.code


# --- patterns ---


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("example.com", HostRule("example.com", 443, wild=False)),
        ("EXAMPLE.com:8443", HostRule("example.com", 8443, wild=False)),
        ("*.example.com", HostRule("example.com", 443, wild=True)),
        ("*:80", HostRule("", 80, wild=True)),
        ("bücher.example", HostRule("xn--bcher-kva.example", 443, wild=False)),
        ("93.184.216.34:80", HostRule("93.184.216.34", 80, wild=False)),
    ],
)
def test_a_pattern_is_read(text: str, rule: HostRule) -> None:
    assert parse_host_rule(text) == rule
    assert parse_host_rule(str(rule)) == rule


@pytest.mark.parametrize(
    "text",
    [
        ":443",
        "a.example:",
        "a.example:0",
        "a.example:65536",
        "a.example:4²",
        "*.*.example",
        "a*.example",
        "*.1.2.3.4",
        "0x7f.1",
        "127.1",
        "2130706433",
        "[::1]:443",
        "::1",
        "http://a.example",
        "a/b",
        "user@a.example",
        "a..example",
        ".a.example",
        "-a.example",
    ],
)
def test_what_names_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_host_rule(text)


@pytest.mark.parametrize(
    ("needs", "grants", "both"),
    [
        (["a.example:443"], ["a.example"], ["a.example:443"]),
        (["a.example"], ["b.example"], []),
        (["a.example"], [], []),
        (["a.example:80"], ["a.example"], []),
        (["*.example"], ["a.example", "other.test"], ["a.example:443"]),
        (["a.example"], ["*.example"], ["a.example:443"]),
        (["*.a.example"], ["*.example"], ["*.a.example:443"]),
        (["*.a.example"], ["*.b.example"], []),
        (["*"], ["*.example", "c.test"], ["*.example:443", "c.test:443"]),
        (["*"], ["1.2.3.4"], []),
        (["example"], ["*.example"], []),
    ],
)
def test_a_sandbox_gets_what_is_both_needed_and_granted(
    needs: list[str], grants: list[str], both: list[str]
) -> None:
    assert [str(rule) for rule in common(needs, grants)] == both


# --- requests ---


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"CONNECT a.example:443 HTTP/1.1", ("a.example", 443)),
        (b"CONNECT a.example:1 HTTP/1.0", ("a.example", 1)),
        (b"GET http://a.example/ HTTP/1.1", EgressCode.BAD_REQUEST),
        (b"CONNECT a.example:443", EgressCode.BAD_REQUEST),
        (b"connect a.example:443 HTTP/1.1", EgressCode.BAD_REQUEST),
        (b"CONNECT  a.example:443 HTTP/1.1", EgressCode.BAD_REQUEST),
        (b"\x05\x01\x00", EgressCode.BAD_REQUEST),
        (b"CONNECT a.example HTTP/1.1", EgressCode.BAD_HOST),
        (b"CONNECT a.example:0 HTTP/1.1", EgressCode.BAD_HOST),
        (b"CONNECT a.example:99999 HTTP/1.1", EgressCode.BAD_HOST),
        (b"CONNECT a.example:443:443 HTTP/1.1", EgressCode.BAD_HOST),
        (b"CONNECT user@a.example:443 HTTP/1.1", EgressCode.BAD_HOST),
        (b"CONNECT a.example/x:443 HTTP/1.1", EgressCode.BAD_HOST),
        (b"CONNECT [::1]:443 HTTP/1.1", EgressCode.BAD_HOST),
        (b"CONNECT b\xc3\xbccher.example:443 HTTP/1.1", EgressCode.BAD_HOST),
    ],
)
def test_only_a_strict_connect_is_read(line: bytes, expected: object) -> None:
    got = read_connect(line + b"\r\nHost: ignored.example\r\n\r\n")
    assert (code(got) if isinstance(got, Verdict) else got) == expected


def test_a_folded_header_is_refused_and_what_is_shown_of_a_request_is_printable() -> None:
    folded = read_connect(b"CONNECT a.example:443 HTTP/1.1\r\nHost: a\r\n  b\r\n\r\n")
    assert isinstance(folded, Verdict)
    assert folded.code == EgressCode.BAD_REQUEST
    odd = read_connect(b"\x1b[31m\xff" + b"x" * 1000 + b"\r\n\r\n")
    assert isinstance(odd, Verdict)
    assert odd.asked.isprintable()
    assert len(odd.asked) <= 200


# --- hosts ---


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("api.example.com", 443, EgressCode.GRANTED),
        ("API.Example.COM", 443, EgressCode.GRANTED),
        ("a.docs.example.com", 8443, EgressCode.GRANTED),
        ("a.b.docs.example.com", 8443, EgressCode.GRANTED),
        ("93.184.216.34", 443, EgressCode.GRANTED),
        ("api.example.com", 80, EgressCode.NOT_GRANTED),
        ("docs.example.com", 8443, EgressCode.NOT_GRANTED),
        ("evildocs.example.com", 8443, EgressCode.NOT_GRANTED),
        ("api.example.com.evil.test", 443, EgressCode.NOT_GRANTED),
        ("xapi.example.com", 443, EgressCode.NOT_GRANTED),
        ("localhost", 443, EgressCode.NOT_GRANTED),
        ("169.254.169.254", 80, EgressCode.NOT_GRANTED),
        ("127.0.0.1", 443, EgressCode.NOT_GRANTED),
        ("api.example.com.", 443, EgressCode.BAD_HOST),
        ("api.example.com..", 443, EgressCode.BAD_HOST),
        ("api..example.com", 443, EgressCode.BAD_HOST),
        ("api.example.com%00", 443, EgressCode.BAD_HOST),
        ("api.example.com#", 443, EgressCode.BAD_HOST),
        ("аpi.example.com", 443, EgressCode.BAD_HOST),
        ("0x7f.1", 443, EgressCode.BAD_HOST),
        ("0x7f000001", 443, EgressCode.BAD_HOST),
        ("2130706433", 443, EgressCode.BAD_HOST),
        ("127.1", 443, EgressCode.BAD_HOST),
        ("0177.0.0.1", 443, EgressCode.BAD_HOST),
        ("93.184.216.034", 443, EgressCode.BAD_HOST),
        ("::1", 443, EgressCode.BAD_HOST),
        ("::ffff:93.184.216.34", 443, EgressCode.BAD_HOST),
        ("[::1]", 443, EgressCode.BAD_HOST),
    ],
)
def test_a_host_is_judged_as_it_was_spelled(host: str, port: int, expected: EgressCode) -> None:
    assert judge(host, port, RULES).code == expected


def test_any_name_means_no_address() -> None:
    rules = (parse_host_rule("*"),)
    assert judge("anything.example", 443, rules).allowed
    assert code(judge("93.184.216.34", 443, rules)) == EgressCode.NOT_GRANTED


def test_with_no_rule_nothing_passes() -> None:
    assert code(judge("api.example.com", 443, ())) == EgressCode.NOT_GRANTED


# --- addresses ---


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.0.8",
        "192.0.2.1",
        "198.18.0.1",
        "203.0.113.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "168.63.129.16",
        "192.88.99.1",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
        "3fff::1",
        "100::1",
        "64:ff9b:1::a00:1",
        "5f00::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "2002:7f00:1::1",
        "2002:a00:1::1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2001:0:7f00:1::",
        "2001:0:5db8:d822:0:0:80ff:fffe",
    ],
)
def test_an_address_that_is_not_public_is_refused_in_every_spelling(address: str) -> None:
    assert code(judge_addresses(ALLOWED, [address], ())) == EgressCode.ADDRESS_REFUSED


def test_public_addresses_are_kept_in_order_and_once() -> None:
    found = judge_addresses(ALLOWED, ["93.184.216.34", "2606:2800:21f::1", "::ffff:93.184.216.34"], ())
    assert [str(address) for address in found.addresses] == ["93.184.216.34", "2606:2800:21f::1"]


def test_one_bad_address_among_good_ones_refuses_the_name() -> None:
    assert code(judge_addresses(ALLOWED, ["93.184.216.34", "10.0.0.1"], ())) == EgressCode.ADDRESS_REFUSED


def test_a_name_without_an_address_is_refused() -> None:
    assert code(judge_addresses(ALLOWED, [], ())) == EgressCode.UNRESOLVED


def test_a_network_that_the_operator_listed_may_be_reached_but_never_a_group_or_nothing() -> None:
    networks = tuple(map(ipaddress.ip_network, ("10.1.0.0/16", "0.0.0.0/0", "::/0")))
    assert reachable(ipaddress.ip_address("10.1.2.3"), networks[:1])
    assert reachable(ipaddress.ip_address("::ffff:10.1.2.3"), networks[:1])
    assert not reachable(ipaddress.ip_address("10.2.2.3"), networks[:1])
    for address in ("0.0.0.0", "::", "224.0.0.1", "ff02::1"):
        assert not reachable(ipaddress.ip_address(address), networks)
