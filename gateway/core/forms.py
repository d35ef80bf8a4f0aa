"""A form made from a tool's JSON Schema: what to ask a person for each argument, and how to read the answer.

Pure, and no judge: what is read goes to the gateway, which checks it as it checks every call. A text is
read as the first kind that fits, the plain text last:

    integer, number, boolean, null   as JSON writes them; also `yes` and `no`
    array                            JSON, or its items with commas between them
    object, and anything else        JSON
    string                           as it is; in double quotes as JSON, so that `""` is the empty one
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.schema_reading import properties_of, required_of, resolved
from gateway.core.strict_json import StrictJsonError, dumps, loads

__all__ = ["Question", "Unreadable", "questions_of"]

_NAMES = {"string": "text", "boolean": "yes or no", "array": "list", "any": "JSON"}
_ORDER = ("null", "boolean", "integer", "number", "array", "object", "any", "string")
_YES_NO = {"yes": True, "y": True, "true": True, "no": False, "n": False, "false": False}
_MAX_DEPTH = 4


class Unreadable(ValueError):
    """What was written is not of the kind that is asked for; says what is."""


@dataclass(frozen=True, slots=True)
class Question:
    """One argument to ask for. `schema` has no `$ref` of its own; `root` is where others point into."""

    name: str
    schema: JsonObject
    root: JsonObject
    required: bool

    @property
    def about(self) -> str:
        """What the argument is, in the words of the tool, on one line."""
        return " ".join(str(self.schema.get("description") or "").split())

    @property
    def choices(self) -> list[JsonValue]:
        """The only values it may have; empty where there are others."""
        listed = self.schema.get("enum")
        constant = [self.schema["const"]] if "const" in self.schema else []
        return listed if isinstance(listed, list) else constant

    def wanted(self) -> str:
        """Return what may be written: `text`, `list of text`, `one of: "a", "b"`."""
        if self.choices:
            return "one of: " + ", ".join(_shown(choice) for choice in self.choices)
        return _wanted(self.schema, self.root)

    def prompt(self) -> str:
        """Return the question: name, kind, and what an empty answer means."""
        if "default" in self.schema:
            empty = f" [{_shown(self.schema['default'])}]"
        else:
            empty = "" if self.required else " [none]"
        return f"{self.name} ({self.wanted()}){empty}: "

    def read(self, text: str) -> JsonValue:
        """Return the value that was written; raises `Unreadable`."""
        if self.choices:
            return self._chosen(text)
        return _read(text, self.schema, self.root, 0)

    def _chosen(self, text: str) -> JsonValue:
        for choice in self.choices:
            if text in (choice, dumps(choice).decode()):
                return choice
        raise Unreadable(f"{text!r} is not {self.wanted()}")


def questions_of(schema: JsonObject) -> tuple[Question, ...]:
    """Return a question for each argument that a tool's schema names, required ones first."""
    required = set(required_of(schema))
    asked = [
        Question(name, resolved(about, schema), schema, name in required)
        for name, about in properties_of(schema).items()
    ]
    return tuple(sorted(asked, key=lambda question: not question.required))


def _kinds(schema: JsonObject, root: JsonObject, depth: int) -> Iterator[tuple[str, JsonObject]]:
    """Yield the kinds a value may have, each with the schema that says so."""
    options = schema.get("anyOf", schema.get("oneOf"))
    if isinstance(options, list) and depth < _MAX_DEPTH:
        for option in options:
            yield from _kinds(resolved(option, root), root, depth + 1)
        return
    kinds = schema.get("type")
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        yield (kind if isinstance(kind, str) and kind in _ORDER else "any"), schema


def _wanted(schema: JsonObject, root: JsonObject, depth: int = 0) -> str:
    named: list[str] = []
    for kind, own in _kinds(schema, root, depth):
        name = _NAMES.get(kind, kind)
        items = resolved(own.get("items"), root) if kind == "array" else {}
        if items and depth < _MAX_DEPTH:
            name = f"list of {_wanted(items, root, depth + 1)}"
        named.append(f"{name} as JSON" if kind == "object" else name)
    return " or ".join(dict.fromkeys(named)) or "JSON"


def _read(text: str, schema: JsonObject, root: JsonObject, depth: int) -> JsonValue:
    kinds = sorted(_kinds(schema, root, depth), key=lambda entry: _ORDER.index(entry[0]))
    why = ""
    for kind, own in kinds:
        try:
            return _read_kind(text, kind, own, root, depth)
        except Unreadable as error:
            why = why or str(error)
    raise Unreadable(why or f"{text!r} is not {_wanted(schema, root)}")


def _read_kind(text: str, kind: str, schema: JsonObject, root: JsonObject, depth: int) -> JsonValue:
    match kind:
        case "string":
            return _json(text, str) if len(text) > 1 and text[0] == text[-1] == '"' else text
        case "boolean":
            if text.lower() in _YES_NO:
                return _YES_NO[text.lower()]
            raise Unreadable(f"{text!r} is not yes or no")
        case "null":
            return _json(text, type(None))
        case "integer":
            return _json(text, int)
        case "number":
            return _json(text, int, float)
        case "object":
            return _json(text, dict)
        case "array" if not text.lstrip().startswith("["):
            items = resolved(schema.get("items"), root)
            return [_read(item.strip(), items, root, depth + 1) for item in text.split(",")]
        case "array":
            return _json(text, list)
        case _:
            return _anything(text)


_KINDS: dict[type, str] = {
    str: "text in double quotes, as JSON writes it",
    type(None): "null",
    int: "a whole number",
    float: "a number",
    dict: 'a JSON object, such as {"a": 1}',
    list: "a list",
}


def _json(text: str, *kinds: type) -> JsonValue:
    """Return the JSON value in `text` if it is of one of these types."""
    try:
        value = loads(text)
    except StrictJsonError as error:
        raise Unreadable(f"{text!r} is not {_KINDS[kinds[-1]]}: {error}") from None
    if type(value) not in kinds:
        raise Unreadable(f"{text!r} is not {_KINDS[kinds[-1]]}")
    return value


def _anything(text: str) -> JsonValue:
    """Return the JSON value in `text`, or the text where it is none."""
    try:
        return loads(text)
    except StrictJsonError:
        return text


def _shown(value: JsonValue) -> str:
    return dumps(value).decode()
