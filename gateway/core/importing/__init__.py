"""Reads what other programs say of MCP servers, as data of a toolpack; refuses what is not safe. Pure.

Nothing of such a file is trusted: it may name a shell, a folder of this machine or a secret. What is not
known to be harmless is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from gateway.core.importing.bundle import read_bundle
from gateway.core.importing.configs import server_of
from gateway.core.importing.model import CODE, WORKSPACE, Foreign, ForeignServer, Refusal, identifier
from gateway.core.importing.registry import read_registry
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.strict_json import StrictJsonError, loads
from gateway.errors import ConfigError, Problem

__all__ = ["CODE", "WORKSPACE", "Foreign", "ForeignServer", "Refusal", "identifier", "read_foreign"]

_VERSION = re.compile(r"[0-9]+(\.[0-9]+){0,2}([-+.][A-Za-z0-9.+-]+)?")
_COMMENT = re.compile(r'("(?:[^"\\]|\\.)*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
_LAST_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])')
_FORMATS = (
    "an 'mcpServers' object, VS Code's 'servers', a server.json of the MCP Registry, or a manifest.json of "
    "an MCP bundle"
)


def read_foreign(text: str, file: str, only: Collection[str] = ()) -> Foreign:
    """Return what a file says of MCP servers; `only` names those that are wanted, none for all.

    Raises `ConfigError` with a problem for everything in it that is refused.
    """
    try:
        document = _document(text)
        clients = [key for key in ("mcpServers", "servers") if isinstance(document.get(key), dict)]
        registry = ["server.json"] if "packages" in document or "remotes" in document else []
        bundle = ["manifest.json"] if "manifest_version" in document or "dxt_version" in document else []
        match [*clients, *registry, *bundle]:
            case ["server.json"]:
                read = read_registry(document)
            case ["manifest.json"]:
                read = read_bundle(document)
            case ["mcpServers" | "servers" as key]:
                return _checked(_clients(document[key], file, only))
            case _:
                raise Refusal("format", f"it is not exactly one of these: {_FORMATS}")
        if only:
            raise Refusal("format", "it describes one server: leave --server out")
    except Refusal as refusal:
        raise ConfigError([Problem(file, 0, 0, refusal.code, str(refusal))]) from None
    return _checked(read)


def _document(text: str) -> JsonObject:
    try:
        value = loads(text)
    except StrictJsonError as first:
        # VS Code's own files have comments, and commas behind the last member.
        bare = _LAST_COMMA.sub(_kept, _COMMENT.sub(_kept, text))
        try:
            value = loads(bare)
        except StrictJsonError:
            raise Refusal("format", str(first)) from None
    if not isinstance(value, dict):
        raise Refusal("format", f"it is not an object: give {_FORMATS}")
    return value


def _kept(match: re.Match[str]) -> str:
    return match[1] or " "


def _clients(entries: JsonValue, file: str, only: Collection[str]) -> Foreign:
    assert isinstance(entries, dict), "only objects are taken for a client's servers"
    if missing := sorted(set(only) - set(entries)):
        raise Refusal("format", f"no server {missing[0]!r}; there are: {', '.join(entries) or 'none'}")
    servers: dict[str, ForeignServer] = {}
    notes: list[str] = []
    problems: list[Problem] = []
    for name, entry in entries.items():
        if only and name not in only:
            continue
        try:
            server = server_of(name, entry, servers)
        except Refusal as refusal:
            problems.append(Problem(file, 0, 0, refusal.code, f"server {name!r}: {refusal}"))
            continue
        if server is None:
            notes.append(f"server {name!r} is off there, and was left out")
        else:
            servers[server.id] = server
    if problems:
        raise ConfigError(problems)
    if not servers:
        raise Refusal("format", "no server in it is on")
    name = next(iter(servers)) if len(servers) == 1 else "imported"
    names = ", ".join(servers)
    description = f"Imported: {names}."[:200]
    return Foreign(
        identifier(name, fallback="imported"),
        "0.1.0",
        description,
        tuple(servers.values()),
        notes=tuple(notes),
    )


def _checked(read: Foreign) -> Foreign:
    if _VERSION.fullmatch(read.version):
        return read
    return Foreign(read.name, "0.1.0", read.description, read.servers, read.whole, read.notes)
