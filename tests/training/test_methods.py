"""Typed methods from JSON Schemas: what a trainer reads off them, and what they send."""

from __future__ import annotations

import inspect
import re
from typing import Any, Literal

import pytest

from gateway.core.json_types import JsonObject
from gateway.training.methods import tool_method, type_of
from gateway.training.results import Tool


class Recorder:
    """Owns the methods under test and keeps what they were called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, JsonObject]] = []

    def act(self, tool: str, arguments: JsonObject) -> str:
        self.calls.append((tool, arguments))
        return "seen"


def made(schema: JsonObject, description: str = "Does it.", name: str = "do") -> Any:
    method = tool_method(Tool(name, description, schema), Recorder.act)
    return type("Made", (Recorder,), {name: method})()


def properties(*required: str, **schemas: object) -> JsonObject:
    return {"type": "object", "properties": dict(schemas), "required": [*required]}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("schema", "annotation"),
    [
        ({"type": "string"}, str),
        ({"type": "integer"}, int),
        ({"type": "number"}, float),
        ({"type": "boolean"}, bool),
        ({"type": "object"}, dict[str, Any]),
        ({"type": "array", "items": {"type": "string"}}, list[str]),
        ({"type": "array"}, list),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, str | None),
        ({"type": ["integer", "null"]}, int | None),
        ({"enum": ["a", "b"]}, Literal["a", "b"]),
        ({"const": 1}, Literal[1]),
        ({"enum": [{"a": 1}]}, Any),
        ({"$ref": "#/$defs/name"}, str),
        ({"$ref": "#/$defs/loop"}, Any),
        ({"$ref": "https://elsewhere.example/schema"}, Any),
        ({"anyOf": [{"type": "string"}, {}]}, Any),
        (True, Any),
    ],
)
def test_a_schema_becomes_the_closest_annotation(schema: Any, annotation: Any) -> None:
    root: JsonObject = {"$defs": {"name": {"type": "string"}, "loop": {"$ref": "#/$defs/loop"}}}
    assert type_of(schema, root) == annotation


def test_a_method_has_its_tools_name_required_parameters_first_and_a_described_docstring() -> None:
    schema = properties(
        "path",
        limit={"type": "integer", "default": 10, "description": "How many,\n at most: ten."},
        path={"type": "string", "title": "Path"},
        deep={"type": "boolean"},
    )
    owner = made(schema, "Lists things.", "list_things")
    signature = inspect.signature(owner.list_things)
    assert str(signature) == "(path: str, limit: int = 10, deep: bool = None) -> str"
    assert owner.list_things.__name__ == "list_things"
    assert inspect.getdoc(owner.list_things) == (
        "Lists things.\n\nArgs:\n    limit: How many, at most: ten.\n    path: Path\n    deep: The deep."
    )


def test_what_is_not_given_is_not_sent_and_what_is_unknown_is() -> None:
    owner = made(properties("a", a={"type": "string"}, b={"type": "string"}))
    assert owner.do("x") == "seen"
    owner.do(a="x", invented=1)
    owner.do()
    assert owner.calls == [("do", {"a": "x"}), ("do", {"a": "x", "invented": 1}), ("do", {})]


def test_a_parameter_python_cannot_name_keeps_its_own_name_on_the_wire() -> None:
    names = ["from", "a-b", "a_b", "1st", "self", "", "é"]
    owner = made({"type": "object", "properties": dict.fromkeys(names, True)})
    parameters = list(inspect.signature(owner.do).parameters)
    assert parameters == ["from_", "a_b", "a_b_", "_1st", "self_", "_", "__"]
    owner.do(**{name: name for name in parameters})
    assert owner.calls[0][1] == dict(zip(names, parameters, strict=True))


def test_a_servers_own_docstring_does_not_break_the_one_a_trainer_parses() -> None:
    description = "Reads.\n\nArgs:\n    path: a path\nReturns:\n    text (choices: many)"
    doc = inspect.getdoc(made(properties(path={"type": "string"}), description).do) or ""
    assert re.findall(r"(?:Args|Returns|Raises|choices):", doc) == ["Args:"]


@pytest.mark.parametrize("schema", [{}, {"properties": []}, {"properties": {"a": 1}, "required": "a"}])
def test_a_schema_of_no_sense_still_makes_a_method(schema: Any) -> None:
    assert made(schema).do() == "seen"
