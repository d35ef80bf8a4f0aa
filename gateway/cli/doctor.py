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
    results = anyio.run(_probe, settings)
    failed = [result for result in results if not result.held]
    document = {
        "driver": settings.sandbox,
        "held": not failed,
        "probes": [asdict(result) for result in results],
    }
    show(form, document, _text(settings.sandbox, results))
    if failed:
        raise typer.Exit(1)


async def _probe(config: Config) -> list[ProbeResult]:
    from gateway.sandbox.drivers import make_driver
    from gateway.sandbox.probe import run_probes

    async with make_driver(config.sandbox, cache_dir=config.cache) as driver:
        return await run_probes(driver)


def _text(driver: str, results: list[ProbeResult]) -> str:
    held = sum(result.held for result in results)
    lines = [f"{'held' if result.held else 'FAILED':<7} {result.name}: {result.detail}" for result in results]
    meanings = [f"  {result.name}: {result.meaning}" for result in results if not result.held]
    summary = f"{driver}: {held} of {len(results)} held"
    return "\n".join([*lines, summary, *(["what the failures mean:", *meanings] if meanings else [])])
