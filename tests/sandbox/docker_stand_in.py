"""A gateway with two hostile programs that read no input and ignore signals: says its label, and waits."""

from __future__ import annotations

import sys

import anyio

from gateway.sandbox.contract import SandboxSpec, WorkspaceSpec
from gateway.sandbox.docker_driver import DockerDriver

HOSTILE = "trap '' TERM INT HUP; sleep {0} & setsid sleep {0} & echo up; while :; do wait; done"


async def main() -> None:
    async with DockerDriver() as driver:
        workspace = await driver.open_workspace(WorkspaceSpec())
        for number in range(2):
            spec = SandboxSpec(f"s{number}", ("/bin/sh", "-c", HOSTILE.format(sys.argv[1])))
            await (await driver.acquire(spec, workspace)).receive()
        print(driver.label, flush=True)
        await anyio.sleep_forever()


anyio.run(main)
