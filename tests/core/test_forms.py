"""Forms from schemas: what is asked, and that what a person writes is read as its schema means it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.forms import Question, Unreadable, questions_of
from gateway.core.json_types import JsonValue
from gateway.core.strict_json import dumps

SCHEMA: dict[str, Any] = {
    "type": "object",
    "$defs": {"Mode": {"enum": ["fast", "slow", 3, None]}, "Point": {"type": "object"}},
    "properties": {
        "limit": {"type": "integer", "default": 10, "description": "At  most\nso many."},
        "path": {"type": "string"},
        "mode": {"$ref": "#/$defs/Mode"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "sizes": {"type": "array", "items": {"type": ["integer", "null"]}},
        "since": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "point": {"$ref": "#/$defs/Point"},
        "sure": {"type": "boolean"},
        "ratio": {"type": "number"},
        "any": {},
    },
    "required": ["path", "point"],
}


def question(name: str) -> Question:
    return next(asked for asked in questions_of(SCHEMA) if asked.name == name)


def test_required_arguments_are_asked_for_first_and_otherwise_in_the_tools_order() -> None:
    names = [asked.name for asked in questions_of(SCHEMA)]
    assert names[:3] == ["path", "point", "limit"]
    assert [asked.required for asked in questions_of(SCHEMA)] == [True, True] + [False] * 8


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("path", "path (text): "),
        ("limit", "limit (integer) [10]: "),
        ("mode", 'mode (one of: "fast", "slow", 3, null) [none]: '),
        ("tags", "tags (list of text) [none]: "),
        ("sizes", "sizes (list of integer or null) [none]: "),
        ("since", "since (text or null) [none]: "),
        ("point", "point (object as JSON): "),
        ("sure", "sure (yes or no) [none]: "),
        ("any", "any (JSON) [none]: "),
    ],
)
def test_a_question_says_what_may_be_written_and_what_an_empty_answer_means(name: str, prompt: str) -> None:
    assert question(name).prompt() == prompt


def test_what_an_argument_is_stands_on_one_line() -> None:
    assert question("limit").about == "At most so many."


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("path", "/a b", "/a b"),
        ("path", '""', ""),
        ("path", '"two\\nlines"', "two\nlines"),
        ("path", "12", "12"),
        ("limit", "-3", -3),
        ("mode", "fast", "fast"),
        ("mode", '"slow"', "slow"),
        ("mode", "3", 3),
        ("mode", "null", None),
        ("tags", "a, b", ["a", "b"]),
        ("tags", '["a, b"]', ["a, b"]),
        ("sizes", "1, null", [1, None]),
        ("since", "null", None),
        ("since", '"null"', "null"),
        ("since", "yesterday", "yesterday"),
        ("point", '{"x": [1]}', {"x": [1]}),
        ("sure", "Yes", True),
        ("sure", "false", False),
        ("ratio", "1", 1),
        ("ratio", "1.5e3", 1500.0),
        ("any", "[1]", [1]),
        ("any", "no JSON", "no JSON"),
    ],
)
def test_an_answer_is_read_as_the_schema_means_it(name: str, text: str, value: JsonValue) -> None:
    read = question(name).read(text)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("limit", "many", "a whole number"),
        ("limit", "1.5", "a whole number"),
        ("limit", "true", "a whole number"),
        ("ratio", "NaN", "a number"),
        ("mode", "medium", "one of"),
        ("tags", "[1", "a list"),
        ("sizes", "1, x", "null"),
        ("point", "[1]", "a JSON object"),
        ("point", '{"a": 1, "a": 2}', "a JSON object"),
        ("sure", "perhaps", "yes or no"),
        ("path", '"half"open"', "double quotes"),
    ],
)
def test_an_answer_of_another_kind_is_told_what_is_wanted(name: str, text: str, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        question(name).read(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ODD_KEYS = st.sampled_from(["type", "$ref", "anyOf", "enum", "items", "default", "const", "description"])


@settings(max_examples=60)
@given(
    st.dictionaries(st.text(max_size=4), st.dictionaries(ODD_KEYS, JSON | st.just("#/properties/a")) | JSON),
    st.text(max_size=20),
)
def test_no_schema_and_no_answer_breaks_a_form(properties: dict[str, Any], text: str) -> None:
    for asked in questions_of({"properties": properties, "required": [1, "a"]}):
        assert asked.prompt().startswith(asked.name)
        try:
            value = asked.read(text)
        except Unreadable:
            continue
        assert dumps(value)
