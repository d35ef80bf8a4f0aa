"""The auth file: tokens by their hash, and the issuers whose JWTs count. Parses and checks only."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal, TypeAlias, cast, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gateway.core.calls import Principal, Role
from gateway.core.documents import Document, read_document
from gateway.core.fields import Seconds
from gateway.core.json_types import JsonValue
from gateway.errors import ConfigError, Problem

__all__ = ["ALGORITHMS", "AuthFile", "ClaimNames", "IssuerSettings", "TokenEntry", "read_auth_file"]

_VERSION = 1

Algorithm: TypeAlias = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
"""Signatures by a private key. `none` and HMAC are no choice: whoever can check those can make them."""
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)

_Name = Annotated[str, Field(min_length=1, max_length=256)]
_Roles = Annotated[tuple[Role, ...], Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TokenEntry(_Section):
    """One token, known by its SHA-256, and whose it is."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
    principal: _Name
    client: _Name | None = None
    groups: tuple[_Name, ...] = ()
    roles: _Roles

    def as_principal(self) -> Principal:
        """Return whom the token names."""
        return Principal(
            self.principal,
            client=self.client,
            user=self.principal,
            groups=frozenset(self.groups),
            roles=frozenset(self.roles),
        )


def _secure(url: str) -> str:
    """Refuse an address that anybody on the way could answer for."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"{url!r} is not an address like https://id.example.com")
    if parts.scheme == "http" and not _loopback(parts.hostname):
        raise ValueError(f"{url!r} has to be https: plain http is for issuers on loopback only")
    return url


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


_Url = Annotated[str, Field(max_length=2048), AfterValidator(_secure)]


class ClaimNames(_Section):
    """Which claims say who the caller is. A name may lead into objects: `realm_access.roles`."""

    user: _Name = "sub"
    groups: _Name = "groups"
    client: _Name = "client_id"


class IssuerSettings(_Section):
    """An authorization server whose tokens count, and what they count for.

    A valid token has the role `agent`, unless `scopes` says which scopes give which roles. `roles` adds
    those of its groups. `prefix` stands before the name of each of its principals.
    """

    issuer: _Url
    audience: Annotated[tuple[_Name, ...], BeforeValidator(_one_or_many), Field(min_length=1)]
    jwks: _Url
    claims: ClaimNames = ClaimNames()
    roles: Mapping[_Name, _Roles] = {}
    scopes: Mapping[Annotated[str, Field(pattern=r"^[!#-\[\]-~]{1,256}$")], _Roles] = {}
    prefix: Annotated[str, Field(pattern=r"^([A-Za-z0-9._-]{1,64}[:/])?$")] = ""
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = ALGORITHMS
    leeway: Annotated[Seconds, Field(le=300)] = 30.0

    def roles_of(self, groups: Iterable[str], scopes: Iterable[str]) -> frozenset[Role]:
        """Return the roles of a caller in these groups whose token has these scopes."""
        found = {role for group in groups for role in self.roles.get(group, ())}
        found |= {role for scope in scopes for role in self.scopes.get(scope, ())}
        return frozenset(found if self.scopes else found | {Role.AGENT})


class AuthFile(_Section):
    """What an auth file says."""

    version: Literal[1]
    tokens: tuple[TokenEntry, ...] = ()
    issuers: tuple[IssuerSettings, ...] = ()

    @model_validator(mode="after")
    def _somebody(self) -> AuthFile:
        if not self.tokens and not self.issuers:
            raise ValueError("nobody could call: list 'tokens', 'issuers' or both")
        return self


def read_auth_file(text: str, file: str) -> AuthFile:
    """Return what an auth file says; `file` names it in messages. Raises `ConfigError`."""
    document = read_document(text, file)
    if problems := list(_newer(document)):
        raise ConfigError(problems)
    parsed = document.parse(AuthFile)
    tokens = [entry.sha256.lower() for entry in parsed.tokens]
    issuers = [entry.issuer for entry in parsed.issuers]
    problems = [
        *_repeated(
            document, "tokens", "sha256", tokens, "this token is listed twice: a token has one principal"
        ),
        *_repeated(document, "issuers", "issuer", issuers, "this issuer is listed twice: give it one entry"),
        *_same_names(document, parsed.issuers),
    ]
    if problems:
        raise ConfigError(problems)
    return parsed


def _newer(document: Document) -> Iterable[Problem]:
    value: JsonValue = document.value
    version = cast("object", value.get("version")) if isinstance(value, dict) else None
    if isinstance(version, int) and version > _VERSION:
        message = f"version {version} is newer than this program knows ({_VERSION}): update sandgate"
        yield document.problem(["version"], "version", message)


def _repeated(
    document: Document, section: str, key: str, values: Sequence[str], message: str
) -> Iterable[Problem]:
    for index, value in enumerate(values):
        if value in values[:index]:
            yield document.problem([section, index, key], f"duplicate_{key}", message)


def _same_names(document: Document, issuers: Sequence[IssuerSettings]) -> Iterable[Problem]:
    """Two issuers may both know an `alice`; they must not become one principal."""
    if len(issuers) < 2:
        return
    prefixes = [entry.prefix for entry in issuers]
    for index, prefix in enumerate(prefixes):
        if not prefix or prefix in prefixes[:index]:
            message = (
                "with several issuers each needs a prefix of its own, like 'corp:': they may use one name"
            )
            yield document.problem(["issuers", index, "issuer"], "prefix", message)
