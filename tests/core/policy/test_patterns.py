"""Globs, wildcards, hosts and tool patterns: what they match, what they refuse, against references."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.policy.patterns import compile_glob, compile_globs, compile_host, split_tool_pattern
from gateway.core.policy.regexes import compile_regex
from gateway.core.policy.wildcards import PatternError, compile_wildcard


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("/a/*", ["/a/b", "/a/.b", "/a/"], ["/a", "/a/b/c", "/b/a"]),
        ("/a/**", ["/a", "/a/b", "/a/b/c"], ["/ab", "/", "a/b"]),
        ("**/b", ["b", "/b", "/a/b", "/a/c/b"], ["/ab", "/b/c"]),
        ("**/.env*", ["/w/.env", "/w/.env.local", ".env"], ["/w/env", "/w/.env/x"]),
        ("**/.git/**", ["/w/.git", "/w/.git/hooks/x", ".git/x"], ["/w/.gitignore", "/w/a.git/x"]),
        ("/a/**/z", ["/a/z", "/a/b/z", "/a/b/c/z"], ["/a/zz", "/z"]),
        ("**/a/**/b/**", ["/a/b", "/x/a/y/b/z", "a/b"], ["/b/a", "/a"]),
        ("**", ["", "/", "a/b"], []),
        ("a?c", ["abc", "a.c"], ["a/c", "ac", "abbc"]),
        ("*.p?", ["x.py", ".pz"], ["x.p", "x.pyc"]),
        ("a*b*c", ["abc", "axbyc", "abcbc"], ["acb", "ab", "a/bc"]),
        (r"\[id\].tsx", ["[id].tsx"], ["i.tsx"]),
        (r"a\*", ["a*"], ["ab"]),
        ("src/**/*.py", ["src/a.py", "src/x/y/a.py"], ["src/a.txt", "a.py"]),
    ],
)
def test_a_glob_matches_what_it_says(pattern: str, matching: list[str], other: list[str]) -> None:
    test = compile_glob(pattern)
    assert [text for text in matching if not test(text)] == []
    assert [text for text in other if test(text)] == []


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("", "matches nothing"),
        ("/a/**.py", "'**' stands alone"),
        ("/a/[bc]", "character classes"),
        ("*.{py,js}", "braces"),
        (r"a\d", "not an escape"),
        ("a\\", "not an escape"),
    ],
)
def test_a_glob_that_would_not_do_what_it_seems_is_refused(pattern: str, hint: str) -> None:
    with pytest.raises(PatternError, match=re.escape(hint)):
        compile_glob(pattern)


SEGMENTS = ["**", "a", "b", "*", "a*", "*b", "?", "a*b"]


def _by_the_book(pattern: list[str], text: list[str]) -> bool:
    """A glob by its definition, segment by segment; slow and plain."""
    if not pattern:
        return not text
    head, rest = pattern[0], pattern[1:]
    if head == "**":
        return any(_by_the_book(rest, text[skipped:]) for skipped in range(len(text) + 1))
    expression = re.escape(head).replace(r"\*", ".*").replace(r"\?", ".")
    return bool(text) and bool(re.fullmatch(expression, text[0])) and _by_the_book(rest, text[1:])


@given(
    st.lists(st.sampled_from(["**", "a", "b", "*", "a*", "*b", "?", "a*b"]), min_size=1, max_size=4).map(
        "/".join
    ),
    st.lists(st.sampled_from(["a", "b", "ab", "aab", "c"]), min_size=1, max_size=5).map("/".join),
)
def test_globs_agree_with_their_definition(pattern: str, text: str) -> None:
    assert compile_glob(pattern)(text) is _by_the_book(pattern.split("/"), text.split("/"))


@given(
    st.lists(
        st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=3).map("/".join), min_size=1, max_size=4
    ),
    st.lists(st.sampled_from(["a", "b", "ab", "aab", "c"]), min_size=1, max_size=4).map("/".join),
)
def test_several_globs_match_what_any_of_them_does(patterns: list[str], text: str) -> None:
    assert compile_globs(patterns)(text) is any(compile_glob(pattern)(text) for pattern in patterns)


@given(st.text("ab*?", max_size=8), st.text("abc", max_size=10))
def test_wildcards_agree_with_their_definition(pattern: str, text: str) -> None:
    expected = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    assert compile_wildcard(pattern)(text) is bool(re.fullmatch(expected, text, re.DOTALL))


@pytest.mark.parametrize(
    "pattern", ["a*.example.com", "*a.example", "docs.*", "a b", "exam?le.com", "http://x", ""]
)
def test_a_host_pattern_matches_whole_labels_or_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        compile_host(pattern)


def test_tool_patterns_have_a_server_and_a_tool() -> None:
    assert split_tool_pattern("fs.read_file") == ("fs", "read_file")
    assert split_tool_pattern("fs.a.b") == ("fs", "a.b")
    assert split_tool_pattern("*") == ("*", "*")
    for wrong in ("read_file", ".read", "fs.", "", "resource:x", "prompt:y", "fs.[ab]"):
        with pytest.raises(PatternError):
            split_tool_pattern(wrong)


@pytest.mark.parametrize("pattern", ["(", "(?=a)", r"\1", "a{2000}", "(a{1000}){1000}", "\ud800"])
def test_an_expression_that_re2_cannot_take_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError, match="expression"):
        compile_regex(pattern)


def test_an_expression_never_meets_text_it_cannot_encode() -> None:
    assert compile_regex("a.*")("a\ud800") is not True
