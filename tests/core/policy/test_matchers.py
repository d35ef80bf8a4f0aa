"""Each matcher over values that hold, do not hold, and cannot be judged."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.policy.judges import ValueKind
from gateway.core.policy.matchers import compile_matchers
from gateway.core.policy.model import Matchers
from gateway.core.policy.situation import NOWHERE
from gateway.core.policy.verdicts import Verdict, all_of

BIG = 2**70


def verdict(matchers: dict[str, Any], value: Any, kind: Any = None) -> Verdict:
    checks = compile_matchers(Matchers.model_validate(matchers), ValueKind(kind, "/workspace"))
    return all_of(check.judge(value, NOWHERE) for check in checks)


@pytest.mark.parametrize(
    ("matchers", "value", "expected"),
    [
        # equals: JSON's equality
        ({"equals": 1}, 1, True),
        ({"equals": 1}, 1.0, True),
        ({"equals": 1}, "1", False),
        ({"equals": 1}, True, False),
        ({"equals": 0}, False, False),
        ({"equals": True}, True, True),
        ({"equals": None}, None, True),
        ({"equals": None}, 0, False),
        ({"equals": ""}, None, False),
        ({"equals": [1, {"a": 2}]}, [1.0, {"a": 2}], True),
        ({"equals": [1, {"a": 2}]}, [1, {"a": 3}], False),
        ({"equals": [True]}, [1], False),
        ({"equals": {"a": 1, "b": 2}}, {"b": 2, "a": 1}, True),
        ({"equals": {"a": 1}}, {"a": 1, "b": 2}, False),
        ({"equals": BIG}, BIG, True),
        ({"equals": BIG}, BIG + 1, False),
        ({"equals": BIG}, float(BIG), True),
        # in, not_in
        ({"in": ["origin", 1]}, "origin", True),
        ({"in": ["origin", 1]}, 1.0, True),
        ({"in": ["origin", 1]}, True, False),
        ({"in": ["origin", 1]}, "upstream", False),
        ({"in": [[1]]}, [1], True),
        ({"in": []}, "x", False),
        ({"not_in": ["origin"]}, "origin", False),
        ({"not_in": ["origin"]}, "other", True),
        ({"not_in": ["origin"]}, 7, True),
        # glob, not_glob on plain strings
        ({"glob": "agent/*"}, "agent/fix", True),
        ({"glob": "agent/*"}, "agent/fix/more", False),
        ({"glob": "agent/**"}, "agent/fix/more", True),
        ({"glob": ["a*", "b*"]}, "bc", True),
        ({"glob": "*"}, 3, None),
        ({"glob": "*"}, None, None),
        ({"glob": "*"}, ["a"], None),
        ({"glob": "*"}, "x" * 10_000, None),
        ({"not_glob": "agent/*"}, "agent/fix", False),
        ({"not_glob": "agent/*"}, "main", True),
        ({"not_glob": "agent/*"}, 3, None),
        # regex: RE2, anchored
        ({"regex": "agent/[a-z0-9-]{1,40}"}, "agent/fix-1", True),
        ({"regex": "agent/[a-z0-9-]{1,40}"}, "xagent/fix", False),
        ({"regex": "agent/[a-z0-9-]{1,40}"}, "agent/fix\n", False),
        ({"regex": "a|b"}, "ab", False),
        ({"regex": ["a+", "b+"]}, "bbb", True),
        ({"regex": "."}, "é", True),
        ({"regex": "a"}, 3, None),
        # numbers
        ({"min": 1}, 1, True),
        ({"min": 1}, 0.999, False),
        ({"max": 10}, 10, True),
        ({"max": 10}, 11, False),
        ({"min": 1}, True, None),
        ({"max": 10}, "5", None),
        ({"max": 10}, float("nan"), None),
        ({"max": BIG}, BIG + 1, False),
        # sizes
        ({"max_len": 2}, "éé", True),
        ({"max_len": 2}, "abc", False),
        ({"max_len": 2}, ["a"], None),
        ({"max_bytes": 2}, "éé", False),
        ({"max_bytes": 4}, "éé", True),
        ({"max_bytes": "1KB"}, "x" * 1000, True),
        ({"max_bytes": "1KB"}, "x" * 1001, False),
        ({"max_bytes": "1Ki"}, "x" * 1024, True),
        ({"max_bytes": 4}, 4, None),
        # type
        ({"type": "string"}, "x", True),
        ({"type": "string"}, 1, False),
        ({"type": "integer"}, 1, True),
        ({"type": "integer"}, 1.0, True),
        ({"type": "integer"}, 1.5, False),
        ({"type": "integer"}, True, False),
        ({"type": "number"}, 1.5, True),
        ({"type": "number"}, False, False),
        ({"type": "boolean"}, False, True),
        ({"type": "null"}, None, True),
        ({"type": "array"}, [], True),
        ({"type": "object"}, {}, True),
        ({"type": ["string", "null"]}, None, True),
        ({"type": ["string", "null"]}, 1, False),
        # objects
        ({"keys": ["a", "b"]}, {"a": 1}, True),
        ({"keys": ["a", "b"]}, {"a": 1, "c": 1}, False),
        ({"required_keys": ["a"]}, {"a": 1, "c": 1}, True),
        ({"required_keys": ["a"]}, {"c": 1}, False),
        ({"keys": ["a"]}, ["a"], None),
        # not: what cannot be judged stays so
        ({"not": {"in": ["a"]}}, "b", True),
        ({"not": {"in": ["a"]}}, "a", False),
        ({"not": {"glob": "a*"}}, 3, None),
        ({"not": {"min": 1, "max": 3}}, 7, True),
        ({"not": {"min": 1, "max": 3}}, 2, False),
        # items
        ({"items": {"all": {"glob": "a*"}}}, ["a", "ab"], True),
        ({"items": {"all": {"glob": "a*"}}}, ["a", "b"], False),
        ({"items": {"all": {"glob": "a*"}}}, ["a", 3], None),
        ({"items": {"all": {"glob": "a*"}}}, ["b", 3], False),
        ({"items": {"all": {"glob": "a*"}}}, [], True),
        ({"items": {"any": {"equals": 1}}}, [0, 1], True),
        ({"items": {"any": {"equals": 1}}}, [], False),
        ({"items": {"any": {"glob": "a"}}}, ["b", 3], None),
        ({"items": {"none": {"equals": 1}}}, [2, 3], True),
        ({"items": {"none": {"equals": 1}}}, [2, 1], False),
        ({"items": {"none": {"glob": "a"}}}, ["b", 3], None),
        ({"items": {"max": 2}}, [1, 2], True),
        ({"items": {"max": 2}}, [1, 2, 3], False),
        ({"items": {"max": 2}}, "ab", None),
        ({"items": {"all": {"items": {"max": 1}}}}, [[1], [2]], True),
        # conjunction: one clear no decides, else one doubt leaves it open
        ({"glob": "a*", "max_len": 3}, "abc", True),
        ({"glob": "a*", "max_len": 3}, "abcd", False),
        ({"glob": "a*", "type": "number"}, 3, None),
        ({"glob": "a*", "type": "string"}, 3, False),
    ],
)
def test_a_matcher_holds_does_not_hold_or_cannot_judge(
    matchers: dict[str, Any], value: Any, expected: Verdict
) -> None:
    assert verdict(matchers, value) is expected


@pytest.mark.parametrize(
    ("matchers", "value", "expected"),
    [
        ({"under": "/workspace"}, "/workspace", True),
        ({"under": "/workspace"}, "/workspace/a/b", True),
        ({"under": "/workspace"}, "/workspace_evil", False),
        ({"under": "/workspace/"}, "/workspace/a", True),
        ({"under": "src"}, "/workspace/src/a.py", True),
        ({"under": "src"}, "/src/a.py", False),
        ({"under": ["/a", "/b"]}, "/b/c", True),
        ({"under": "/"}, "/etc/passwd", True),
        ({"under": "/workspace/a/../b"}, "/workspace/b/c", True),
        ({"not_under": "/etc"}, "/etc/passwd", False),
        ({"not_under": "/etc"}, "/etcetera", True),
        ({"not_under": "/etc"}, 3, None),
        ({"under": "/workspace"}, ["/workspace/a"], None),
        ({"under": "/workspace"}, None, None),
        ({"glob": "**/.git/**"}, "/workspace/.git", True),
        ({"glob": "**/.git/**"}, "/workspace/.git/config", True),
        ({"glob": "**/.git/**"}, "/workspace/.github/x", False),
        ({"glob": "src/*.py"}, "/workspace/src/a.py", True),
        ({"glob": "src/*.py"}, "/src/a.py", False),
        ({"equals": "src/../a.py"}, "/workspace/a.py", True),
        ({"in": ["a.py", "b.py"]}, "/workspace/b.py", True),
        ({"not_in": ["a.py"]}, "/workspace/a.py", False),
    ],
)
def test_paths_are_judged_in_their_one_spelling(
    matchers: dict[str, Any], value: Any, expected: Verdict
) -> None:
    assert verdict(matchers, value, "path") is expected


@pytest.mark.parametrize(
    ("matchers", "value", "expected"),
    [
        ({"scheme": "https"}, "https://a.example/", True),
        ({"scheme": ["http", "https"]}, "ftp://a.example/", False),
        ({"host": "a.example"}, "https://a.example/x", True),
        ({"host": "A.Example"}, "https://a.example/x", True),
        ({"host": "*.a.example"}, "https://b.c.a.example/", True),
        ({"host": "*.a.example"}, "https://a.example/", False),
        ({"host": "*.a.example"}, "https://xa.example/", False),
        ({"host": "*"}, "https://a.example/", True),
        ({"host": "bücher.example"}, "https://xn--bcher-kva.example/", True),
        ({"host": "::1"}, "http://[::1]/", True),
        ({"port": 443}, "https://a.example/", True),
        ({"port": 443}, "https://a.example:8443/", False),
        ({"port": [80, 8080]}, "http://a.example:8080/", True),
        ({"host": "a.example"}, "not a url", None),
        ({"host": "a.example"}, 3, None),
        ({"glob": "https://a.example/docs/**"}, "https://a.example/docs/x/y", True),
        ({"equals": "HTTPS://A.example:443"}, "https://a.example/", True),
    ],
)
def test_urls_are_judged_by_their_parts(matchers: dict[str, Any], value: Any, expected: Verdict) -> None:
    assert verdict(matchers, value, "url") is expected


def test_a_host_argument_is_judged_as_a_host() -> None:
    assert verdict({"host": "*.example.com"}, "a.example.com", "host") is True
    assert verdict({"host": "*.example.com"}, "example.com", "host") is False
    assert verdict({"scheme": "https"}, "a.example.com", "host") is None


def test_a_text_too_long_for_its_expression_cannot_be_judged() -> None:
    assert verdict({"regex": "(?s).*(a|b).{50}c"}, "x" * 1_000_000) is None
