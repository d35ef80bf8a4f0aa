"""A real OAuth issuer on loopback: metadata, JWKS with rotation, tokens by client credentials."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote

import anyio
import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

__all__ = ["CLIENT_ID", "CLIENT_SECRET", "Issuer", "SigningKey", "issuing"]

CLIENT_ID, CLIENT_SECRET = "bot", "bot's own secret"
AUDIENCE = "sandgate"


@dataclass(frozen=True)
class SigningKey:
    """A private key, and what the issuer publishes of it."""

    kid: str
    algorithm: str
    private: Any

    @staticmethod
    def make(kid: str, algorithm: str = "ES256", bits: int = 2048) -> SigningKey:
        """Return a new key."""
        makers: dict[str, Callable[[], Any]] = {
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
        }
        make = makers.get(algorithm, lambda: rsa.generate_private_key(65537, bits))
        return SigningKey(kid, algorithm, make())

    def public(self, **more: Any) -> dict[str, Any]:
        """Return the JWK of the public half; `None` in `more` leaves a member out."""
        writers: dict[str, Any] = {"ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
        jwk = json.loads(writers.get(self.algorithm, RSAAlgorithm).to_jwk(self.private.public_key()))
        whole = {**jwk, "kid": self.kid, "use": "sig", "alg": self.algorithm, **more}
        return {name: value for name, value in whole.items() if value is not None}


@dataclass
class Issuer:
    """The issuer and what it does next: `keys` are published with `status`, the first of them signs."""

    url: str = ""
    keys: list[SigningKey] = field(default_factory=lambda: [SigningKey.make("first")])
    status: int = 200
    fetched: int = 0
    asked: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    claims: dict[str, Any] = field(default_factory=lambda: {"groups": ["leads"]})
    published: Callable[[], Any] | None = None

    def entry(self, **more: Any) -> dict[str, Any]:
        """Return this issuer's entry of an auth file."""
        return {"issuer": self.url, "audience": AUDIENCE, "jwks": f"{self.url}/jwks.json", **more}

    def auth_file(self, **more: Any) -> str:
        """Return an auth file that trusts this issuer; JSON is YAML."""
        return json.dumps({"version": 1, "issuers": [self.entry(**more)]})

    def rotate(self) -> None:
        """Sign with a new key from now on, and publish no other."""
        self.keys = [SigningKey.make(f"key-{time.monotonic_ns()}")]

    def token(
        self, key: SigningKey | None = None, *, headers: dict[str, Any] | None = None, **changes: Any
    ) -> str:
        """Return a token; `changes` replace claims, and `None` leaves one out."""
        key = key or self.keys[0]
        now = int(time.time())  # noqa: TID251 - the clock of another program
        claims = {
            "iss": self.url,
            "sub": "alice",
            "aud": AUDIENCE,
            "client_id": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            **self.claims,
            **changes,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        named = {"kid": key.kid, "typ": "at+jwt"} | (headers or {})
        head = {name: value for name, value in named.items() if value is not None}
        # Not `jwt.encode`, which refuses to write what an issuer gone wrong would.
        return jwt.PyJWS().encode(json.dumps(claims).encode(), key.private, key.algorithm, head)

    # -- HTTP

    def app(self) -> Starlette:
        """Return the application."""
        return Starlette(
            routes=[
                Route("/jwks.json", self._jwks),
                Route("/token", self._token, methods=["POST"]),
                Route("/.well-known/oauth-authorization-server", self._metadata),
            ]
        )

    async def _metadata(self, _: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/jwks.json",
                "response_types_supported": ["code"],
                "grant_types_supported": ["client_credentials"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic"],
                "code_challenge_methods_supported": ["S256"],
            }
        )

    async def _jwks(self, _: Request) -> Response:
        self.fetched += 1
        if self.published is not None:
            return self.published()
        return JSONResponse({"keys": [key.public() for key in self.keys]}, self.status)

    async def _token(self, request: Request) -> Response:
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        self.asked.append(form)
        expected = f"{CLIENT_ID}:{CLIENT_SECRET}"
        sent = request.headers.get("authorization", "").removeprefix("Basic ")
        if (
            unquote(base64.b64decode(sent).decode()) != expected
            or form.get("grant_type") != "client_credentials"
        ):
            return JSONResponse({"error": "invalid_client"}, 401)
        token = self.token(sub=CLIENT_ID, scope=form.get("scope"))
        return JSONResponse({"access_token": token, "token_type": "Bearer", "expires_in": 300})


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals of the test's process alone."""
        yield


@asynccontextmanager
async def issuing(issuer: Issuer | None = None) -> AsyncGenerator[Issuer]:
    """Run an issuer on a free port."""
    issuer = issuer or Issuer()
    server = _Server(uvicorn.Config(issuer.app(), log_config=None, access_log=False, lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        issuer.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            try:
                yield issuer
            finally:
                server.should_exit = True
