"""Resets one after the other: the next episode begins at once, and no more than one dies meanwhile."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest

from gateway.core.calls import LOCAL
from gateway.core.episode import CallTool
from gateway.runtime.episodes import Episodes, EpisodeSession
from gateway.runtime.gateway import Gateway, GatewaySettings
from gateway.runtime.leases import Lease
from tests.support.gateways import served


def _session(gateway: Gateway, tmp_path: Path) -> AbstractAsyncContextManager[EpisodeSession]:
    return Episodes(gateway, cache_dir=tmp_path / "cache").held("echo", LOCAL, None)


async def test_a_reset_waits_for_no_servers_death_but_one_episodes_at_most_die_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, may_die = Lease.aclose, anyio.Event()
    dying: list[Lease] = []

    async def aclose(self: Lease) -> None:
        dying.append(self)
        await may_die.wait()
        await plain(self)

    settings = GatewaySettings(mode="training")
    async with served(tmp_path, settings=settings) as gateway, _session(gateway, tmp_path) as session:
        monkeypatch.setattr(Lease, "aclose", aclose)
        try:
            with anyio.fail_after(60):
                await session.step(CallTool("echo", {"text": "first"}))
                await session.reset()
                assert (await session.step(CallTool("echo", {"text": "second"}))).metadata["step"] == 1
            with anyio.move_on_after(0.5) as late:
                await session.reset()
            assert late.cancelled_caught
            assert len(dying) == 1
        finally:
            may_die.set()
        await session.reset()
    assert len(dying) == 3
    assert all(not list(lease.running()) for lease in dying)
