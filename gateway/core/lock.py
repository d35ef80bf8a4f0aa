"""`tools.lock.json`: what a pack's servers were when a person last looked at them.

Per server its launch command, what was installed for it (versions and hashes, never where from)
and a hash per tool definition. Text in, text out: `gateway.runtime.packs` reads and writes the file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from gateway.core.argument_names import argument_paths, schema_of
from gateway.core.documents import read_document
from gateway.core.fields import FrozenModel, Many
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.manifest import ServerSpec
from gateway.core.strict_json import canonical
from gateway.errors import ConfigError

__all__ = [
    "LOCK_FILE",
    "LOCK_VERSION",
    "Dist",
    "Lock",
    "NpmEntry",
    "NpmLock",
    "PackageLock",
    "PypiLock",
    "ServerLock",
    "ToolChanges",
    "compare",
    "dump_lock",
    "launch_of",
    "lock_sha256",
    "lockable",
    "lockable_arguments",
    "parse_lock",
    "tool_sha256",
]

LOCK_FILE = "tools.lock.json"
LOCK_VERSION = 1
"""The lock version this program reads and writes."""

_USABLE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_ToolName: TypeAlias = Annotated[str, Field(pattern=rf"^{_USABLE_NAME.pattern}$")]
_LOCKED_PARTS = ("name", "description", "inputSchema", "outputSchema", "annotations")
_Sha256: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Integrity: TypeAlias = Annotated[str, Field(pattern=r"^sha(512|384|256)-[A-Za-z0-9+/=]+$")]
_Version: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.!+_-]*$")]
_DistName: TypeAlias = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
_EnvironmentTag: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
_SEGMENT = r"@?[A-Za-z0-9_~-][A-Za-z0-9._~-]*"
_InstallPath: TypeAlias = Annotated[str, Field(pattern=rf"^node_modules(/{_SEGMENT})+$")]


class Dist(FrozenModel):
    """One installed Python distribution: its version and the hash of the file it came in."""

    version: _Version
    sha256: _Sha256


class PypiLock(FrozenModel):
    """What pip installed. `environments` maps an environment's tag to its distributions by name."""

    kind: Literal["pypi"] = "pypi"
    name: _DistName
    version: _Version
    environments: Mapping[_EnvironmentTag, Mapping[_DistName, Dist]]

    def versions(self) -> dict[str, str]:
        """Return every locked distribution's version, from whichever environment names it first."""
        found: dict[str, str] = {}
        for dists in self.environments.values():
            for name, dist in dists.items():
                found.setdefault(name, dist.version)
        return found


class NpmEntry(FrozenModel):
    """One installed npm package, as npm's own lock describes it."""

    version: _Version
    integrity: _Integrity
    dependencies: Mapping[str, str] = Field(default_factory=dict[str, str])
    optional_dependencies: Mapping[str, str] = Field(
        default_factory=dict[str, str], alias="optionalDependencies"
    )
    peer_dependencies: Mapping[str, str] = Field(default_factory=dict[str, str], alias="peerDependencies")
    peer_dependencies_meta: Mapping[str, Mapping[str, bool]] = Field(
        default_factory=dict[str, Mapping[str, bool]], alias="peerDependenciesMeta"
    )
    bin: Mapping[str, str] = Field(default_factory=dict[str, str])
    os: Many[str] = ()
    cpu: Many[str] = ()
    libc: Many[str] = ()
    optional: bool = False
    peer: bool = False


class NpmLock(FrozenModel):
    """What npm installed, by the path below the installation where each package stands."""

    kind: Literal["npm"] = "npm"
    name: str
    version: _Version
    packages: Mapping[_InstallPath, NpmEntry]


PackageLock: TypeAlias = Annotated[PypiLock | NpmLock, Field(discriminator="kind")]
"""What was installed for one server."""


class ServerLock(FrozenModel):
    """One server: how it is started, what is installed for it, and its tools' hashes.

    `arguments` are what its tools take, as dotted paths, for `policy check`; tools that take any, and
    those of a lock that was written before, are not in it.
    """

    launch: Many[str]
    package: PackageLock | None = None
    tools: Mapping[_ToolName, _Sha256]
    arguments: Mapping[_ToolName, Many[str]] = Field(default_factory=dict[str, tuple[str, ...]])


class Lock(FrozenModel):
    """A whole `tools.lock.json`."""

    lock_version: Literal[1] = Field(default=LOCK_VERSION, alias="lockVersion")
    servers: Mapping[str, ServerLock]

    def tools_of(self, server: str) -> Mapping[str, str]:
        """Return the locked hash of each of a server's tools; empty for a server the lock does not know."""
        return self.servers[server].tools if server in self.servers else {}

    def schemas_of(self, server: str) -> Mapping[str, JsonObject]:
        """Return what is known of the arguments of each of a server's tools, as an input schema."""
        arguments = self.servers[server].arguments if server in self.servers else dict[str, tuple[str, ...]]()
        return {
            tool: schema_of(arguments[tool]) if tool in arguments else {} for tool in self.tools_of(server)
        }

    def package_of(self, server: str) -> PypiLock | NpmLock | None:
        """Return what is locked to be installed for a server."""
        return self.servers[server].package if server in self.servers else None


class ToolChanges(FrozenModel):
    """How a server's tools differ from its lock. Names are the server's own."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return bool(self.added or self.changed or self.removed)


def tool_sha256(definition: JsonObject) -> str:
    """Return the SHA-256 (hex) of what is locked of an MCP tool definition; absent parts count as null."""
    return hashlib.sha256(canonical({part: definition.get(part) for part in _LOCKED_PARTS})).hexdigest()


def lockable(definitions: Iterable[JsonObject]) -> dict[str, str]:
    """Return each tool's hash by its name; a name that no client could use is never shown, so not locked."""
    named = [(definition.get("name"), definition) for definition in definitions]
    return {n: tool_sha256(d) for n, d in named if isinstance(n, str) and _USABLE_NAME.fullmatch(n)}


def lockable_arguments(definitions: Iterable[JsonObject]) -> dict[str, tuple[str, ...]]:
    """Return what each tool takes by the tool's name, where its input schema says so."""
    definitions = list(definitions)
    names = lockable(definitions)
    found = {str(d.get("name")): argument_paths(d.get("inputSchema")) for d in definitions}
    return {name: paths for name, paths in found.items() if name in names and paths is not None}


def launch_of(server: ServerSpec) -> tuple[str, ...]:
    """Return how a server is started, as the lock records it: its source, then its arguments."""
    if server.command is not None:
        needs = (f"requirements:{','.join(server.requirements)}",) if server.requirements is not None else ()
        return (*needs, *server.command, *server.args)
    if server.url is not None:
        # What decides whom the gateway talks to, and as whom; the secrets themselves are nobody's to lock.
        known = [f"header:{name.lower()}={value}" for name, value in sorted(server.headers.items())]
        oauth = [f"oauth:{server.oauth.token_url} {server.oauth.client_id}"] if server.oauth else []
        return (f"url:{server.url}", *known, *oauth)
    entry = (server.entry,) if server.entry else ()
    return (f"{server.source}:{getattr(server, server.source)}", *entry, *server.args)


def compare(lock: Lock | None, server: str, definitions: Iterable[JsonObject]) -> ToolChanges:
    """Return how a listing differs from the lock; without a lock every tool is an added one."""
    known = lock.tools_of(server) if lock is not None else dict[str, str]()
    now = {str(definition.get("name")): tool_sha256(definition) for definition in definitions}
    return ToolChanges(
        added=tuple(sorted(now.keys() - known.keys())),
        changed=tuple(sorted(name for name in now.keys() & known.keys() if now[name] != known[name])),
        removed=tuple(sorted(known.keys() - now.keys())),
    )


def parse_lock(text: str, file: str) -> Lock:
    """Read a lock; raises `ConfigError` with `file:line:col` for each fault."""
    document = read_document(text, file)
    version = document.value.get("lockVersion") if isinstance(document.value, dict) else None
    if isinstance(version, int) and version > LOCK_VERSION:
        message = f"the lock has version {version} and this program knows {LOCK_VERSION}: upgrade sandgate"
        raise ConfigError([document.problem(("lockVersion",), "newer_version", message)])
    return document.parse(Lock)


def dump_lock(lock: Lock) -> str:
    """Return the lock's text, sorted and with one tool or installed package per line: diffs read well."""
    value = lock.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return _render({"lockVersion": LOCK_VERSION, **_with_kinds(lock, value)}, 0) + "\n"


def lock_sha256(lock: Lock) -> str:
    """Return the SHA-256 (hex) of a lock's text as it is written."""
    return hashlib.sha256(dump_lock(lock).encode()).hexdigest()


def _with_kinds(lock: Lock, value: JsonObject) -> JsonObject:
    """Put back the package kinds, which are defaults and so were left out."""
    servers = value["servers"]
    assert isinstance(servers, dict)
    for server_id, server in lock.servers.items():
        written = servers[server_id]
        if server.package is not None and isinstance(written, dict) and isinstance(written["package"], dict):
            written["package"] = {"kind": server.package.kind, **written["package"]}
    return value


_EXPANDED = 6
"""Levels of the lock that get a line per member; anything deeper is one line."""


def _render(value: JsonValue, depth: int) -> str:
    if (
        not isinstance(value, dict)
        or not value
        or depth >= _EXPANDED
        or "integrity" in value
        or "sha256" in value
    ):
        return _one_line(value)
    pad = "  " * (depth + 1)
    members = sorted(value.items()) if depth else value.items()
    lines = [f"{pad}{_one_line(key)}: {_render(member, depth + 1)}" for key, member in members]
    return "{\n" + ",\n".join(lines) + "\n" + "  " * depth + "}"


def _one_line(value: JsonValue) -> str:
    """Return JSON that YAML reads alike: nothing unprintable stands in it as it is."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return "".join(c if c.isprintable() or ord(c) > 0xFFFF else f"\\u{ord(c):04x}" for c in text)
