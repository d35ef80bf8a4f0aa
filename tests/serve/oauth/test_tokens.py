"""Whom a JWT names, against a real issuer: what is taken, and everything that must not be."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import Any

import anyio
import jwt
import pytest
from starlette.responses import JSONResponse, RedirectResponse, Response

from gateway.core.calls import Principal, Role
from gateway.core.json_types import JsonObject
from gateway.serve.auth_file import read_auth_file
from gateway.serve.identity import Identity, load_identity
from gateway.serve.oauth.keys import IssuerKeys, fetch_jwks
from gateway.serve.oauth.tokens import Issuers, NotKnown
from gateway.testing import ManualClock
from tests.support.oauth_issuer import Issuer, SigningKey, issuing


def now() -> int:
    return int(time.time())  # noqa: TID251 - as an issuer reads it


def identity_of(issuer: Issuer, clock: ManualClock | None = None, **settings: Any) -> Identity:
    return load_identity(issuer.auth_file(**settings), "auth.yaml", clock)


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


async def whose(identity: Identity, token: str) -> Principal | NotKnown:
    return await identity.establish(f"Bearer {token}")


async def refusal(identity: Identity, token: str) -> str:
    found = await whose(identity, token)
    assert isinstance(found, NotKnown), found
    return found.message


async def test_a_token_names_its_principal_with_client_groups_and_roles() -> None:
    async with issuing() as issuer:
        identity = identity_of(issuer, roles={"leads": ["admin"], "others": ["orchestrator"]})
        assert await whose(identity, issuer.token()) == Principal(
            "alice",
            client="bot",
            user="alice",
            groups=frozenset({"leads"}),
            roles=frozenset({Role.AGENT, Role.ADMIN}),
        )


async def test_claims_are_found_under_the_names_the_operator_gives_them() -> None:
    async with issuing() as issuer:
        identity = identity_of(
            issuer,
            prefix="corp:",
            claims={"user": "https://x.example/mail", "groups": "realm_access.roles", "client": "azp"},
            roles={"ops": ["admin"]},
        )
        claims: dict[str, Any] = {
            "https://x.example/mail": "a@x.example",
            "realm_access": {"roles": ["ops"]},
            "azp": "cli",
        }
        found = await whose(identity, issuer.token(**claims))
    assert isinstance(found, Principal)
    assert (found.name, found.user, found.client) == ("corp:a@x.example", "a@x.example", "cli")
    assert (found.groups, Role.ADMIN in found.roles) == (frozenset({"ops"}), True)


async def test_where_scopes_give_roles_a_token_without_them_has_none() -> None:
    async with issuing() as issuer:
        identity = identity_of(issuer, scopes={"tools:call": ["agent"], "tools:train": ["orchestrator"]})
        roles = [
            found.roles
            for scope in (None, "openid", "openid tools:call", "tools:call tools:train")
            if isinstance(found := await whose(identity, issuer.token(scope=scope)), Principal)
        ]
    agent, trainer = Role.AGENT, Role.ORCHESTRATOR
    assert roles == [frozenset(), frozenset(), {agent}, {agent, trainer}]


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("named", [True, False])
async def test_every_kind_of_key_is_taken_whether_or_not_it_names_its_algorithm(
    algorithm: str, named: bool
) -> None:
    key = SigningKey.make("k", algorithm)
    async with issuing(Issuer(keys=[key])) as issuer:
        issuer.published = lambda: JSONResponse({"keys": [key.public() if named else key.public(alg=None)]})
        assert isinstance(await whose(identity_of(issuer), issuer.token()), Principal)


OTHER_CLAIMS: list[tuple[dict[str, Any], str]] = [
    ({"aud": "another-service"}, "another audience"),
    ({"aud": ["another-service"]}, "another audience"),
    ({"aud": None}, "iss, aud, exp"),
    ({"exp": 1}, "expired"),
    ({"exp": None}, "iss, aud, exp"),
    ({"exp": "soon"}, "does not check out"),
    ({"exp": 10**400}, "kinds they have to be"),
    ({"nbf": 4_000_000_000}, "not valid yet"),
    ({"iat": 4_000_000_000}, "not valid yet"),
    ({"iss": "http://127.0.0.1:1"}, "its issuer is not one of those known here"),
    ({"iss": None}, "its issuer is not one of those known here"),
    ({"iss": ["x"]}, "its issuer is not one of those known here"),
    ({"sub": None}, "does not name anybody"),
    ({"sub": ""}, "does not name anybody"),
    ({"sub": "alice\x1b[2J"}, "does not name anybody"),
    ({"sub": "a" * 300}, "does not name anybody"),
    ({"groups": {"leads": True}}, "not a list of names"),
    ({"groups": ["leads", 7]}, "not a list of names"),
    ({"groups": [f"g{n}" for n in range(600)]}, "not a list of names"),
    ({"cnf": {"jkt": "x"}}, "bound to a key"),
]


async def test_a_token_with_other_claims_names_nobody() -> None:
    async with issuing() as issuer:
        identity = identity_of(issuer)
        told = [(changes, await refusal(identity, issuer.token(**changes))) for changes, _ in OTHER_CLAIMS]
    assert [
        (changes, message)
        for (changes, message), (_, said) in zip(told, OTHER_CLAIMS, strict=True)
        if said not in message
    ] == []


async def test_a_token_may_be_a_little_late_and_no_more() -> None:
    async with issuing() as issuer:
        identity = identity_of(issuer, leeway="20s")
        assert isinstance(await whose(identity, issuer.token(exp=now() - 10)), Principal)
        assert "expired" in await refusal(identity, issuer.token(exp=now() - 40))


async def test_a_signature_counts_only_by_a_key_of_the_issuer() -> None:
    async with issuing() as issuer:
        identity = identity_of(issuer)
        same_id = SigningKey.make("first")
        assert "signature" in await refusal(identity, issuer.token(same_id))
        assert "no such key" in await refusal(identity, issuer.token(SigningKey.make("second")))
        head, body, _ = issuer.token().split(".")
        assert "signature" in await refusal(identity, f"{head}.{body}.{'A' * 86}")


async def test_claims_changed_after_signing_name_nobody() -> None:
    async with issuing() as issuer:
        head, body, signature = issuer.token().split(".")
        claims = json.loads(base64.urlsafe_b64decode(body + "=="))
        forged = base64url(json.dumps({**claims, "groups": ["admins"]}).encode())
        token = f"{head}.{forged}.{signature}"
        assert "signature" in await refusal(identity_of(issuer), token)


async def test_neither_unsigned_tokens_nor_those_signed_with_the_public_key_as_a_secret_count() -> None:
    """The two oldest tricks: `alg: none`, and HMAC over what everybody knows."""
    key = SigningKey.make("k", "RS256")
    async with issuing(Issuer(keys=[key])) as issuer:
        identity = identity_of(issuer)
        body = issuer.token().split(".")[1]
        public = json.dumps(key.public()).encode()
        for algorithm in ("none", "None", "HS256", "HS384", "HS512"):
            head = base64url(json.dumps({"alg": algorithm, "kid": "k"}).encode())
            sealed = hmac.digest(public, f"{head}.{body}".encode(), "sha256")
            for signature in ("", base64url(sealed)):
                assert "algorithm" in await refusal(identity, f"{head}.{body}.{signature}")


async def test_a_secret_among_the_published_keys_is_no_key() -> None:
    secret = b"a secret that somebody published" * 2
    async with issuing() as issuer:
        published = {"kty": "oct", "kid": "s", "k": base64url(secret)}
        issuer.published = lambda: JSONResponse({"keys": [published]})
        claims = jwt.decode(issuer.token(), options={"verify_signature": False})
        identity = identity_of(issuer)
        assert "algorithm" in await refusal(identity, jwt.encode(claims, secret, "HS512", {"kid": "s"}))
        assert "no such key" in await refusal(identity, issuer.token())


async def test_an_algorithm_the_operator_did_not_allow_is_refused() -> None:
    async with issuing() as issuer:
        assert "algorithm" in await refusal(identity_of(issuer, algorithms=["RS256"]), issuer.token())


async def test_a_key_is_not_used_for_another_algorithm_than_its_own() -> None:
    key = SigningKey.make("k", "RS256")
    async with issuing(Issuer(keys=[key])) as issuer:
        other = SigningKey("k", "PS256", key.private)
        assert "no such key" in await refusal(identity_of(issuer), issuer.token(other))


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_a_short_rsa_key_and_one_for_encryption_are_no_keys() -> None:
    short, sealing = SigningKey.make("short", "RS256", 1024), SigningKey.make("enc", "ES256")
    async with issuing(Issuer(keys=[short, sealing])) as issuer:
        issuer.published = lambda: JSONResponse({"keys": [short.public(), sealing.public(use="enc")]})
        identity = identity_of(issuer)
        for key in (short, sealing):
            assert "no such key" in await refusal(identity, issuer.token(key))


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"typ": "id_token+jwt"}, "not an access token"),
        ({"typ": "dpop+jwt"}, "not an access token"),
        ({"typ": ["jwt"]}, "not an access token"),
        ({"crit": ["exp"]}, "neither a token known here nor a JWT"),
        ({"kid": None}, ""),
    ],
)
async def test_headers_that_mean_something_else_are_refused(headers: dict[str, Any], said: str) -> None:
    async with issuing() as issuer:
        token = issuer.token(headers=headers)
        if said:
            assert said in await refusal(identity_of(issuer), token)
        else:  # one key and no key id: no guess
            assert isinstance(await whose(identity_of(issuer), token), Principal)


async def test_an_address_in_a_token_is_never_asked() -> None:
    """A token that brings its own keys: `jku`, `x5u`, `jwk`."""
    async with issuing() as issuer, issuing() as mallory:
        forged = issuer.token(
            SigningKey.make("first"),
            headers={"jku": f"{mallory.url}/jwks.json", "x5u": mallory.url, "jwk": mallory.keys[0].public()},
        )
        assert "signature" in await refusal(identity_of(issuer), forged)
        assert mallory.fetched == 0


@pytest.mark.parametrize("token", ["", "a.b.c", "x" * 20_000, "....", "e30.e30.", "\xff.\xff.\xff", "eyJ"])
async def test_what_is_no_token_names_nobody_and_asks_nobody(token: str) -> None:
    async with issuing() as issuer:
        assert isinstance(await whose(identity_of(issuer), token), NotKnown)
        assert issuer.fetched == 0


async def test_one_issuers_token_does_not_pass_as_anothers() -> None:
    """Issuer confusion: B signs, and says that it is A."""
    async with issuing() as a, issuing() as b:
        text = json.dumps({"version": 1, "issuers": [a.entry(prefix="a:"), b.entry(prefix="b:")]})
        identity = load_identity(text, "auth.yaml")
        names = [
            found.name
            for issuer in (a, b)
            if isinstance(found := await whose(identity, issuer.token()), Principal)
        ]
        assert names == ["a:alice", "b:alice"]
        assert "signature" in await refusal(identity, b.token(iss=a.url))


async def test_nobody_gets_the_name_of_a_principal_of_the_auth_file() -> None:
    async with issuing() as issuer:
        tokens = [{"sha256": "0" * 64, "principal": "alice", "roles": ["agent"]}]
        text = json.dumps({"version": 1, "issuers": [issuer.entry()], "tokens": tokens})
        identity = load_identity(text, "auth.yaml")
        assert "name of a principal" in await refusal(identity, issuer.token())
        assert isinstance(await whose(identity, issuer.token(sub="bob")), Principal)


async def test_a_checked_token_is_known_for_a_while_and_never_longer_than_it_lives() -> None:
    clock = ManualClock(now())
    async with issuing() as issuer:
        identity = identity_of(issuer, clock, leeway="1s")
        token = issuer.token(exp=now() + 2)
        assert identity.principal(f"Bearer {token}") is None
        found = await whose(identity, token)
        assert isinstance(found, Principal)
        assert identity.principal(f"Bearer {token}") is found
        issuer.rotate()  # its key is gone, but nobody has to ask for now
        assert isinstance(await whose(identity, token), Principal)
        clock.advance(4)  # the clock of the cache; the wall clock of the check is the machine's own
        assert identity.principal(f"Bearer {token}") is None
        issuer.published = lambda: JSONResponse({"keys": []})
        clock.advance(700)
        assert "no such key" in await refusal(identity, token)


async def test_a_new_key_is_fetched_when_a_token_names_it() -> None:
    async with issuing() as issuer:
        identity = identity_of(issuer)
        assert isinstance(await whose(identity, issuer.token()), Principal)
        issuer.rotate()
        assert isinstance(await whose(identity, issuer.token()), Principal)
        assert issuer.fetched == 2


async def test_made_up_key_ids_do_not_make_the_gateway_ask_again_and_again() -> None:
    clock = ManualClock(now())
    async with issuing() as issuer:
        identity = identity_of(issuer, clock)
        for number in range(50):
            await refusal(identity, issuer.token(headers={"kid": f"made-up-{number}"}))
        assert issuer.fetched == 3
        clock.advance(61)
        issuer.rotate()
        assert isinstance(await whose(identity, issuer.token()), Principal)
        assert issuer.fetched == 4


@pytest.mark.parametrize(
    "answer",
    [
        lambda: Response(status_code=500),
        lambda: Response(b"not json"),
        lambda: Response(b'{"keys": 7}'),
        lambda: Response(b'{"keys": ["' + b"x" * 300_000 + b'"]}'),
        lambda: RedirectResponse("http://127.0.0.1:1/elsewhere"),
    ],
)
async def test_without_the_issuers_keys_nobody_is_let_in(answer: Any) -> None:
    async with issuing() as issuer:
        issuer.published = answer
        found = await whose(identity_of(issuer), issuer.token())
    assert isinstance(found, NotKnown)
    assert (found.status, found.reason, found.retry_after > 0) == (503, "keys_unavailable", True)


async def test_keys_outlive_an_issuer_that_is_away_for_an_hour_and_no_longer() -> None:
    clock = ManualClock(now())
    async with issuing() as issuer:
        identity = identity_of(issuer, clock)
        assert isinstance(await whose(identity, issuer.token()), Principal)
        issuer.status = 500
        clock.advance(700)
        assert isinstance(await whose(identity, issuer.token(sub="bob")), Principal)
        clock.advance(3000)
        found = await whose(identity, issuer.token(sub="carol"))
        assert isinstance(found, NotKnown)
        assert found.status == 503
        issuer.status = 200
        clock.advance(61)
        assert isinstance(await whose(identity, issuer.token(sub="carol")), Principal)


async def test_an_issuer_that_hangs_holds_up_nobody_whose_key_is_known() -> None:
    clock, asked = ManualClock(now()), anyio.Event()
    async with issuing() as issuer:
        settings = read_auth_file(issuer.auth_file(), "auth.yaml").issuers

        async def fetch(url: str) -> JsonObject:
            if keys.fetches > 1:
                asked.set()
                await anyio.sleep_forever()
            return await fetch_jwks(url)

        keys = IssuerKeys(settings[0].jwks, clock, fetch)
        issuers = Issuers(settings, clock, keys={issuer.url: keys})
        assert isinstance(await issuers.principal(issuer.token()), Principal)
        clock.advance(700)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(issuers.principal, issuer.token(sub="first"))
            await asked.wait()
            with anyio.fail_after(5):
                assert isinstance(await issuers.principal(issuer.token(sub="second")), Principal)
            tasks.cancel_scope.cancel()
