"""`manifest.json` of an MCP bundle (MCPB): one server, whose code lies beside it."""

from __future__ import annotations

from gateway.core.importing.configs import spec_of, strings, text_of, texts_of
from gateway.core.importing.model import CODE, WORKSPACE, Foreign, ForeignServer, Refusal, identifier, told
from gateway.core.importing.values import MARK, SHOWN_CODE, check_words, env_value, filled, looks_secret
from gateway.core.importing.words import launch_of_words
from gateway.core.json_types import JsonObject, JsonValue

__all__ = ["read_bundle"]


def read_bundle(document: JsonObject) -> Foreign:
    """Return an unpacked bundle's one server; raises `Refusal`."""
    name = identifier(text_of(document, "name"), fallback="imported")
    server = _object(document, "server")
    kind = text_of(server, "type")
    if kind not in ("node", "python", "binary"):
        raise Refusal(
            "program", f"a server of the type {told(kind, 40)!r} is not known: node, python and binary are"
        )
    config = _object(server, "mcp_config")
    overrides = config.get("platform_overrides")
    here = overrides.get("linux") if isinstance(overrides, dict) else None
    config = config | (here if isinstance(here, dict) else {})
    options = document.get("user_config")
    plain, many, asked = _options(options if isinstance(options, dict) else {})
    known = plain | {"__dirname": SHOWN_CODE, "/": "/", "pathSeparator": "/"}
    words = [filled(text_of(config, "command"), known)]
    for word in texts_of(config, "args"):
        sole = MARK.fullmatch(word)
        words += many[sole[1]] if sole and sole[1] in many else [filled(word, known)]
    notes: list[str] = []
    env, secrets = _environment(config, known, asked, notes)
    spec = _started(name, kind, words, env) | spec_of({}, env=env, secrets=secrets)
    if any(isinstance(option, dict) and option.get("type") == "directory" for option in _values(options)):
        notes.append(f"a folder that a person would choose is the workspace, {WORKSPACE}")
    return Foreign(
        name,
        text_of(document, "version", "0.1.0"),
        told(document.get("description")) or f"Imported from the bundle {name}.",
        (ForeignServer(name, spec, notes=tuple(notes)),),
        whole=True,
    )


def _started(name: str, kind: str, words: list[str], env: JsonObject) -> JsonObject:
    inside = f"{SHOWN_CODE}/"
    if kind == "binary" and words[0].startswith(inside) and ".." not in words[0]:
        check_words(words[1:])
        return spec_of({"command": [f"{CODE}/{words[0].removeprefix(inside)}"]}, args=[*words[1:]])
    launch = launch_of_words(name, words)
    if launch.code is not None:
        raise Refusal(
            "source", f"{told(launch.code)!r} is not in the bundle: write ${{__dirname}}/… for its own files"
        )
    # A bundle that brings its packages along gets no others.
    alone: JsonObject = {"requirements": []} if "PYTHONPATH" in env and kind == "python" else {}
    return spec_of(launch.source, args=[*launch.args]) | alone


def _environment(
    config: JsonObject, known: dict[str, str], asked: dict[str, bool], notes: list[str]
) -> tuple[JsonObject, list[JsonValue]]:
    env: JsonObject = {}
    secrets: list[JsonValue] = []
    for variable, value in strings(config, "env").items():
        marks = [mark for mark in MARK.findall(value) if mark not in known]
        kept = env_value(variable, value, known)
        if kept is not None:
            env[variable] = kept
        elif marks and not any(asked.get(mark, True) for mark in marks):
            notes.append(f"{variable} is not set: add it under 'env' or 'secrets' where it is wanted")
        else:
            secrets.append(variable)
    return env, secrets


def _options(options: JsonObject) -> tuple[dict[str, str], dict[str, list[str]], dict[str, bool]]:
    """Return what is known without asking, the same of lists, and whether each other one has to be given."""
    plain: dict[str, str] = {}
    many: dict[str, list[str]] = {}
    asked: dict[str, bool] = {}
    for name, option in options.items():
        if not isinstance(option, dict):
            raise Refusal("format", f"'user_config.{told(name, 40)}' is not an object")
        mark, default, sensitive = (
            f"user_config.{name}",
            option.get("default"),
            option.get("sensitive") is True,
        )
        if option.get("type") == "directory":
            plain[mark] = WORKSPACE
        elif MARK.search(repr(default)) or looks_secret(name, str(default or "")):
            asked[mark] = True  # by default something of the machine, or a secret
        elif isinstance(default, list) and not sensitive and all(isinstance(item, str) for item in default):
            many[mark] = [item for item in default if isinstance(item, str)]
        elif isinstance(default, str | bool | int | float) and not sensitive and option.get("type") != "file":
            plain[mark] = str(default).lower() if isinstance(default, bool) else str(default)
        else:
            asked[mark] = sensitive or option.get("required") is True
    return plain, many, asked


def _values(options: JsonValue) -> list[JsonValue]:
    return [*options.values()] if isinstance(options, dict) else []


def _object(document: JsonObject, key: str) -> JsonObject:
    value = document.get(key)
    if not isinstance(value, dict):
        raise Refusal("format", f"it has no object {key!r}")
    return value
