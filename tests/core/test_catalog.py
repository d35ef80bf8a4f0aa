"""The catalog holds what servers list against the lock and knows what arguments a tool takes."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.catalog import Catalog, ServerListing, argument_check, build_catalog
from gateway.core.lock import tool_sha256

ECHO: dict[str, Any] = {
    "name": "echo",
    "description": "Say it again.",
    "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    "x-vendor": {"kept": True},
}


def listing(*definitions: dict[str, Any], locked: dict[str, str] | None = None, **more: Any) -> ServerListing:
    hashes = {d["name"]: tool_sha256(d) for d in definitions} if locked is None else locked
    return ServerListing(more.pop("server", "s"), definitions, hashes, **more)


def only(catalog: Catalog) -> Any:
    (tool,) = catalog.tools.values()
    return tool


def test_a_locked_tool_is_trusted_and_keeps_its_unknown_fields() -> None:
    tool = only(build_catalog([listing(ECHO)]))
    assert tool.trusted
    assert tool.definition == ECHO


def test_a_changed_tool_is_not_trusted_and_is_reported() -> None:
    catalog = build_catalog([listing(ECHO, locked={"echo": "0" * 64})])
    assert not only(catalog).trusted
    assert catalog.findings == (
        "s: tool 'echo' is changed since it was locked: it is denied until 'sandgate toolpack lock' is run",
    )


def test_an_added_tool_is_not_trusted_and_is_reported() -> None:
    catalog = build_catalog([listing(ECHO, locked={})])
    assert not only(catalog).trusted
    assert "not in the lock" in catalog.findings[0]


def test_a_prefix_names_the_tool_for_callers_and_not_for_its_server() -> None:
    tool = only(build_catalog([listing(ECHO, prefix="x_")]))
    assert (tool.name, tool.upstream, tool.definition["name"]) == ("x_echo", "echo", "x_echo")


def test_two_servers_with_one_tool_name_are_refused() -> None:
    with pytest.raises(ValueError, match="give one of them a prefix"):
        build_catalog([listing(ECHO, server="a"), listing(ECHO, server="b")])


@pytest.mark.parametrize("name", ["reset", "step", "state", "close"])
def test_names_of_the_environment_interface_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="reserved name"):
        build_catalog([listing({**ECHO, "name": name})])


@pytest.mark.parametrize("name", ["", "a b", "x" * 129, "é", "a/b", 7, None])
def test_a_tool_with_an_unusable_name_is_hidden_and_reported(name: Any) -> None:
    catalog = build_catalog([ServerListing("s", ({**ECHO, "name": name},), {})])
    assert not catalog.tools
    assert "unusable name" in catalog.findings[0]


def test_drift_names_what_changed_and_what_is_gone() -> None:
    other = {**ECHO, "name": "other"}
    catalog = build_catalog([listing(ECHO, other)])
    assert catalog.drifted("s", [ECHO, other]) == frozenset()
    assert catalog.drifted("s", [{**ECHO, "description": "Send it to me."}, other]) == {"echo"}
    assert catalog.drifted("s", [ECHO]) == {"other"}


ARGUMENTS: list[tuple[Any, dict[str, Any], str | None]] = [
    (ECHO["inputSchema"], {"text": "x"}, None),
    (ECHO["inputSchema"], {}, '"text" is a required property'),
    (ECHO["inputSchema"], {"text": 1}, 'text: 1 is not of type "string"'),
    (ECHO["inputSchema"], {"text": "x", "sudo": True}, "unknown argument 'sudo'; the tool takes: text"),
    ({"type": "object"}, {"any": 1}, "unknown argument 'any'; the tool takes: none"),
    ({"type": "object", "additionalProperties": True}, {"any": 1}, None),
    ({"type": "object", "additionalProperties": {}}, {"any": 1}, None),
    ({"type": "object", "patternProperties": {"^a": {}}, "additionalProperties": False}, {"ab": 1}, None),
    ({"anyOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}, {"b": 1}, None),
    (
        {"anyOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
        {"c": 1},
        "unknown argument 'c'; the tool takes: a, b",
    ),
    ({"properties": {"n": {"type": "integer"}}}, {"n": 123456789012345678901}, None),
    (
        {"$ref": "#/$defs/x", "$defs": {"x": {"properties": {"a": {"type": "string"}}}}},
        {"a": 1},
        'a: 1 is not of type "string"',
    ),
]


@pytest.mark.parametrize(("schema", "arguments", "fault"), ARGUMENTS)
def test_arguments_are_held_against_the_schema(schema: Any, arguments: Any, fault: str | None) -> None:
    assert argument_check(schema)(arguments) == fault


@pytest.mark.parametrize(
    "schema",
    [
        None,
        7,
        {"type": "objec"},
        {"$ref": "https://example.com/schema.json"},
        {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
    ],
)
def test_a_schema_that_cannot_be_used_refuses_every_call(schema: Any) -> None:
    assert argument_check(schema)({}) is not None


def test_a_hostile_pattern_cannot_stall_the_check() -> None:
    check = argument_check({"properties": {"a": {"type": "string", "pattern": "^(a|a)*$"}}})
    assert check({"a": "a" * 5000 + "b"}) is not None
