"""The training front served for real on loopback, with its episodes at hand."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.runtime.episodes import Episodes, EpisodeSettings
from gateway.runtime.gateway import Gateway, GatewaySettings
from gateway.runtime.trajectories import TrajectoryFolder
from gateway.serve.app import build_app
from gateway.serve.gate import GateLimits
from gateway.serve.identity import LOCAL_IDENTITY, Identity, load_identity
from gateway.serve.security import HttpSecurity
from tests.support.http_serving import open_echo_packs, running

__all__ = ["TRAINING", "EnvServer", "env_server", "people"]

TRAINING = GatewaySettings(mode="training")


@dataclass(frozen=True, slots=True)
class EnvServer:
    """A running server: its address and what stands behind it."""

    url: str
    gateway: Gateway
    episodes: Episodes | None

    @property
    def socket_url(self) -> str:
        """The address for WebSockets."""
        return self.url.replace("http://", "ws://")


def people(**roles: str) -> Identity:
    """Return identities whose token is their name."""
    tokens = [
        f'  - {{sha256: "{hashlib.sha256(name.encode()).hexdigest()}", principal: {name}, roles: [{role}]}}'
        for name, role in roles.items()
    ]
    return load_identity("\n".join(["version: 1", "tokens:", *tokens]), "auth.yaml")


@asynccontextmanager
async def env_server(
    tmp_path: Path,
    *,
    packs: tuple[str, ...] = ("echo",),
    identity: Identity = LOCAL_IDENTITY,
    settings: GatewaySettings = TRAINING,
    limits: GateLimits | None = None,
    orchestration: bool = False,
    playing: EpisodeSettings | None = None,
) -> AsyncGenerator[EnvServer]:
    """Serve copies of the echo pack; in deployment mode without episodes, unless `orchestration`."""
    async with open_echo_packs(tmp_path, *packs, settings=settings) as gateway:
        episodes = None
        if settings.mode == "training" or orchestration:
            writer = TrajectoryFolder(tmp_path / "trajectories")
            episodes = Episodes(
                gateway,
                cache_dir=tmp_path / "cache",
                trajectories=writer,
                orchestration=orchestration,
                settings=playing,
            )
        security = HttpSecurity.bound_to("127.0.0.1")
        app = build_app(gateway, identity=identity, security=security, episodes=episodes, limits=limits)
        async with running(app, gateway) as url:
            yield EnvServer(url, gateway, episodes)
