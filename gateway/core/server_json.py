"""A server of a toolpack as the MCP Registry's `server.json`; pure, from the manifest and the lock.

Only the server is described: a registry entry knows no policy, no sandbox and no tasks. What the format
cannot say is refused with the reason, never left out.
"""

from __future__ import annotations

import re

from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.lock import Lock
from gateway.core.manifest import Manifest, ServerSpec
from gateway.core.seeding import SEED_MARK
from gateway.errors import UsageError

__all__ = ["SCHEMA", "server_json"]

SCHEMA = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
"""The format that is written."""

_NAME = re.compile(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+")
_MAX_NAME = 200
_MAX_DESCRIPTION = 100
_PYPI = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?P<extras>\[.*\])?\s*(?:===?\s*(?P<version>[^\s,*]+))?"
)
_NPM = re.compile(r"(?P<name>@?[^@]+)(?:@(?P<version>[0-9]+\.[0-9]+\.[0-9]+(?:[-+][A-Za-z0-9.+-]+)?))?")
_SECRET_IN = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def server_json(manifest: Manifest, lock: Lock | None, *, name: str, server: str | None = None) -> JsonObject:
    """Return the `server.json` of one server; `server` chooses it where the pack has several.

    `name` is the registry's, in reverse-DNS form with one slash. Raises `UsageError` for what cannot be
    described.
    """
    if _NAME.fullmatch(name) is None or not 3 <= len(name) <= _MAX_NAME:
        raise UsageError(f"--name {name}: the registry wants a name like io.github.USER/{manifest.name}")
    server_id, spec = _chosen(manifest, server)
    document: JsonObject = {
        "$schema": SCHEMA,
        "name": name,
        "title": manifest.name,
        "description": _short(manifest.description),
        "version": manifest.version,
    }
    if spec.url is not None:
        return {**document, "remotes": [_remote(server_id, spec)]}
    return {**document, "packages": [_package(server_id, spec, manifest.workspace.path, lock)]}


def _chosen(manifest: Manifest, server: str | None) -> tuple[str, ServerSpec]:
    ids = ", ".join(manifest.servers)
    if server is not None:
        if server not in manifest.servers:
            raise UsageError(f"the pack has no server {server!r}: it has {ids}")
        return server, manifest.servers[server]
    if len(manifest.servers) > 1:
        raise UsageError(f"a server.json describes one server and this pack has {ids}: choose by --server ID")
    return next(iter(manifest.servers.items()))


def _short(description: str) -> str:
    text = " ".join(description.split())
    return text if len(text) <= _MAX_DESCRIPTION else text[: _MAX_DESCRIPTION - 1].rstrip() + "…"


def _package(server_id: str, spec: ServerSpec, workspace: str, lock: Lock | None) -> JsonObject:
    if spec.pypi is None and spec.npm is None:
        what = "a command of the pack" if spec.command is not None else "an image"
        raise UsageError(
            f"server {server_id!r} is {what}, and a server.json names packages of PyPI or npm, or a URL: "
            "publish it as a package first"
        )
    if any(SEED_MARK in text for text in (*spec.args, *spec.env.values())):
        raise UsageError(f"server {server_id!r} is started with {SEED_MARK}, which only an episode has")
    registry, identifier, version = _pypi(server_id, spec) if spec.pypi is not None else _npm(server_id, spec)
    locked = lock.package_of(server_id) if lock is not None else None
    version = version or (locked.version if locked is not None else None)
    if version is None:
        raise UsageError(
            f"server {server_id!r} names no exact version and no lock pins it: run 'sandgate toolpack lock'"
        )
    variables: list[JsonValue] = [{"name": key, **_value(text, workspace)} for key, text in spec.env.items()]
    variables += [_secret(secret) for secret in spec.secrets]
    package: JsonObject = {
        "registryType": registry,
        "identifier": identifier,
        "version": version,
        "runtimeHint": "uvx" if registry == "pypi" else "npx",
        "transport": {"type": "stdio"},
    }
    if spec.args:
        package["packageArguments"] = [{"type": "positional", **_value(arg, workspace)} for arg in spec.args]
    if variables:
        package["environmentVariables"] = variables
    return package


def _pypi(server_id: str, spec: ServerSpec) -> tuple[str, str, str | None]:
    found = _PYPI.match(spec.pypi or "")
    assert found is not None, "the manifest checked the requirement"
    if found["extras"]:
        raise UsageError(f"server {server_id!r}: a server.json cannot ask for extras: {spec.pypi}")
    if spec.entry is not None and _plain(spec.entry) != _plain(found["name"]):
        raise UsageError(
            f"server {server_id!r} is started as {spec.entry!r}, and a server.json has no place for a "
            f"console script with another name than its package, {found['name']}"
        )
    return "pypi", found["name"], found["version"]


def _npm(server_id: str, spec: ServerSpec) -> tuple[str, str, str | None]:
    # `npx` takes the package's only script, whatever it is called; that is what `entry` names.
    found = _NPM.match(spec.npm or "")
    assert found is not None, f"the manifest checked the package of {server_id!r}"
    return "npm", found["name"], found["version"]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _value(text: str, workspace: str) -> JsonObject:
    """Return an input with the value `text`; the workspace in it becomes a folder that the user names."""
    rest = text.removeprefix(workspace)
    if rest == text or rest[:1] not in ("", "/"):
        return {"value": text}
    folder: JsonObject = {
        "description": "The folder that the server works in.",
        "format": "filepath",
        "isRequired": True,
    }
    return {"value": "{workspace}" + rest, "variables": {"workspace": folder}}


def _secret(name: str) -> JsonObject:
    return {"name": name, "description": "A secret of the server.", "isRequired": True, "isSecret": True}


def _remote(server_id: str, spec: ServerSpec) -> JsonObject:
    if spec.oauth is not None:
        raise UsageError(
            f"server {server_id!r} is reached with OAuth client credentials of the operator's, and a "
            "server.json has no place for those"
        )
    remote: JsonObject = {"type": "streamable-http", "url": str(spec.url)}
    if spec.headers:
        remote["headers"] = [_header(name, value) for name, value in spec.headers.items()]
    return remote


def _header(name: str, value: str) -> JsonObject:
    secrets = dict.fromkeys(_SECRET_IN.findall(value))
    if not secrets:
        return {"name": name, "value": value}
    hidden: JsonObject = {secret: {"isRequired": True, "isSecret": True} for secret in secrets}
    return {"name": name, "value": _SECRET_IN.sub(r"{\1}", value), "variables": hidden}
