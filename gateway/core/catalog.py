"""The tools of one pack: what its servers listed, held against the lock, ready to be judged.

Built once when a pack is served and never changed; what a session's own server lists later is
compared with it (`Catalog.drifted`). Definitions are untrusted text: hashes are taken over what
the server sent, listings show a screened copy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import jsonschema_rs

from gateway.core.argument_names import known_names
from gateway.core.calls import Target
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.lock import tool_sha256
from gateway.core.manifest import Kind
from gateway.core.screening import screen

__all__ = ["ArgumentCheck", "Catalog", "ServerListing", "Tool", "argument_check", "build_catalog", "offered"]

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z")
_RESERVED = frozenset({"reset", "step", "state", "close"})

ArgumentCheck = Callable[[JsonObject], "str | None"]
"""Says what is wrong with a call's arguments, or `None`."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool of a pack, or what of a resource or prompt a call needs to know (`offered`).

    `name` is what the pack shows, `upstream` the server's own name, `definition` the screened
    MCP definition under `name`. `trusted` is false while the lock does not know this definition.
    """

    name: str
    server: str
    upstream: str
    definition: JsonObject
    sha256: str
    check: ArgumentCheck
    kinds: Mapping[str, Kind]
    trusted: bool = True
    target: Target = "tool"


def offered(server: str, target: Target, name: str) -> Tool:
    """Return a server's resource (by its URI) or prompt; the lock speaks of tools only."""
    return Tool(name, server, name, {}, "", _anything, {}, target=target)


def _anything(arguments: JsonObject) -> None:
    return None


@dataclass(frozen=True, slots=True)
class ServerListing:
    """What one server offers: its definitions as it sent them, and what the pack says about it.

    `locked` maps a tool's own name to its locked hash.
    """

    server: str
    definitions: tuple[JsonObject, ...]
    locked: Mapping[str, str]
    kinds: Mapping[str, Kind] = field(default_factory=dict[str, Kind])
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Catalog:
    """Tools by the name the pack shows, in the servers' order, and what was found odd about them."""

    tools: Mapping[str, Tool]
    findings: tuple[str, ...] = ()

    def of_server(self, server: str) -> list[Tool]:
        """Return the tools of one server."""
        return [tool for tool in self.tools.values() if tool.server == server]

    def drifted(self, server: str, definitions: Iterable[JsonObject]) -> frozenset[str]:
        """Return the names (as the pack shows them) whose definition is not the one served, or is gone."""
        now = {str(d.get("name")): tool_sha256(d) for d in definitions}
        return frozenset(t.name for t in self.of_server(server) if now.get(t.upstream) != t.sha256)


def build_catalog(listings: Iterable[ServerListing]) -> Catalog:
    """Join the servers' listings; raises `ValueError` naming two tools of one name or a reserved one."""
    tools: dict[str, Tool] = {}
    findings: list[str] = []
    for listing in listings:
        for definition in listing.definitions:
            tool, notes = _tool(listing, definition)
            findings.extend(f"{listing.server}: {note}" for note in notes)
            if tool is None:
                continue
            _refuse_name(tool, tools)
            tools[tool.name] = tool
    return Catalog(tools, tuple(findings))


def _refuse_name(tool: Tool, tools: Mapping[str, Tool]) -> None:
    if tool.name in tools:
        both = f"servers {tools[tool.name].server!r} and {tool.server!r} both have a tool {tool.name!r}"
        raise ValueError(f"{both}: give one of them a prefix")
    if tool.name in _RESERVED:
        raise ValueError(
            f"server {tool.server!r} has a tool with the reserved name {tool.name!r}: give it a prefix"
        )


def _tool(listing: ServerListing, definition: JsonObject) -> tuple[Tool | None, list[str]]:
    upstream = definition.get("name")
    if not isinstance(upstream, str) or not _NAME.match(listing.prefix + upstream):
        return None, [f"a tool with the unusable name {str(upstream)[:64]!r} is hidden"]
    shown, notes = screen(definition)
    shown["name"] = listing.prefix + upstream
    sha256 = tool_sha256(definition)
    trusted = listing.locked.get(upstream) == sha256
    if not trusted:
        how = "changed since it was locked" if upstream in listing.locked else "not in the lock"
        notes.append(f"tool {upstream!r} is {how}: it is denied until 'sandgate toolpack lock' is run")
    tool = Tool(
        name=listing.prefix + upstream,
        server=listing.server,
        upstream=upstream,
        definition=shown,
        sha256=sha256,
        check=argument_check(definition.get("inputSchema")),
        kinds=listing.kinds,
        trusted=trusted,
    )
    return tool, notes


def argument_check(schema: JsonValue) -> ArgumentCheck:
    """Compile an input schema into a check that also refuses argument names the schema does not know.

    A schema that cannot be compiled, or that refers to another document, refuses every call: a
    gateway that cannot tell what a tool takes has no business forwarding to it.
    """
    if not isinstance(schema, dict):
        return lambda _: "the tool has no input schema"
    try:
        validator = jsonschema_rs.validator_for(schema, retriever=_no_remote_references)
    except (ValueError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        message = f"the tool's input schema cannot be used: {_first_line(error)}"
        return lambda _: message
    known = known_names(schema)

    def check(arguments: JsonObject) -> str | None:
        if known is not None and (unknown := arguments.keys() - known):
            names = ", ".join(repr(name[:64]) for name in sorted(unknown)[:5])
            takes = ", ".join(sorted(known)[:20]) or "none"
            return f"unknown argument {names}; the tool takes: {takes}"
        if validator.is_valid(arguments):
            return None
        return _explain(validator, arguments)

    return check


def _explain(validator: jsonschema_rs.Validator, arguments: JsonObject) -> str:
    error = next(iter(validator.iter_errors(arguments)))
    where = ".".join(str(step) for step in error.instance_path)
    return f"{where}: {error.message[:300]}" if where else error.message[:300]


def _no_remote_references(uri: str) -> JsonValue:
    raise ValueError(f"references to other documents are not followed: {uri[:200]}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
