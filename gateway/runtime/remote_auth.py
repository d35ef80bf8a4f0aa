"""The operator's own access to a remote server: OAuth 2.1 client credentials, and the tokens got for them.

Knows nothing of callers: no token of theirs is ever near here.
"""

from __future__ import annotations

from collections import deque
from urllib.parse import urlencode, urlsplit

import anyio
import httpcore2

from gateway.core.json_types import JsonValue
from gateway.core.secrets import MASK, spellings
from gateway.core.strict_json import loads
from gateway.errors import SandgateError

__all__ = ["Credentials", "TokenFailure"]

_MAX_ANSWER = 65_536
_EARLY = 30.0
"""Seconds before its end that a token is renewed."""
_UNSAID = 300.0
_REMEMBERED, _TELLING = 4, 16
"""How many tokens are hidden where they are said back, and from which length on."""


class TokenFailure(SandgateError):
    """No token was given: the message says by whom, never with which secret."""


class Credentials:
    """A client id and secret, and the token that they last brought."""

    def __init__(self, token_url: str, client_id: str, secret: str, scope: str | None, resource: str) -> None:
        self.token_url = token_url
        self._form = {
            "grant_type": "client_credentials",
            "client_id": client_id,
            "client_secret": secret,
            "resource": resource,
            **({"scope": scope} if scope else {}),
        }
        self._token: str | None = None
        self._given: deque[tuple[bytes, ...]] = deque(maxlen=_REMEMBERED)
        self._until = 0.0
        self._lock = anyio.Lock()

    async def bearer(self, pool: httpcore2.AsyncConnectionPool, *, renew: bool) -> str:
        """Return an `Authorization` value; `renew`: the last one was refused. Raises `TokenFailure`."""
        refused = self._token if renew else None
        async with self._lock:
            if self._token is None or self._token == refused or anyio.current_time() > self._until:
                self._token = await self._fetched(pool)
            return f"Bearer {self._token}"

    def hidden(self, said: bytes) -> bytes:
        """Return what a server said, in JSON, without the tokens that it was sent lately."""
        for forms in self._given:
            for form in forms:
                said = said.replace(form, MASK.encode())
        return said

    async def _fetched(self, pool: httpcore2.AsyncConnectionPool) -> str:
        place = urlsplit(self.token_url).netloc
        headers = {
            "host": place,
            "content-type": "application/x-www-form-urlencoded",
            "accept": "application/json",
        }
        body = urlencode(self._form).encode()
        async with pool.stream(
            "POST", self.token_url, headers=list(headers.items()), content=body
        ) as response:
            answer = bytearray()
            async for chunk in response.aiter_stream():
                answer += chunk
                if len(answer) > _MAX_ANSWER:
                    break
        token = _token(bytes(answer)) if response.status == 200 else None
        if token is None:
            raise TokenFailure(f"{place} gave no token (HTTP {response.status})")
        value, seconds = token
        self._until = anyio.current_time() + seconds - _EARLY
        if len(value) >= _TELLING:
            self._given.append(tuple(form.encode() for form in spellings([value, value.replace("/", r"\/")])))
        return value


def _token(answer: bytes) -> tuple[str, float] | None:
    try:
        said: JsonValue = loads(answer)
    except ValueError:
        return None
    if not isinstance(said, dict):
        return None
    token, kind, seconds = said.get("access_token"), said.get("token_type"), said.get("expires_in")
    if not isinstance(token, str) or not token.isascii() or str(kind).lower() != "bearer":
        return None
    return token, float(seconds) if isinstance(seconds, int | float) else _UNSAID
