"""`sandgate doctor`: attacks its own sandbox from inside and says what held."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from gateway.cli.options import ConfigOption, FormatOption, NotIsolatedOption, SandboxOption
from gateway.cli.output import Format, show

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.sandbox.probe import ProbeResult

__all__ = ["doctor"]


def doctor(
    sandbox: SandboxOption = None,
    not_isolated: NotIsolatedOption = False,
    config: ConfigOption = None,
    form: FormatOption = Format.TEXT,
) -> None:
    """Run the probe suite inside a sandbox of this machine. Exits with 1 if anything did not hold."""
    import anyio

    from gateway.cli.wiring import check_driver
    from gateway.config import load_config

    settings = load_config({"sandbox": sandbox}, file=config)
    check_driver(settings, not_isolated=not_isolated)
    results, limited_by, forks = anyio.run(_probe, settings)
    failed = [result for result in (*results, *forks) if not result.held]
    document = {
        "driver": settings.sandbox,
        "held": not failed,
        "limited_by": limited_by,
        "probes": [asdict(result) for result in results],
        "forked_probes": [asdict(result) for result in forks],
    }
    show(form, document, "\n".join([_text(settings.sandbox, limited_by, results), *_forked(forks)]))
    if failed:
        raise typer.Exit(1)


async def _probe(config: Config) -> tuple[list[ProbeResult], str, list[ProbeResult]]:
    """Attack the driver, and its forked servers where it forks; say what holds its limits."""
    from gateway.sandbox.drivers import make_driver
    from gateway.sandbox.probe import run_probes
    from gateway.sandbox.probe.forked import forks_of

    async with make_driver(config.sandbox, cache_dir=config.cache) as driver:
        results, forks = await run_probes(driver), forks_of(driver)
        return results, driver.limited_by, await run_probes(forks) if forks else []


def _forked(results: list[ProbeResult]) -> list[str]:
    """Return what failed of the same attacks from forked servers, and how many held."""
    if not results:
        return ["servers with `fork_server: true` start cold here"]
    failed = [result for result in results if not result.held]
    lines = [f"FAILED  {result.name} in a forked server: {_meaning(result)}" for result in failed]
    return [*lines, f"forked servers: {len(results) - len(failed)} of {len(results)} held"]


def _text(driver: str, limited_by: str, results: list[ProbeResult]) -> str:
    """Return a table: what held, what that means, and what was got where there is something to tell."""
    width = max(len(result.name) for result in results)
    lines = [f"{_verdict(result):<8}{result.name:<{width}}  {_meaning(result)}" for result in results]
    held = sum(result.held for result in results)
    return "\n".join([*lines, f"limits are held by {limited_by}", f"{driver}: {held} of {len(results)} held"])


def _verdict(result: ProbeResult) -> str:
    return "held" if result.held else "FAILED"


def _meaning(result: ProbeResult) -> str:
    if not result.held:
        return f"not so: {result.meaning} ({result.detail})"
    return result.meaning if result.detail == "refused" else f"{result.meaning} ({result.detail})"
