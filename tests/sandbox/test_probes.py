"""The promise of `spec`: one test per line of it, attacked from inside real sandboxes."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

import anyio
import pytest

from gateway.errors import UsageError
from gateway.sandbox.bubblewrap import BubblewrapDriver
from gateway.sandbox.probe import PROBES, ProbeResult, inside, run_probes
from gateway.sandbox.probe.forked import ForkedDriver
from gateway.sandbox.process import ProcessDriver

DRIVERS = ("bubblewrap", "bubblewrap+fork")


async def _attack(forks: bool) -> list[ProbeResult]:
    with tempfile.TemporaryDirectory() as folder:
        driver = BubblewrapDriver(Path(folder))
        async with ForkedDriver(driver) if forks else driver as opened:
            return await run_probes(opened)


@cache
def results(driver: str) -> dict[str, ProbeResult]:
    return {result.name: result for result in anyio.run(_attack, driver == "bubblewrap+fork")}


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", PROBES)
def test_the_sandbox_holds(name: str, driver: str) -> None:
    result = results(driver)[name]
    assert result.held, f"{result.meaning}: {result.detail}"


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_probe_ran_once_and_says_what_it_means(driver: str) -> None:
    assert [(result.name, result.meaning) for result in results(driver).values()] == list(PROBES.items())


@pytest.mark.parametrize("driver", DRIVERS)
def test_being_killed_for_memory_is_told_apart_from_other_ends(driver: str) -> None:
    assert "memory" in results(driver)["memory_bomb"].detail


async def test_a_driver_that_isolates_nothing_is_not_probed() -> None:
    async with ProcessDriver() as driver:
        with pytest.raises(UsageError, match="isolates nothing"):
            await run_probes(driver)


def test_a_process_with_the_gateways_number_is_the_gateway_only_if_it_was_started_then() -> None:
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    facts = {"gateway_pid": os.getpid(), "gateway_started": started}
    assert inside.signals(facts) == "the gateway can be signalled"
    assert inside.signals({**facts, "gateway_started": "0"}) == ""
