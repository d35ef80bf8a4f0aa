"""A program that probes the way out of a container as whoever starts it: `{name: [held, detail]}`."""

from __future__ import annotations

import json

import anyio

from gateway.sandbox.docker_driver import DockerDriver
from gateway.sandbox.probe.way_out import way_out


async def main() -> None:
    async with DockerDriver() as driver:
        print(json.dumps(await way_out(driver)))


anyio.run(main)
