"""Protected resource metadata (RFC 9728) and the challenges that lead to it.

A client without a token is told where this document is; the document says which issuers give tokens for
this gateway. Public by nature: it names no principal, no tool and no secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from gateway.core.calls import Role
from gateway.serve.auth_file import IssuerSettings

__all__ = ["WELL_KNOWN", "ProtectedResource"]

WELL_KNOWN = "/.well-known/oauth-protected-resource"
_AUTHORITY = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_HTTP = {"ws": "http", "wss": "https"}


class ProtectedResource:
    """What this gateway says of itself to OAuth clients.

    `paths` are the endpoints that clients know as resources; `public_url` is what callers reach this gateway
    by where the Host header does not say it, behind a proxy that ends TLS.
    """

    def __init__(
        self, issuers: Iterable[IssuerSettings], paths: Iterable[str], public_url: str | None = None
    ) -> None:
        self._issuers = tuple(issuers)
        self._paths = tuple(paths)
        self._public_url = None if public_url is None else public_url.rstrip("/")

    @property
    def open_paths(self) -> frozenset[str]:
        """Where the documents are; anybody may read them."""
        return frozenset(WELL_KNOWN + path for path in ("", *self._paths)) if self._issuers else frozenset()

    def routes(self) -> list[BaseRoute]:
        """Return the routes of the documents; none where there is no issuer to name."""
        return [Route(path, self._document) for path in sorted(self.open_paths)]

    def scopes_for(self, *roles: Role) -> tuple[str, ...]:
        """Return the scopes that give one of `roles` at some issuer, sorted."""
        pairs = (pair for issuer in self._issuers for pair in issuer.scopes.items())
        return tuple(sorted({scope for scope, given in pairs if not set(given).isdisjoint(roles)}))

    def challenge(
        self, scope: Scope, error: str | None = None, says: str | None = None, scopes: Iterable[str] = ()
    ) -> str:
        """Return a `WWW-Authenticate` header for a request that is refused."""
        parts = {
            "realm": "sandgate",
            "error": error,
            "error_description": says,
            "scope": " ".join(scopes) or None,
            "resource_metadata": self._metadata_url(scope),
        }
        return "Bearer " + ", ".join(f'{name}="{_quotable(value)}"' for name, value in parts.items() if value)

    def _metadata_url(self, scope: Scope) -> str | None:
        base = self._base(scope) if self._issuers else None
        path = scope["path"] if scope["path"] in self._paths else ""
        return None if base is None else base + WELL_KNOWN + path

    def _base(self, scope: Scope) -> str | None:
        """Return the address this gateway was reached by, `None` where a header could say anything."""
        if self._public_url is not None:
            return self._public_url
        host = Headers(scope=scope).get("host", "")
        scheme = _HTTP.get(scope.get("scheme", "http"), scope.get("scheme", "http"))
        return f"{scheme}://{host}" if _AUTHORITY.fullmatch(host) else None

    async def _document(self, request: Request) -> Response:
        base = self._base(request.scope)
        if base is None:
            return JSONResponse({"error": "bad_request", "message": "the Host header is no address"}, 400)
        document = {
            "resource": base + request.url.path.removeprefix(WELL_KNOWN),
            "resource_name": "sandgate",
            "authorization_servers": [issuer.issuer for issuer in self._issuers],
            "bearer_methods_supported": ["header"],
        }
        if scopes := self.scopes_for(*Role):
            document["scopes_supported"] = list(scopes)
        # It depends on the Host header, and on the auth file of the moment.
        return JSONResponse(document, headers={"Cache-Control": "no-store"})


def _quotable(value: str) -> str:
    """Return `value` as it may stand between quotes in a header."""
    return "".join(char if " " <= char <= "~" and char not in '"\\' else "'" for char in value)
