"""A program that runs the probes as whoever starts it and prints `{name: [held, detail]}`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import anyio

from gateway.sandbox.bubblewrap import BubblewrapDriver
from gateway.sandbox.probe import run_probes


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with BubblewrapDriver(Path(folder)) as driver:
            found = await run_probes(driver)
    print(json.dumps({result.name: (result.held, result.detail) for result in found}))


anyio.run(main)
