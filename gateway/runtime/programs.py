"""Runs one of our programs, or a pack's, to its end in a fresh sandbox over a workspace. Judges nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

import anyio

from gateway.core.rubric import Verdict
from gateway.errors import SandboxError, SandgateError
from gateway.sandbox.contract import Sandbox, SandboxDriver, SandboxSpec, Workspace

__all__ = ["MAX_OUTPUT", "ProgramFault", "Watch", "run_program"]

MAX_OUTPUT = 256 * 1024
"""Bytes of a program's stdout that are looked at; the rest is read and dropped."""

Watch: TypeAlias = Callable[[str, Sandbox], object]
"""Has what a sandbox tries to reach recorded, under the label of its program."""


class ProgramFault(SandgateError):
    """The program could not be run to its end; the message begins with its label."""


async def run_program(
    driver: SandboxDriver,
    label: str,
    spec: SandboxSpec,
    workspace: Workspace,
    stdin: bytes,
    seconds: float,
    watch: Watch,
) -> Verdict:
    """Run a program, give it a line on stdin where there is one, and return how it ended.

    Raises `ProgramFault` where there is no sandbox for it, it was killed, or time was over.
    """
    try:
        with anyio.fail_after(seconds):
            sandbox = await driver.acquire(spec, workspace)
            watch(label, sandbox)
            try:
                return await _finished(label, sandbox, stdin)
            finally:
                with anyio.CancelScope(shield=True):
                    await sandbox.kill()
    except TimeoutError:
        raise ProgramFault(f"{label}: not done after {seconds:g} s") from None
    except SandboxError as error:
        raise ProgramFault(f"{label}: no sandbox: {error}") from error


async def _finished(label: str, sandbox: Sandbox, stdin: bytes) -> Verdict:
    """Feed a program its line, read it to its end and return how it ended."""
    if stdin:
        # A program that does not want to know says by its exit code how that went.
        with suppress(anyio.BrokenResourceError):
            await sandbox.send(stdin + b"\n")
    stdout = await _read_all(sandbox)
    exited = await sandbox.wait()
    if exited.code < 0:
        raise ProgramFault(f"{label}: killed: {exited.reason}")
    return Verdict(exited.code, stdout, sandbox.stderr_tail())


async def _read_all(sandbox: Sandbox) -> str:
    kept = bytearray()
    try:
        while True:
            kept += (await sandbox.receive())[: MAX_OUTPUT - len(kept)]
    except anyio.EndOfStream:
        return kept.decode("utf-8", "replace")
