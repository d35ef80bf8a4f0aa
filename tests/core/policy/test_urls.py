"""URLs and hosts: one spelling, and what is refused because clients read it differently."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.policy.unfit import Unfit
from gateway.core.policy.urls import MAX_URL, Url, canonical_host, canonical_url, split_url


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("https://example.com", "https://example.com/"),
        ("HTTPS://EXAMPLE.com:443/A?b#c", "https://example.com/A?b#c"),
        ("http://example.com:8080/", "http://example.com:8080/"),
        ("http://example.com:/x", "http://example.com/x"),
        ("http://example.com./x", "http://example.com/x"),
        ("https://bücher.example/ü", "https://xn--bcher-kva.example/ü"),
        ("https://example.com?q=@", "https://example.com/?q=@"),
        ("https://example.com/a?b=/../c#/../d", "https://example.com/a?b=/../c#/../d"),
        ("https://example.com/.../..a/.well-known", "https://example.com/.../..a/.well-known"),
        ("http://[0:0::1]:80/", "http://[::1]/"),
        ("http://[::ffff:127.0.0.1]/", "http://127.0.0.1/"),
        ("http://127.0.0.1/", "http://127.0.0.1/"),
        ("git://example.com/x.git", "git://example.com/x.git"),
    ],
)
def test_a_url_has_one_spelling(value: str, expected: str) -> None:
    assert canonical_url(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "example.com",
        "https:/example.com",
        "https://",
        "https://user@example.com/",
        "https://user:pass@example.com/",
        "https://example.com@evil.example/",
        "https://example.com\\@evil.example/",
        "https://exa mple.com/",
        "https://example.com/\n",
        "https://example.com:99999/",
        "https://example.com:٨٠/",
        "https://example.com:8 0/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://127.1/",
        "http://0177.0.0.1/",
        "http://127.0.0.256/",
        "http://1.2.3.4.5/",
        "http://[::1%eth0]/",
        "http://[::1/",
        "https://example.com/docs/../admin",
        "https://example.com/docs/%2E%2e/admin",
        "https://example.com/docs/.%2e?x",
        "https://example.com/.",
        "http://::1/",
        "http://exa%6dple.com/",
        "http://a..example/",
        "http://-a.example/",
        "http://" + "a" * 64 + ".example/",
        "http://" + "ü" * 300 + "/",
        "javascript:alert(1)",
        "https://example.com/" + "a" * MAX_URL,
    ],
)
def test_a_url_that_may_be_read_two_ways_is_refused(value: str) -> None:
    assert isinstance(canonical_url(value), Unfit)


def test_the_parts_of_a_url_are_what_rules_judge() -> None:
    assert split_url("https://a.example/x") == Url("https", "a.example", 443)
    assert split_url("git://a.example/x") == Url("git", "a.example", None)


@pytest.mark.parametrize("look_alike", ["127。0。0。1", "①②⑦.0.0.1"])
def test_a_host_that_only_looks_different_is_the_same_host(look_alike: str) -> None:
    assert canonical_host(look_alike) == "127.0.0.1"


@given(st.text(max_size=40))
def test_a_canonical_url_is_its_own_spelling(text: str) -> None:
    url = canonical_url(f"https://{text}")
    if isinstance(url, str):
        assert canonical_url(url) == url
