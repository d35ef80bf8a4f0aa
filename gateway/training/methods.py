"""A typed Python method for each tool, made from its JSON Schema. Pure.

Trainers show a model the tools by reading methods: names, annotations and a docstring in Google's style.
What a method is given goes on as it is, so that a call is judged where every call is.
"""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, cast

from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.schema_reading import properties_of, required_of, resolved
from gateway.training.results import Tool

__all__ = ["Act", "tool_method", "type_of"]

Act = Callable[[Any, str, JsonObject], str]
"""Takes the method's owner, the tool's name and the arguments; returns what the model is shown."""

_SIMPLE: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "null": type(None),
    "object": dict[str, Any],
}
_MAX_DEPTH = 8


def tool_method(tool: Tool, act: Act) -> Callable[..., str]:
    """Return the function that, as a method, calls `tool` through `act`.

    A parameter whose name Python cannot have gets an underscore for what it cannot, and keeps its own
    name on the wire. Optional parameters that are not given are not sent.
    """
    properties = properties_of(tool.input_schema)
    names = _python_names(properties)

    def method(self: Any, /, *args: JsonValue, **kwargs: JsonValue) -> str:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        return act(self, tool.name, {names.get(name, name): value for name, value in given.items()})

    parameters = _parameters(tool.input_schema, names)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    method.__name__ = method.__qualname__ = tool.name
    method.__doc__ = _docstring(tool, names)
    method.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {
        "return": str
    }
    cast("Any", method).__signature__ = inspect.Signature([itself, *parameters], return_annotation=str)
    return method


def type_of(schema: JsonValue, root: JsonObject, depth: int = 0) -> Any:
    """Return the annotation closest to a schema: `Any` where Python has none."""
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return Any
    if isinstance(schema.get("$ref"), str):
        return type_of(resolved(schema, root), root, depth + 1)
    choices = schema["enum"] if "enum" in schema else [schema["const"]] if "const" in schema else None
    if isinstance(choices, list) and choices:
        scalar = all(choice is None or isinstance(choice, str | int | bool) for choice in choices)
        return Literal[tuple(choices)] if scalar else Any
    for word in ("anyOf", "oneOf"):
        if isinstance(options := schema.get(word), list):
            return _union([type_of(option, root, depth + 1) for option in options])
    kinds = schema.get("type")
    if isinstance(kinds, list):
        return _union([type_of({**schema, "type": kind}, root, depth + 1) for kind in kinds])
    if kinds == "array":
        item = type_of(schema.get("items"), root, depth + 1)
        return list[item] if item is not Any else list
    return _SIMPLE.get(kinds, Any) if isinstance(kinds, str) else Any


def _union(types: list[Any]) -> Any:
    if not types or Any in types:
        return Any
    return Union[tuple(types)]  # noqa: UP007 - of types known only here


def _python_names(properties: Mapping[str, JsonValue]) -> dict[str, str]:
    """Return the wire's name of each parameter by its name in Python."""
    names: dict[str, str] = {}
    for own in properties:
        name = re.sub(r"\W", "_", own, flags=re.ASCII) or "_"
        if name[0].isdigit():
            name = f"_{name}"
        while name in names or keyword.iskeyword(name) or name in {"self", "cls"}:
            name += "_"
        names[name] = own
    return names


def _parameters(schema: JsonObject, names: Mapping[str, str]) -> list[inspect.Parameter]:
    """Return the parameters, required ones first."""
    properties, needed = properties_of(schema), required_of(schema)
    made = [_parameter(name, properties[own], own in needed, schema) for name, own in names.items()]
    return sorted(made, key=lambda parameter: parameter.default is not inspect.Parameter.empty)


def _parameter(name: str, schema: JsonValue, required: bool, root: JsonObject) -> inspect.Parameter:
    default = schema.get("default") if isinstance(schema, dict) else None
    return inspect.Parameter(
        name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        annotation=type_of(schema, root),
        default=inspect.Parameter.empty if required else default,
    )


def _docstring(tool: Tool, names: Mapping[str, str]) -> str:
    properties = properties_of(tool.input_schema)
    lines = [_plain(tool.description) or f"The tool {tool.name}."]
    if names:
        lines += ["", "Args:"]
        lines += [f"    {name}: {_described(name, properties[own])}" for name, own in names.items()]
    return "\n".join(lines)


def _described(name: str, schema: JsonValue) -> str:
    told = [schema.get("description"), schema.get("title")] if isinstance(schema, dict) else []
    texts = [" ".join(_plain(text).split()) for text in told if isinstance(text, str)]
    return next((text for text in texts if text), f"The {name}.")


def _plain(text: str) -> str:
    """Return a text without the words that readers of docstrings take for structure."""
    text = re.sub(r"\b(Args|Returns|Raises):", r"\1 -", text)
    return re.sub(r"\(choices:", "(options:", text, flags=re.IGNORECASE).strip()
