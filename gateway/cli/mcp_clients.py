"""The MCP clients that `sandgate client` knows: where each keeps its servers, and how it writes one down.

Facts about other programs, in one table. Reads and writes no files.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gateway.errors import UsageError

if TYPE_CHECKING:
    from gateway.config import UserFolders

__all__ = ["CLIENTS", "FORM_KEYS", "ClientFormat", "Target", "entry_of"]

FORM_KEYS = frozenset(
    {"type", "url", "httpUrl", "headers", "http_headers", "bearer_token_env_var", "command", "args", "source"}
)
"""What says how a server is reached, in one client or another; every other key of an entry is its user's."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the client is to reach: an endpoint (`url`), or a command that it starts itself.

    `token` is a bearer token in clear, `token_env` the name of the variable that holds it.
    """

    url: str | None = None
    command: tuple[str, ...] = ()
    token: str | None = None
    token_env: str | None = None


@dataclass(frozen=True, slots=True)
class ClientFormat:
    """One client. `reference` is how it names an environment variable, `None` where it cannot."""

    name: str
    file: Callable[[UserFolders], Path]
    section: str
    url_key: str | None = "url"
    typed: bool = False
    reference: str | None = None
    syntax: Literal["json", "toml"] = "json"
    after: str = "restart it"


def _claude_desktop(user: UserFolders) -> Path:
    if sys.platform == "darwin":
        folder = user.home / "Library" / "Application Support"
    else:
        folder = user.appdata or user.config
    return folder / "Claude" / "claude_desktop_config.json"


CLIENTS: Mapping[str, ClientFormat] = {
    client.name: client
    for client in (
        ClientFormat(
            "claude-code",
            lambda user: user.here / ".mcp.json",
            "mcpServers",
            typed=True,
            reference="${%s}",
            after="start `claude` in this folder and approve the server",
        ),
        ClientFormat("claude-desktop", _claude_desktop, "mcpServers", url_key=None),
        ClientFormat(
            "cursor", lambda user: user.home / ".cursor" / "mcp.json", "mcpServers", reference="${env:%s}"
        ),
        ClientFormat(
            "vscode",
            lambda user: user.here / ".vscode" / "mcp.json",
            "servers",
            typed=True,
            reference="${env:%s}",
            after="open this folder and start the server from the file's own buttons",
        ),
        ClientFormat(
            "gemini-cli",
            lambda user: user.home / ".gemini" / "settings.json",
            "mcpServers",
            url_key="httpUrl",
            reference="${%s}",
        ),
        ClientFormat(
            "codex", lambda user: user.codex / "config.toml", "mcp_servers", syntax="toml", reference="%s"
        ),
        ClientFormat(
            "zed", lambda user: user.config / "zed" / "settings.json", "context_servers", after="nothing"
        ),
    )
}


def entry_of(client: ClientFormat, target: Target) -> dict[str, Any]:
    """Return how `client` writes `target` down; raises `UsageError` where it has no way to."""
    if target.url is None:
        kind = {"type": "stdio"} if client.typed else {}
        return {**kind, "command": target.command[0], "args": list(target.command[1:])}
    if client.url_key is None:
        raise UsageError(f"{client.name} starts its servers itself: give --stdio PACK instead of --url")
    kind = {"type": "http"} if client.typed else {}
    return {**kind, client.url_key: target.url, **_authorization(client, target)}


def _authorization(client: ClientFormat, target: Target) -> dict[str, Any]:
    toml = client.syntax == "toml"
    if target.token is not None:
        return {"http_headers" if toml else "headers": {"Authorization": f"Bearer {target.token}"}}
    if target.token_env is None:
        return {}
    if client.reference is None:
        raise UsageError(
            f"{client.name} cannot take a token from a variable: --token-file FILE writes the token itself"
        )
    named = client.reference % target.token_env
    return {"bearer_token_env_var": named} if toml else {"headers": {"Authorization": f"Bearer {named}"}}
