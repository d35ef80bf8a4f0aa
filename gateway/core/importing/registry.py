"""`server.json` of the MCP Registry: one server, by packages and remote endpoints to choose from."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gateway.core.importing.configs import spec_of, text_of
from gateway.core.importing.model import WORKSPACE, Foreign, ForeignServer, Refusal, identifier, told
from gateway.core.importing.values import (
    MARK,
    check_url,
    env_value,
    header_value,
    looks_secret,
    secret_name,
)
from gateway.core.importing.words import launch_of_words, refuse_container
from gateway.core.json_types import JsonObject, JsonValue

__all__ = ["read_registry"]

_BRACES = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LAUNCHERS = {"npm": "npx", "pypi": "uvx"}
_HINTS = {"npm": ("npx", "bunx"), "pypi": ("uvx", "pipx")}


def read_registry(document: JsonObject) -> Foreign:
    """Return the first of a server's packages and remotes that can be kept safe; raises `Refusal`."""
    full = text_of(document, "name")
    name = identifier(full.rpartition("/")[2], fallback="imported")
    refused: list[Refusal] = []
    places = [("packages", _package), ("remotes", _remote)]
    for key, read in places:
        for number, entry in enumerate(_objects(document, key)):
            try:
                server = read(name, entry)
            except Refusal as refusal:
                refused.append(Refusal(refusal.code, f"{key}[{number}]: {refusal}"))
                continue
            return Foreign(
                name,
                text_of(document, "version", "0.1.0"),
                told(document.get("description")) or f"Imported from {told(full)}.",
                (server,),
                notes=tuple(f"passed over {refusal}" for refusal in refused),
            )
    if not refused:
        raise Refusal("format", "it has neither 'packages' nor 'remotes'")
    raise Refusal(refused[0].code, "; ".join(map(str, refused)))


def _package(name: str, package: JsonObject) -> ForeignServer:
    kind = text_of(package, "registryType", "")
    runtime = [word for entry in _objects(package, "runtimeArguments") for word in _words(entry)]
    if kind == "oci":
        raise refuse_container(text_of(package, "runtimeHint", "docker"), runtime)
    if kind not in _LAUNCHERS:
        known = "npm and pypi" + (
            ": unpack the bundle and import its manifest.json" if kind == "mcpb" else ""
        )
        raise Refusal(
            "source", f"packages of {told(kind, 40) or 'no registryType'!r} are not run: known are {known}"
        )
    transport = package.get("transport", {"type": "stdio"})
    if not isinstance(transport, dict) or transport.get("type", "stdio") != "stdio":
        spoken = told(transport.get("type"), 40) if isinstance(transport, dict) else ""
        raise Refusal("transport", f"a package is spoken to by 'stdio', not {spoken!r}")
    hint = text_of(package, "runtimeHint", _LAUNCHERS[kind])
    if hint not in _HINTS[kind]:
        raise Refusal("program", f"a package of {kind} is not started by {told(hint, 40)!r}")
    version = text_of(package, "version", "")
    pinned = text_of(package, "identifier") + (
        (f"@{version}" if kind == "npm" else f"=={version}") if version else ""
    )
    own = [word for entry in _objects(package, "packageArguments") for word in _words(entry)]
    start = ["pipx", "run"] if hint == "pipx" else [hint]
    launch = launch_of_words(name, [*start, *runtime, pinned, *own])
    notes = [*launch.notes]
    if "registryBaseUrl" in package:
        notes.append(
            "'registryBaseUrl' is not followed: packages come from where pip and npm are configured to"
        )
    if _asks_for_path(package):
        notes.append(f"a path that a person would choose is the workspace, {WORKSPACE}")
    env, secrets = _environment(package, notes)
    spec = spec_of(launch.source, args=[*launch.args], env=env, secrets=secrets)
    return ForeignServer(name, spec, notes=tuple(notes))


def _environment(package: JsonObject, notes: list[str]) -> tuple[JsonObject, list[JsonValue]]:
    env: JsonObject = {}
    secrets: list[JsonValue] = []
    for entry in _objects(package, "environmentVariables"):
        variable, value = text_of(entry, "name"), _value(entry)
        kept = env_value(variable, value or "", {})
        if entry.get("isSecret") is True or (kept is None and value) or (value is None and _required(entry)):
            secrets.append(variable)
        elif value is not None and kept is not None:
            env[variable] = kept
        else:
            notes.append(f"{variable} is not set: add it under 'env' or 'secrets' where it is wanted")
    return env, secrets


def _remote(name: str, remote: JsonObject) -> ForeignServer:
    kind = remote.get("type")
    if kind != "streamable-http":
        message = f"the transport {told(kind, 40)!r} is not spoken: known is 'streamable-http'"
        raise Refusal("transport", message)
    url = _filled(text_of(remote, "url"), remote)
    check_url(url)
    headers: JsonObject = {}
    secrets: list[JsonValue] = []
    for entry in _objects(remote, "headers"):
        header, value = text_of(entry, "name"), _value(entry)
        if value is None and (entry.get("isSecret") is True or _required(entry)):
            value = f"${{{secret_name(f'{name}_{header}')}}}"
        if value is None:
            continue
        if entry.get("isSecret") is True and not MARK.search(value):
            value = f"${{{secret_name(f'{name}_{header}')}}}"
        headers[header], named = header_value(name, header, value)
        secrets += [secret for secret in named if secret not in secrets]
    return ForeignServer(name, spec_of({"url": url}, headers=headers, secrets=secrets))


def _words(entry: JsonObject) -> list[str]:
    """Return the words of one argument; none for one that is left to the user and may be left out."""
    kind = entry.get("type")
    if kind not in ("positional", "named"):
        raise Refusal("format", f"an argument of the type {told(kind, 40)!r} is not known")
    flag = [text_of(entry, "name")] if kind == "named" else []
    value = _value(entry)
    what = flag[0] if flag else told(entry.get("valueHint"), 40) or "an argument"
    if entry.get("isSecret") is True and (value is not None or _required(entry)):
        raise Refusal(
            "secret", f"{what} is a secret in an argument, which stands in the pack for all to read"
        )
    if value is None:
        if _required(entry) and not (flag and "valueHint" not in entry):
            message = (
                f"{what} has no value, and a person would be asked for it: write its 'value' into the file"
            )
            raise Refusal("secret", message)
        return flag if _required(entry) else []
    if MARK.search(value):
        raise Refusal("secret", f"{what} holds {MARK.findall(value)[0]!r}, which a person would be asked for")
    return [*flag, value]


def _value(entry: JsonObject) -> str | None:
    """Return a value with its variables put in, those that a person has to give as `${NAME}`."""
    for key in ("value", "default"):
        value = entry.get(key)
        if isinstance(value, str):
            return _filled(value, entry)
        if isinstance(value, bool | int | float):
            return str(value).lower()
    return WORKSPACE if _is_chosen_path(entry) and _required(entry) else None


def _filled(text: str, entry: JsonObject) -> str:
    variables = entry.get("variables")
    known = variables if isinstance(variables, dict) else {}

    def fill(match: re.Match[str]) -> str:
        variable = known.get(match[1])
        value = _value(variable) if isinstance(variable, dict) and not variable.get("isSecret") else None
        if value is None and isinstance(variable, dict) and _is_chosen_path(variable):
            value = WORKSPACE
        secret = value is None or looks_secret(match[1], value)
        return f"${{{match[1]}}}" if secret or value is None else value

    return _BRACES.sub(fill, text)


def _is_chosen_path(entry: JsonObject) -> bool:
    """Whether a person would choose a path, which can only be the workspace here."""
    return entry.get("format") == "filepath" and not entry.get("isSecret")


def _asks_for_path(value: JsonValue) -> bool:
    if isinstance(value, list):
        return any(map(_asks_for_path, value))
    return isinstance(value, dict) and (_is_chosen_path(value) or any(map(_asks_for_path, value.values())))


def _required(entry: JsonObject) -> bool:
    return entry.get("isRequired") is True


def _objects(document: JsonObject, key: str) -> Iterator[JsonObject]:
    value = document.get(key)
    if value is None:
        return
    if not isinstance(value, list):
        raise Refusal("format", f"{key!r} is not a list")
    for item in value:
        if not isinstance(item, dict):
            raise Refusal("format", f"{key!r} holds something that is no object")
        yield item
