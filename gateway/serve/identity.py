"""Who asks: a bearer token of the auth file, a JWT of one of its issuers, or on loopback `local`.

Only the hash of a token is known here, and every known hash is compared in constant time. A
session id, an episode id or anything a client says of itself is never an identity.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.calls import LOCAL, Principal, Role
from gateway.runtime.clock import Clock, SystemClock
from gateway.serve.auth_file import read_auth_file
from gateway.serve.oauth.resource import ProtectedResource
from gateway.serve.oauth.tokens import Issuers, NotKnown
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

_PRINCIPAL = "sandgate.principal"
_RESOURCE = "sandgate.resource"

_NOBODY = NotKnown("a bearer token is needed: Authorization: Bearer TOKEN", reason="no_token")
_STRANGER = NotKnown("this token is not known here")


@dataclass(frozen=True, slots=True)
class Identity:
    """The known tokens (SHA-256 digest and whose it is) and issuers, and who asks without, if anybody may.

    `refused` counts the requests that came from nobody, by reason.
    """

    tokens: tuple[tuple[bytes, Principal], ...] = ()
    without_token: Principal | None = None
    issuers: Issuers | None = None
    refused: Counter[str] = field(default_factory=Counter[str], compare=False)

    def principal(self, authorization: str | None) -> Principal | None:
        """Return whom an `Authorization` header names, as far as that is known without asking anybody.

        By a token of the file, or one of an issuer that was checked a moment ago.
        """
        if not self.tokens and self.issuers is None:
            return self.without_token
        token = _bearer(authorization)
        if token is None:
            return None
        if self.issuers is not None and (known := self.issuers.known(token)) is not None:
            return known
        digest = hashlib.sha256(token.encode("latin-1")).digest()
        # Every entry is compared, so that time tells nothing about which ones exist.
        matches = [principal for known, principal in self.tokens if hmac.compare_digest(known, digest)]
        return matches[0] if matches else None

    async def establish(self, authorization: str | None) -> Principal | NotKnown:
        """Return whom an `Authorization` header names, by whatever kind of token."""
        known = self.principal(authorization)
        if known is not None:
            return known
        token = _bearer(authorization)
        if self.issuers is not None and token is not None:
            return await self.issuers.principal(token)
        return _NOBODY if authorization is None else _STRANGER


LOCAL_IDENTITY = Identity(without_token=LOCAL)
"""Everybody is `local`: for a gateway that only this machine can reach."""


def load_identity(text: str, file: str, clock: Clock | None = None) -> Identity:
    """Return the identities of an auth file; `file` names it in messages. Raises `ConfigError`."""
    said = read_auth_file(text, file)
    tokens = tuple((bytes.fromhex(entry.sha256), entry.as_principal()) for entry in said.tokens)
    if not said.issuers:
        return Identity(tokens)
    reserved = frozenset(principal.name for _, principal in tokens)
    return Identity(tokens, issuers=Issuers(said.issuers, clock or SystemClock(), reserved=reserved))


def _bearer(authorization: str | None) -> str | None:
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


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

    503 where an issuer's keys cannot be had. Requests to the paths in `open_paths` pass without one too.
    `resource` is what challenges lead to.
    """

    def __init__(
        self,
        app: ASGIApp,
        identity: Identity,
        open_paths: frozenset[str],
        resource: ProtectedResource | None = None,
    ) -> None:
        self._app = app
        self._identity = identity
        self._resource = resource or ProtectedResource((), ())
        self._open_paths = open_paths | self._resource.open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        authorization = Headers(scope=scope).get("authorization")
        found = await self._identity.establish(authorization)
        if isinstance(found, NotKnown) and scope["path"] not in self._open_paths:
            self._identity.refused[found.reason] += 1
            await refuse(self._refusal(found, scope), scope, receive, send)
            return
        principal = None if isinstance(found, NotKnown) else found
        await self._app({**scope, _PRINCIPAL: principal, _RESOURCE: self._resource}, receive, send)

    def _refusal(self, refused: NotKnown, scope: Scope) -> Response:
        if refused.status != 401:
            return problem(
                refused.status, refused.reason, refused.message, {"Retry-After": f"{refused.retry_after:.0f}"}
            )
        error = None if refused is _NOBODY else ("invalid_token", refused.message)
        scopes = self._resource.scopes_for(Role.AGENT)
        header = self._resource.challenge(scope, *(error or (None, None)), scopes=scopes)
        return problem(401, "unauthorized", refused.message, {"WWW-Authenticate": header})


class RequireRole:
    """ASGI middleware: answers 403 unless the principal has one of `roles`, naming scopes that give it."""

    def __init__(self, app: ASGIApp, *roles: Role) -> None:
        self._app = app
        self._roles = roles

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] in {"http", "websocket"} and principal_of(scope).roles.isdisjoint(self._roles):
            await refuse(self._refusal(scope), scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response:
        message = f"this needs the role {' or '.join(repr(role.value) for role in self._roles)}"
        resource: ProtectedResource = scope[_RESOURCE]
        scopes = resource.scopes_for(*self._roles) or (self._roles[0].value,)
        header = resource.challenge(scope, "insufficient_scope", message, scopes)
        return problem(403, "forbidden", message, {"WWW-Authenticate": header})
