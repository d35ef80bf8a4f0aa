"""Who asks: the auth file, tokens, roles."""

from __future__ import annotations

import hashlib

import pytest
from starlette.types import Receive, Scope, Send

from gateway.core.calls import LOCAL, Principal, Role
from gateway.errors import ConfigError
from gateway.serve.identity import (
    LOCAL_IDENTITY,
    RequireIdentity,
    RequireRole,
    known_principal,
    load_identity,
    principal_of,
)
from tests.support.asgi import http_scope, request


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


FILE = f"""\
version: 1
tokens:
  - {{sha256: "{digest("alice-token")}", principal: alice, client: ci-agent, groups: [leads], roles: [agent]}}
  - {{sha256: "{digest("root-token").upper()}", principal: root, roles: [{", ".join(Role)}]}}
"""
ALICE = Principal(
    "alice", client="ci-agent", user="alice", groups=frozenset({"leads"}), roles=frozenset({Role.AGENT})
)


async def whoami(scope: Scope, _: Receive, send: Send) -> None:
    principal = known_principal(scope)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": principal.name.encode() if principal else b"nobody"})


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_identity(text, "auth.yaml")
    return [str(problem) for problem in caught.value.problems]


def test_a_token_names_its_principal_with_client_groups_and_roles() -> None:
    assert load_identity(FILE, "auth.yaml").principal("Bearer alice-token") == ALICE


@pytest.mark.parametrize("header", ["bearer alice-token", "BEARER   alice-token ", "Bearer alice-token"])
def test_the_scheme_is_read_in_any_case_and_blanks_do_not_matter(header: str) -> None:
    assert load_identity(FILE, "auth.yaml").principal(header) == ALICE


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "alice-token", "Basic alice-token", "Bearer nobody's", "Bearer \xff"],
)
def test_anything_else_names_nobody(header: str | None) -> None:
    assert load_identity(FILE, "auth.yaml").principal(header) is None


def test_the_hash_of_a_token_is_not_a_token() -> None:
    assert load_identity(FILE, "auth.yaml").principal(f"Bearer {digest('alice-token')}") is None


def test_hashes_are_taken_in_either_case() -> None:
    found = load_identity(FILE, "auth.yaml").principal("Bearer root-token")
    assert found is not None
    assert found.roles == frozenset(Role)


def test_without_a_file_everybody_is_local() -> None:
    assert LOCAL_IDENTITY.principal(None) is LOCAL
    assert LOCAL_IDENTITY.principal("Bearer whatever") is LOCAL


ISSUER = '{issuer: "https://id.example.com", audience: sandgate, jwks: "https://id.example.com/jwks"}'


def test_an_auth_file_may_name_issuers_only() -> None:
    identity = load_identity(f"version: 1\nissuers: [{ISSUER}]\n", "auth.yaml")
    assert identity.principal("Bearer alice-token") is None
    assert identity.issuers is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("https://id.example.com/jwks", "http://id.example.com/jwks"), "has to be https"),
        (('https://id.example.com"', 'http://id.example.com"'), "has to be https"),
        (("https://id.example.com/jwks", "http://localhost.example.com/jwks"), "has to be https"),
        (("https://id.example.com/jwks", "file:///etc/passwd"), "is not an address like"),
        (("https://id.example.com/jwks", "https://user:pw@id.example.com/"), "is not an address like"),
        (("audience: sandgate", "audience: []"), "audience"),
        (("audience: sandgate, ", ""), "missing key 'issuers.0.audience'"),
        (("audience: sandgate", "audience: a, algorithms: [HS256]"), "algorithms"),
        (("audience: sandgate", "audience: a, algorithms: [none]"), "algorithms"),
        (("audience: sandgate", "audience: a, leeway: 1h"), "leeway"),
        (("audience: sandgate", "audience: a, roles: {leads: [king]}"), "roles"),
        (("audience: sandgate", 'audience: a, scopes: {"two words": [agent]}'), "scopes"),
    ],
)
def test_an_issuer_that_could_be_impersonated_or_says_too_little_is_refused(
    change: tuple[str, str], said: str
) -> None:
    assert change[0] in ISSUER
    (problem, *_) = problems(f"version: 1\nissuers:\n  - {ISSUER.replace(*change)}\n")
    assert problem.startswith("auth.yaml:3:")
    assert said in problem


def test_several_issuers_need_prefixes_so_that_their_names_stay_apart() -> None:
    other = ISSUER.replace("id.example", "other.example")
    text = f"version: 1\nissuers:\n  - {ISSUER}\n  - {other}\n"
    said = "with several issuers each needs a prefix of its own, like 'corp:': they may use one name"
    assert problems(text) == [f"auth.yaml:3:6: {said}", f"auth.yaml:4:6: {said}"]
    apart = text.replace("audience: sandgate", 'prefix: "a:", audience: sandgate', 1)
    assert problems(apart) == [f"auth.yaml:4:6: {said}"]


def test_a_newer_file_is_refused_clearly() -> None:
    assert problems("version: 2\ntokens: []\n") == [
        "auth.yaml:1:1: version 2 is newer than this program knows (1): update sandgate"
    ]


def test_a_token_listed_twice_is_refused() -> None:
    text = FILE + f'  - {{sha256: "{digest("alice-token")}", principal: bob, roles: [agent]}}\n'
    assert problems(text) == ["auth.yaml:5:6: this token is listed twice: a token has one principal"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ("version: 1\n", "nobody could call: list 'tokens', 'issuers' or both"),
        ("version: 1\ntokens: []\n", "nobody could call"),
        ("version: 1\ntokens: [{sha256: abc, principal: a, roles: [agent]}]\n", "sha256"),
        (FILE.replace("roles: [agent]", "roles: [king]"), "roles"),
        (FILE.replace("roles: [agent]", "roles: []"), "roles"),
        (FILE.replace(", roles: [agent]", ""), "missing key 'tokens.0.roles'"),
        (FILE.replace("client:", "klient:"), "unknown key 'tokens.0.klient'"),
        (FILE.replace("principal: alice", 'principal: ""'), "principal"),
        (FILE.replace("version: 1", "version: '1'"), "version"),
    ],
)
def test_a_faulty_file_is_refused_with_file_and_line(text: str, said: str) -> None:
    (problem, *_) = problems(text)
    assert problem.startswith("auth.yaml:")
    assert said in problem


async def test_a_request_without_a_token_gets_401_and_a_challenge() -> None:
    app = RequireIdentity(whoami, load_identity(FILE, "auth.yaml"), frozenset())
    reply = await request(app, http_scope("/mcp"))
    assert (reply.status, reply.headers["www-authenticate"]) == (401, 'Bearer realm="sandgate"')


async def test_a_wrong_token_gets_401_and_is_told_so_without_an_echo() -> None:
    app = RequireIdentity(whoami, load_identity(FILE, "auth.yaml"), frozenset())
    reply = await request(app, http_scope("/mcp", headers={"Authorization": "Bearer s3cret-guess"}))
    assert (reply.status, reply.headers["www-authenticate"]) == (
        401,
        'Bearer realm="sandgate", error="invalid_token", error_description="this token is not known here"',
    )
    assert b"s3cret" not in reply.body


async def test_a_right_token_reaches_the_app_as_its_principal() -> None:
    app = RequireIdentity(whoami, load_identity(FILE, "auth.yaml"), frozenset())
    reply = await request(app, http_scope("/mcp", headers={"Authorization": "Bearer alice-token"}))
    assert reply.body == b"alice"


async def test_open_paths_are_answered_to_strangers_and_to_callers() -> None:
    app = RequireIdentity(whoami, load_identity(FILE, "auth.yaml"), frozenset({"/ready"}))
    assert (await request(app, http_scope("/ready"))).body == b"nobody"
    named = http_scope("/ready", headers={"Authorization": "Bearer alice-token"})
    assert (await request(app, named)).body == b"alice"
    assert (await request(app, http_scope("/ready/"))).status == 401


async def test_a_missing_role_gets_403_naming_it() -> None:
    guarded = RequireRole(whoami, Role.ORCHESTRATOR)
    app = RequireIdentity(guarded, load_identity(FILE, "auth.yaml"), frozenset())
    alice = http_scope("/reset", headers={"Authorization": "Bearer alice-token"})
    reply = await request(app, alice)
    assert (reply.status, 'scope="orchestrator"' in reply.headers["www-authenticate"]) == (403, True)
    root = http_scope("/reset", headers={"Authorization": "Bearer root-token"})
    assert (await request(app, root)).body == b"root"


async def test_a_websocket_without_a_token_is_not_opened() -> None:
    app = RequireIdentity(whoami, load_identity(FILE, "auth.yaml"), frozenset())
    reply = await request(app, http_scope("/ws", type="websocket"))
    assert [message["type"] for message in reply.messages] == ["websocket.close"]


def test_asking_for_a_principal_outside_the_middleware_is_a_fault_of_ours() -> None:
    with pytest.raises(AssertionError):
        principal_of(http_scope())
