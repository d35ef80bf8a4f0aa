"""What reading another program's description of MCP servers comes to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from gateway.core.json_types import JsonObject, JsonValue
from gateway.errors import SandgateError

__all__ = ["CODE", "WORKSPACE", "Foreign", "ForeignServer", "Refusal", "RefusalCode", "identifier", "told"]

WORKSPACE = "/workspace"
"""The one folder that tools of an imported pack see."""
CODE = "servers"
"""Where code stands in a pack."""

RefusalCode: TypeAlias = Literal[
    "format",  # not what the format says
    "image",  # a container image, which this program does not run
    "privileged",  # more rights than a sandbox gives
    "host_network",
    "mount",  # a place of the machine that is outside of the workspace
    "program",  # a program that no pack brings along
    "script",  # a text to be evaluated
    "secret",  # a secret, or what a person is asked for, where it cannot be kept out of the pack
    "source",  # a package or code from a place that cannot be pinned
    "transport",
]
_LONGEST_ID = 32
_LONGEST_TEXT = 200


class Refusal(SandgateError):
    """Something that is not imported; the message names it and says what to do instead."""

    def __init__(self, code: RefusalCode, message: str) -> None:
        self.code: RefusalCode = code
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class ForeignServer:
    """One server as a manifest would have it. `code` is the project's file that has to be copied.

    `place` is where in the pack it is then; both are `None` for a server that brings no file along.
    """

    id: str
    spec: JsonObject
    code: str | None = None
    place: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Foreign:
    """All of a file. `whole` says that the code is the whole folder the file stands in."""

    name: str
    version: str
    description: str
    servers: tuple[ForeignServer, ...]
    whole: bool = False
    notes: tuple[str, ...] = ()

    def manifest(self, name: str) -> JsonObject:
        """Return the manifest's data, for a pack of that name."""
        return {
            "apiVersion": "sandgate/v1",
            "name": name,
            "version": self.version,
            "description": self.description,
            "servers": {server.id: server.spec for server in self.servers},
            "sandbox": {"network": "none"},
            "workspace": {"path": WORKSPACE},
            "policy": "policy.yaml",
        }


def identifier(name: str, *, fallback: str) -> str:
    """Return a name as packs and servers have it: small letters, digits and `-`."""
    kept = re.sub(r"[^a-z0-9]+", "-", name.lower()).lstrip("-0123456789")[:_LONGEST_ID].rstrip("-")
    return kept or fallback


def told(value: JsonValue, longest: int = _LONGEST_TEXT) -> str:
    """Return foreign text in one line that hides nothing, cut where it is long."""
    text = " ".join(value.split()) if isinstance(value, str) else ""
    text = "".join(char if char.isprintable() else f"\\u{{{ord(char):x}}}" for char in text)
    return text if len(text) <= longest else text[:longest] + "…"
