"""The clients' own files: `mcpServers` (Claude, Cursor and others) and `servers` (VS Code)."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.core.importing.model import WORKSPACE, ForeignServer, Refusal, identifier, told
from gateway.core.importing.values import check_url, env_value, filled, header_value
from gateway.core.importing.words import launch_of_words
from gateway.core.json_types import JsonObject, JsonValue

__all__ = ["server_of", "spec_of", "strings", "text_of", "texts_of"]

_KNOWN = dict.fromkeys(("workspaceFolder", "workspaceRoot", "CLAUDE_PROJECT_DIR"), WORKSPACE) | {"/": "/"}
_READ = frozenset(
    {"type", "transport", "command", "args", "env", "cwd", "url", "headers", "disabled", "envFile"}
)
_SILENT = frozenset({"description", "icon", "gallery", "version", "name"})
_STDIO, _HTTP = ("stdio",), ("http", "streamable-http", "streamableHttp", "streamable_http")


def server_of(name: str, entry: JsonValue, taken: Mapping[str, object]) -> ForeignServer | None:
    """Return one server of a client's file, `None` for one that is off; raises `Refusal`."""
    if not isinstance(entry, dict):
        raise Refusal("format", "it is not an object")
    if entry.get("disabled") is True:
        return None
    server = _free(identifier(name, fallback="server"), taken)
    notes = [f"named {server!r} here, not {told(name, 40)!r}"] if server != name else []
    ignored = sorted(told(key, 40) for key in entry if key not in _READ | _SILENT)
    notes += [f"not carried over: {', '.join(ignored)}"] if ignored else []
    if "envFile" in entry:
        raise Refusal(
            "secret", "'envFile' is a file of this machine: name its variables in 'env', as '${NAME}'"
        )
    kind = entry.get("type", entry.get("transport"))
    if ("command" in entry) == ("url" in entry):
        raise Refusal("format", "a server has either 'command' or 'url'")
    if kind is not None and kind not in (_STDIO if "command" in entry else _HTTP):
        message = (
            f"the transport {told(kind, 40)!r} is not spoken: known are 'stdio' with a command and 'http' "
        )
        raise Refusal("transport", message + "(Streamable HTTP) with a url")
    return _remote(server, entry, notes) if "url" in entry else _local(server, entry, notes)


def _free(name: str, taken: Mapping[str, object]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name[:28]}-{number}"
    return free


def _local(server: str, entry: JsonObject, notes: list[str]) -> ForeignServer:
    cwd = entry.get("cwd", ".")
    if not isinstance(cwd, str) or filled(cwd, _KNOWN).rstrip("/") not in (".", WORKSPACE):
        raise Refusal(
            "mount", f"'cwd' is outside of the workspace: a server starts in {WORKSPACE}; leave it out"
        )
    words = [text_of(entry, "command"), *texts_of(entry, "args")]
    if not words[0]:
        raise Refusal("format", "'command' is empty")
    launch = launch_of_words(server, [filled(word, _KNOWN) for word in words])
    env: JsonObject = {}
    secrets: list[JsonValue] = []
    for name, value in strings(entry, "env").items():
        kept = env_value(name, value, _KNOWN)
        if kept is None:
            secrets.append(name)
        else:
            env[name] = kept
    return ForeignServer(
        server,
        spec_of(launch.source, args=[*launch.args], env=env, secrets=secrets),
        launch.code,
        launch.place,
        (*notes, *launch.notes),
    )


def _remote(server: str, entry: JsonObject, notes: list[str]) -> ForeignServer:
    url = text_of(entry, "url")
    check_url(url)
    headers: JsonObject = {}
    secrets: list[JsonValue] = []
    for name, value in strings(entry, "headers").items():
        headers[name], named = header_value(server, name, value)
        secrets += [secret for secret in named if secret not in secrets]
    if used := [key for key in ("args", "env") if entry.get(key)]:
        raise Refusal("format", f"a server at a url has no {used[0]!r}")
    return ForeignServer(server, spec_of({"url": url}, headers=headers, secrets=secrets), notes=tuple(notes))


def spec_of(source: Mapping[str, str | list[str]], **parts: JsonValue) -> JsonObject:
    """Return a server of a manifest, without the parts that are empty."""
    spec: JsonObject = {key: [*value] if isinstance(value, list) else value for key, value in source.items()}
    return spec | {key: value for key, value in parts.items() if value}


def text_of(entry: JsonObject, key: str, default: str | None = None) -> str:
    """Return a text of a foreign object; raises `Refusal`."""
    value = entry.get(key, default)
    if not isinstance(value, str):
        raise Refusal("format", f"{key!r} is not a text")
    return value


def texts_of(entry: JsonObject, key: str) -> list[str]:
    """Return a list of texts of a foreign object, empty where it has none; raises `Refusal`."""
    value = entry.get(key)
    items = [] if value is None else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise Refusal("format", f"{key!r} is not a list of texts")
    return [item for item in items if isinstance(item, str)]


def strings(entry: JsonObject, key: str) -> dict[str, str]:
    """Return an object of texts (numbers and truth values as such) of a foreign object; raises `Refusal`."""
    value = entry.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict) or any(
        item is None or isinstance(item, list | dict) for item in value.values()
    ):
        raise Refusal("format", f"{key!r} is not an object of texts")
    return {name: str(item).lower() if isinstance(item, bool) else str(item) for name, item in value.items()}
