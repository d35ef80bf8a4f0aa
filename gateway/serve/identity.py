"""Who asks: a bearer token of the auth file, or on loopback without one the principal `local`.

Only the hash of a token is known here, and every known hash is compared in constant time. A
session id, an episode id or anything a client says of itself is never an identity.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.calls import LOCAL, Principal, Role
from gateway.core.documents import Document, read_document
from gateway.core.json_types import JsonValue
from gateway.errors import ConfigError, Problem
from gateway.serve.replies import problem, refuse

__all__ = [
    "LOCAL_IDENTITY",
    "Identity",
    "RequireIdentity",
    "RequireRole",
    "known_principal",
    "load_identity",
    "principal_of",
]

_VERSION = 1
_PRINCIPAL = "sandgate.principal"
_REALM = 'Bearer realm="sandgate"'

_Name = Annotated[str, Field(min_length=1, max_length=256)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
    principal: _Name
    client: _Name | None = None
    groups: tuple[_Name, ...] = ()
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]

    def as_principal(self) -> Principal:
        return Principal(
            self.principal,
            client=self.client,
            user=self.principal,
            groups=frozenset(self.groups),
            roles=frozenset(self.roles),
        )


class _AuthFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1]
    tokens: Annotated[tuple[_Entry, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Identity:
    """The known tokens (SHA-256 digest and whose it is), and who asks without one, if anybody may."""

    tokens: tuple[tuple[bytes, Principal], ...] = ()
    without_token: Principal | None = None

    def principal(self, authorization: str | None) -> Principal | None:
        """Return whom an `Authorization` header names, or `None` if nobody."""
        if not self.tokens:
            return self.without_token
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return None
        digest = hashlib.sha256(token.strip().encode("latin-1")).digest()
        # Every entry is compared, so that time tells nothing about which ones exist.
        matches = [principal for known, principal in self.tokens if hmac.compare_digest(known, digest)]
        return matches[0] if matches else None


LOCAL_IDENTITY = Identity(without_token=LOCAL)
"""Everybody is `local`: for a gateway that only this machine can reach."""


def load_identity(text: str, file: str) -> Identity:
    """Return the identities of an auth file; `file` names it in messages. Raises `ConfigError`."""
    document = read_document(text, file)
    if problems := list(_unsupported(document)):
        raise ConfigError(problems)
    entries = document.parse(_AuthFile).tokens
    if problems := list(_repeated(document, entries)):
        raise ConfigError(problems)
    return Identity(tuple((bytes.fromhex(entry.sha256), entry.as_principal()) for entry in entries))


def _unsupported(document: Document) -> Iterable[Problem]:
    keys: JsonValue = document.value
    if not isinstance(keys, dict):
        return
    version = keys.get("version")
    if isinstance(version, int) and version > _VERSION:
        message = f"version {version} is newer than this program knows ({_VERSION}): update sandgate"
        yield document.problem(["version"], "version", message)
    if "issuers" in keys:
        message = "issuers are not supported in this version: give the callers tokens instead"
        yield document.problem(["issuers"], "unsupported", message)


def _repeated(document: Document, entries: tuple[_Entry, ...]) -> Iterable[Problem]:
    seen: set[str] = set()
    for index, entry in enumerate(entries):
        if (digest := entry.sha256.lower()) in seen:
            message = "this token is listed twice: a token has one principal"
            yield document.problem(["tokens", index, "sha256"], "duplicate_token", message)
        seen.add(digest)


def principal_of(scope: Scope) -> Principal:
    """Return who asks, as `RequireIdentity` established it for this request."""
    principal = known_principal(scope)
    assert principal is not None, "a route that needs a principal stands outside RequireIdentity"
    return principal


def known_principal(scope: Scope) -> Principal | None:
    """Return who asks on a path that is open to anybody, `None` if that is not known."""
    principal: Principal | None = scope.get(_PRINCIPAL)
    return principal


class RequireIdentity:
    """ASGI middleware: puts the principal into the scope, or answers 401 with a challenge.

    Requests to the paths in `open_paths` pass without one too.
    """

    def __init__(self, app: ASGIApp, identity: Identity, open_paths: frozenset[str]) -> None:
        self._app = app
        self._identity = identity
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        authorization = Headers(scope=scope).get("authorization")
        principal = self._identity.principal(authorization)
        if principal is None and scope["path"] not in self._open_paths:
            await refuse(_challenge(authorization), scope, receive, send)
            return
        await self._app({**scope, _PRINCIPAL: principal}, receive, send)


def _challenge(authorization: str | None) -> Response:
    if authorization is None:
        message, header = "a bearer token is needed: Authorization: Bearer TOKEN", _REALM
    else:
        message, header = "this token is not known here", f'{_REALM}, error="invalid_token"'
    return problem(401, "unauthorized", message, {"WWW-Authenticate": header})


class RequireRole:
    """ASGI middleware: answers 403 unless the principal has one of `roles`."""

    def __init__(self, app: ASGIApp, *roles: Role) -> None:
        self._app = app
        self._roles = roles

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] in {"http", "websocket"} and principal_of(scope).roles.isdisjoint(self._roles):
            message = f"this needs the role {' or '.join(repr(role.value) for role in self._roles)}"
            header = f'{_REALM}, error="insufficient_scope", scope="{self._roles[0].value}"'
            response = problem(403, "forbidden", message, {"WWW-Authenticate": header})
            await refuse(response, scope, receive, send)
            return
        await self._app(scope, receive, send)
