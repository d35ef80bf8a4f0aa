"""Paths: one spelling, and what is refused because another program could read it differently."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.policy.paths import MAX_PATH, canonical_path
from gateway.core.policy.unfit import Unfit


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/workspace/a.py", "/workspace/a.py"),
        ("a.py", "/workspace/a.py"),
        ("", "/workspace"),
        (".", "/workspace"),
        ("./a/./b", "/workspace/a/b"),
        ("../etc/passwd", "/etc/passwd"),
        ("/workspace/src/../../etc/passwd", "/etc/passwd"),
        ("/../../..", "/"),
        ("//etc//passwd", "/etc/passwd"),
        ("/workspace/", "/workspace"),
        ("/", "/"),
        ("~/.ssh", "/workspace/~/.ssh"),
        ("-rf", "/workspace/-rf"),
        ("/workspace/...", "/workspace/..."),
        ("/workspace/a b/ü.txt", "/workspace/a b/ü.txt"),
        ("/workspace/100%.txt", "/workspace/100%.txt"),
        ("/workspace/a%20b", "/workspace/a%20b"),
        ("/workspace/a\nb", "/workspace/a\nb"),
        ("/workspace/..a/b..", "/workspace/..a/b.."),
    ],
)
def test_a_path_has_one_spelling(value: str, expected: str) -> None:
    assert canonical_path(value, "/workspace") == expected


@pytest.mark.parametrize(
    "value",
    [
        "/workspace/a\0.txt",
        "..\\..\\etc",
        "C:\\Windows",
        "/workspace/%2e%2e/etc",
        "/workspace/%2E%2E/etc",
        "/workspace%2fetc",
        "/workspace%5c..",
        "/workspace/%252e%252e/etc",
        "/workspace/a%00.txt",
        "/workspace/\uff0e\uff0e/etc",  # fullwidth full stops
        "/workspace/\u2025/etc",  # two dot leader
        "/workspace/\u2024\u2024/etc",  # one dot leaders
        "/workspace\uff0fetc",  # fullwidth solidus
        "/workspace\uff3cetc",  # fullwidth backslash
        "/workspace/\ufe52/etc",  # small full stop
        "/workspace/\uff052e",  # fullwidth percent
        "/workspace/\u2100",  # a/c
        "/workspace/\ud800",
        "/" + "a" * MAX_PATH,
    ],
)
def test_a_path_that_may_be_read_two_ways_is_refused(value: str) -> None:
    assert isinstance(canonical_path(value, "/workspace"), Unfit)


@given(st.text(st.sampled_from("abü./ -~"), max_size=40))
def test_normalisation_agrees_with_the_standard_library(value: str) -> None:
    expected = "/" + posixpath.normpath(posixpath.join("/workspace", value)).lstrip("/")
    assert canonical_path(value, "/workspace") == expected


@given(st.text(max_size=60))
def test_a_canonical_path_is_its_own_spelling(value: str) -> None:
    path = canonical_path(value, "/workspace")
    if isinstance(path, str):
        assert canonical_path(path, "/elsewhere") == path
        assert path.startswith("/")
        assert not {"", ".", ".."} & set(path.split("/")[1:]) or path == "/"
