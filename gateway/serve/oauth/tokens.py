"""JWTs of configured issuers: which principal a token names, or why it names nobody.

Checked here: that a configured issuer signed it with a key of its own, for this gateway, for now. Which
algorithm may be used is the operator's word, never the token's alone. Whatever is odd is refused.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import jwt

from gateway.core.calls import Principal
from gateway.runtime.clock import Clock
from gateway.serve.auth_file import IssuerSettings
from gateway.serve.oauth.keys import IssuerKeys, KeysUnavailable

__all__ = ["CACHE_SECONDS", "Issuers", "NotKnown"]

CACHE_SECONDS: Final = 60.0
"""How long a token that was checked is known without checking its signature again, within its life."""
_CACHED = 4096
_MAX_TOKEN = 16 * 1024
_MAX_GROUPS = 500
_MAX_NAME = 256
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_LAST_SECOND = 253_402_300_799  # of the year 9999
_UNAVAILABLE = 503


@dataclass(frozen=True, slots=True)
class NotKnown:
    """Why a token names nobody. `status` 503: it cannot be known now, `retry_after` seconds may help."""

    message: str
    status: int = 401
    retry_after: float = 0.0
    reason: str = "invalid_token"


@dataclass(frozen=True, slots=True)
class _Known:
    principal: Principal
    until: float


class Issuers:
    """The issuers of an auth file. `reserved` are names that belong to others."""

    def __init__(
        self,
        settings: Iterable[IssuerSettings],
        clock: Clock,
        *,
        reserved: frozenset[str] = frozenset(),
        keys: Mapping[str, IssuerKeys] | None = None,
    ) -> None:
        self.settings = {entry.issuer: entry for entry in settings}
        self.keys = keys or {name: IssuerKeys(entry.jwks, clock) for name, entry in self.settings.items()}
        self._reserved = reserved
        self._clock = clock
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    def known(self, token: str) -> Principal | None:
        """Return whom a token names that was checked a moment ago, `None` if it has to be checked."""
        known = self._known.get(_digest(token))
        return known.principal if known is not None and self._clock.monotonic() < known.until else None

    async def principal(self, token: str) -> Principal | NotKnown:
        """Return whom a bearer token names."""
        if (known := self.known(token)) is not None:
            return known
        found = await self._checked(token)
        if isinstance(found, NotKnown):
            return found
        principal, expires = found
        life = min(CACHE_SECONDS, expires - self._clock.now())
        self._known[_digest(token)] = _Known(principal, self._clock.monotonic() + life)
        while len(self._known) > _CACHED:
            self._known.popitem(last=False)
        return principal

    async def _checked(self, token: str) -> tuple[Principal, float] | NotKnown:
        try:
            header, claims = _unverified(token)
            settings = self._issuer(claims)
            algorithm = _algorithm(header, settings)
            key = await self.keys[settings.issuer].find(_key_id(header), algorithm)
            if key is None:
                raise _Refused("its issuer has no such key")
            verified = _verified(token, key, algorithm, settings)
            return self._named(verified, settings), _expiry(verified) + settings.leeway
        except _Refused as refused:
            return NotKnown(f"this token is not taken: {refused}")
        except KeysUnavailable as unavailable:
            message = "this token cannot be checked now: its issuer's keys cannot be had; try again"
            return NotKnown(message, _UNAVAILABLE, unavailable.retry_after, "keys_unavailable")

    def _issuer(self, claims: Mapping[str, Any]) -> IssuerSettings:
        issuer = claims.get("iss")
        settings = self.settings.get(issuer) if isinstance(issuer, str) else None
        if settings is None:
            raise _Refused("its issuer is not one of those known here")
        return settings

    def _named(self, claims: Mapping[str, Any], settings: IssuerSettings) -> Principal:
        if "cnf" in claims:
            raise _Refused("it is bound to a key (cnf), and as a bearer token it proves nothing")
        user = _name(claims, settings.claims.user)
        name = settings.prefix + user
        if name in self._reserved:
            raise _Refused("its subject has the name of a principal of the auth file")
        groups = _words(_claim(claims, settings.claims.groups))
        client = _claim(claims, settings.claims.client) or claims.get("azp")
        return Principal(
            name,
            client=client if isinstance(client, str) and _proper(client) else None,
            user=user,
            groups=groups,
            roles=settings.roles_of(groups, _scopes(claims)),
        )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("latin-1")).digest()


class _Refused(Exception):
    """What is wrong with a token, in words that echo nothing of it."""


def _unverified(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return header and claims as somebody wrote them: enough to know whose key decides, for nothing else."""
    if len(token) > _MAX_TOKEN:
        raise _Refused(f"it is longer than {_MAX_TOKEN} characters")
    try:
        read = jwt.decode_complete(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise _Refused("it is neither a token known here nor a JWT") from None
    return read["header"], read["payload"]


def _algorithm(header: Mapping[str, Any], settings: IssuerSettings) -> str:
    algorithm, kind = header.get("alg"), header.get("typ")
    if algorithm not in settings.algorithms:
        raise _Refused("its signature algorithm is not one of those allowed")
    if kind is not None and not (isinstance(kind, str) and kind.lower() in _TYPES):
        raise _Refused("it is a JWT, but not an access token")
    if "crit" in header:
        raise _Refused("it demands an extension (crit) that is not known here")
    return str(algorithm)


def _key_id(header: Mapping[str, Any]) -> str | None:
    kid = header.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise _Refused("its key id is no text")
    return kid


def _verified(token: str, key: jwt.PyJWK, algorithm: str, settings: IssuerSettings) -> dict[str, Any]:
    try:
        return jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=settings.audience,
            issuer=settings.issuer,
            leeway=settings.leeway,
            options={"require": ["exp", "iss", "aud"]},
        )
    except jwt.PyJWTError as error:
        raise _Refused(_SAID.get(type(error), "it does not check out")) from None
    except (TypeError, ValueError, OverflowError):
        raise _Refused("its claims are not of the kinds they have to be") from None


def _expiry(claims: Mapping[str, Any]) -> float:
    expires = claims["exp"]
    if not isinstance(expires, int | float) or isinstance(expires, bool) or expires > _LAST_SECOND:
        raise _Refused("its claims are not of the kinds they have to be")
    return float(expires)


_SAID: Mapping[type[jwt.PyJWTError], str] = {
    jwt.ExpiredSignatureError: "it is expired",
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.InvalidAudienceError: "it is meant for another audience than this gateway",
    jwt.InvalidSignatureError: "its signature is not that of its issuer",
    jwt.MissingRequiredClaimError: "it has to say who issued it, for whom, and until when (iss, aud, exp)",
}


def _claim(claims: Mapping[str, Any], name: str) -> object:
    """Return a claim by its own name, else along the dots of it."""
    if name in claims:
        return claims[name]
    value: object = claims
    for part in name.split("."):
        value = cast("Mapping[str, object]", value).get(part) if isinstance(value, dict) else None
    return value


def _name(claims: Mapping[str, Any], claim: str) -> str:
    value = _claim(claims, claim)
    if not isinstance(value, str) or not _proper(value):
        raise _Refused(f"its claim {claim!r} does not name anybody")
    return value


def _proper(name: str) -> bool:
    return 0 < len(name) <= _MAX_NAME and name.isprintable()


def _words(value: object) -> frozenset[str]:
    """Return a list of names, or one; anything else is refused, for it could have meant something."""
    if value is None:
        return frozenset()
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or len(cast("list[object]", listed)) > _MAX_GROUPS:
        raise _Refused("its groups are not a list of names")
    names = [name for name in cast("list[object]", listed) if isinstance(name, str) and _proper(name)]
    if len(names) != len(cast("list[object]", listed)):
        raise _Refused("its groups are not a list of names")
    return frozenset(names)


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """Return the token's scopes: `scope` (RFC 9068), or `scp` as some issuers call it."""
    value: object = claims.get("scope", claims.get("scp"))
    return _words(value.split() if isinstance(value, str) else value)
