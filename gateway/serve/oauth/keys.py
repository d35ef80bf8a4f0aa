"""An issuer's public keys, from its JWKS address: cached, fetched again when it rotates, never too often.

An address from a token (`jku`, `x5u`, `jwk`) is never looked at. Keys that could not be had, or grew
stale, raise `KeysUnavailable`: nobody is let in on a guess.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

import anyio
import httpx2
import jwt

from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.strict_json import JsonLimits, StrictJsonError, loads
from gateway.runtime.clock import Clock

__all__ = ["FRESH_SECONDS", "STALE_SECONDS", "IssuerKeys", "KeysUnavailable", "fetch_jwks"]

FRESH_SECONDS: Final = 600.0
"""How long fetched keys are used without asking again."""
STALE_SECONDS: Final = 3600.0
"""How long they are used while the issuer does not answer."""
FETCHES: Final = 3
"""Most fetches within `FETCH_WINDOW` seconds, whatever tokens arrive."""
FETCH_WINDOW: Final = 60.0
RETRY_SECONDS: Final = 5.0
"""How long after a failed fetch nobody tries again."""

_FETCH_SECONDS = 5.0
_MAX_BYTES = 256 * 1024
_MAX_KEYS = 100
_SMALLEST_RSA = 2048
_FAMILY = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}

logger = logging.getLogger(__name__)


class KeysUnavailable(Exception):
    """The issuer's keys cannot be had now; `retry_after` seconds may help."""

    def __init__(self, reason: str, retry_after: float) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


async def fetch_jwks(url: str) -> JsonObject:
    """Return the small JWKS document at `url`, no redirect followed; raises `OSError` or `ValueError`."""
    remote = urlsplit(url).scheme == "https"
    try:
        with anyio.fail_after(_FETCH_SECONDS):
            # A proxy of the environment is for the world outside, never for loopback.
            async with httpx2.AsyncClient(follow_redirects=False, trust_env=remote) as http:
                return await _get(http, url)
    except (httpx2.HTTPError, TimeoutError) as error:
        raise OSError(f"{type(error).__name__}: {error}") from None


async def _get(http: httpx2.AsyncClient, url: str) -> JsonObject:
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    async with http.stream("GET", url, headers=headers) as answer:
        if answer.status_code != 200:
            raise ValueError(f"HTTP {answer.status_code}")
        body = bytearray()
        async for chunk in answer.aiter_raw():
            body += chunk
            if len(body) > _MAX_BYTES:
                raise ValueError(f"more than {_MAX_BYTES} bytes")
    document = loads(bytes(body), JsonLimits(max_bytes=_MAX_BYTES))
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("not a JWKS document")
    return document


class IssuerKeys:
    """The keys of one issuer."""

    def __init__(
        self, url: str, clock: Clock, fetch: Callable[[str], Awaitable[JsonObject]] = fetch_jwks
    ) -> None:
        self.fetches = 0
        self.failures = 0
        self._url = url
        self._clock = clock
        self._fetch = fetch
        self._keys: tuple[JsonObject, ...] = ()
        self._fetched: float | None = None
        self._failed: str | None = None
        self._tried: deque[float] = deque(maxlen=FETCHES)
        self._one_at_a_time = anyio.Lock()

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """Return the key that signs so under this id, `None` if the issuer has none.

        Raises `KeysUnavailable` where that cannot be known now.
        """
        key = self._match(kid, algorithm)
        # Known keys are good enough while somebody asks for newer ones: an issuer that hangs holds up one.
        others_ask = key is not None and self._one_at_a_time.locked() and self._age() <= STALE_SECONDS
        if self._age() > FRESH_SECONDS and not others_ask:
            await self._refresh()
            key = self._match(kid, algorithm)
        if key is None and await self._refresh():
            key = self._match(kid, algorithm)
        if key is None and self._failed is not None:
            raise KeysUnavailable(self._failed, RETRY_SECONDS)
        return key

    def _age(self) -> float:
        return float("inf") if self._fetched is None else self._clock.monotonic() - self._fetched

    async def _refresh(self) -> bool:
        """Fetch, unless somebody just did or it was done too often.

        Raises `KeysUnavailable` where there are no keys that may still be used.
        """
        asked = self._clock.monotonic()
        async with self._one_at_a_time:
            known = self._tried and self._tried[-1] > asked
            if not known and self._may_try():
                await self._try()
        if self._age() > STALE_SECONDS:
            self._keys = ()
            raise KeysUnavailable(self._failed or "they were asked for too often", RETRY_SECONDS)
        return self._failed is None

    def _may_try(self) -> bool:
        now = self._clock.monotonic()
        if self._failed is not None and self._tried and now - self._tried[-1] < RETRY_SECONDS:
            return False
        return len(self._tried) < FETCHES or now - self._tried[0] >= FETCH_WINDOW

    async def _try(self) -> None:
        self._tried.append(self._clock.monotonic())
        self.fetches += 1
        try:
            document = await self._fetch(self._url)
        except (OSError, ValueError, StrictJsonError) as error:
            self.failures += 1
            self._failed = str(error) or type(error).__name__
            logger.warning("the keys at %s cannot be had: %s", self._url, self._failed)
            return
        self._keys, self._failed = tuple(_usable(document["keys"])), None
        self._fetched = self._clock.monotonic()

    def _match(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        fitting = [key for key in self._keys if _fits(key, algorithm) and kid in (None, key.get("kid"))]
        # Without a key id only a choice of one is no guess.
        return _public_key(fitting[0], algorithm) if len(fitting) == 1 else None


def _usable(keys: JsonValue) -> Iterable[JsonObject]:
    """Yield the signing keys of a set; a secret (`oct`) is none, whatever it is doing there."""
    listed = keys if isinstance(keys, list) else []
    for key in listed[:_MAX_KEYS]:
        if isinstance(key, dict) and key.get("kty") in _FAMILY.values() and key.get("use", "sig") == "sig":
            yield key


def _fits(key: Mapping[str, JsonValue], algorithm: str) -> bool:
    return key.get("kty") == _FAMILY[algorithm[:2]] and key.get("alg", algorithm) == algorithm


def _public_key(key: JsonObject, algorithm: str) -> jwt.PyJWK | None:
    try:
        found = jwt.PyJWK.from_dict(key, algorithm)
    except jwt.PyJWTError as error:
        logger.warning("an issuer's key %r is unusable: %s", key.get("kid"), type(error).__name__)
        return None
    size = getattr(found.key, "key_size", _SMALLEST_RSA)
    return None if key["kty"] == "RSA" and size < _SMALLEST_RSA else found
