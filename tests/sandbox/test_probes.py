"""The promise of `spec`: one test per line of it, attacked from inside real sandboxes."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import anyio
import pytest

from gateway.errors import UsageError
from gateway.sandbox.bubblewrap import BubblewrapDriver
from gateway.sandbox.probe import PROBES, ProbeResult, run_probes
from gateway.sandbox.process import ProcessDriver


async def _attack() -> list[ProbeResult]:
    with tempfile.TemporaryDirectory() as folder:
        async with BubblewrapDriver(Path(folder)) as driver:
            return await run_probes(driver)


@cache
def results() -> dict[str, ProbeResult]:
    return {result.name: result for result in anyio.run(_attack)}


@pytest.mark.parametrize("name", PROBES)
def test_the_sandbox_holds(name: str) -> None:
    result = results()[name]
    assert result.held, f"{result.meaning}: {result.detail}"


def test_every_probe_ran_once_and_says_what_it_means() -> None:
    assert [(result.name, result.meaning) for result in results().values()] == list(PROBES.items())


def test_being_killed_for_memory_is_told_apart_from_other_ends() -> None:
    assert "memory" in results()["memory_bomb"].detail


async def test_a_driver_that_isolates_nothing_is_not_probed() -> None:
    async with ProcessDriver() as driver:
        with pytest.raises(UsageError, match="isolates nothing"):
            await run_probes(driver)
