"""Asks the program that holds a workspace (`inside/keep.py`) for its files, one request at a time."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar, cast

import anyio

from gateway.core.json_types import JsonObject
from gateway.errors import SandboxError

from .contract import FileEntry, Limits, Sandbox, SandboxSpec
from .docker_container import HELPERS, INTERPRETER
from .docker_seeds import CHUNK, Packed
from .reading import file_entries

__all__ = ["Keeper", "keeper_spec"]

SECONDS = 60.0
MEMORY = 256 * 2**20
"""A file is read whole; the caller's cap on its size is below this."""
MOST_LINE = 65_536
MOST_LINES = 2**28
"""Bytes that may describe the entries of a snapshot, beside their content."""
ERRORS = {
    error.__name__: error for error in (FileNotFoundError, IsADirectoryError, PermissionError, ValueError)
}

T = TypeVar("T")


def keeper_spec(workspace: str) -> SandboxSpec:
    """Return the spec of the program that holds the volume at `workspace`."""
    argv = (INTERPRETER, "-I", "-S", f"{HELPERS}/keep.py", workspace)
    limits = Limits(memory=MEMORY, cpu=1.0, pids=16, disk=2**20, inodes=64, open_files=1024)
    return SandboxSpec("keeper", argv, cwd="/", limits=limits)


class Keeper:
    """The gateway's end. Its program is confined like any other: what it says is capped and checked."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._asking = anyio.Lock()
        self._rest = b""

    async def seed(self, seed: Packed) -> None:
        """Fill the workspace. Raises `SandboxError`, also where it is too small for the seed."""
        await self._undisturbed(lambda: self._seed(seed))

    async def _seed(self, seed: Packed) -> None:
        with suppress(anyio.BrokenResourceError):  # it refused half-way, and says why
            await self._sandbox.send(b'{"op": "seed"}\n')
            for chunk in seed.chunks():
                await self._sandbox.send(chunk)
        try:
            await self._answer(0)
        except (SandboxError, OSError, ValueError) as error:
            raise SandboxError(f"the workspace cannot be filled from {seed.source}: {error}") from error

    async def read(self, path: str, max_bytes: int) -> bytes:
        """As `contract.Workspace.read`."""
        request: JsonObject = {"op": "read", "path": path, "max_bytes": max_bytes}
        return await self._undisturbed(lambda: self._ask(request, max_bytes))

    async def digest(self) -> str:
        """As `contract.Workspace.digest`."""
        return (await self._undisturbed(lambda: self._ask({"op": "digest"}, 64))).decode()

    async def files(self, max_entries: int) -> tuple[FileEntry, ...]:
        """As `contract.Workspace.files`."""
        request: JsonObject = {"op": "files", "max_entries": max_entries}
        data = await self._undisturbed(lambda: self._ask(request, (max_entries + 1) * MOST_LINE))
        return file_entries(cast(list[tuple[str, int, int]], json.loads(data)))

    async def crosses_link(self, path: str) -> bool:
        """As `contract.Workspace.crosses_link`."""
        request: JsonObject = {"op": "crosses_link", "path": path}
        return bool(await self._undisturbed(lambda: self._ask(request, 1)))

    async def snapshot(self, keep: Callable[[bytes], object], most: int) -> None:
        """Give the workspace's files to `keep`, packed as a seed is; raises `SandboxError`.

        Their content is at most `most` bytes.
        """
        try:
            await self._undisturbed(lambda: self._snapshot(keep, most))
        except (OSError, ValueError) as error:
            raise SandboxError(f"the workspace cannot be frozen: {error}") from error

    async def _snapshot(self, keep: Callable[[bytes], object], most: int) -> None:
        await self._sandbox.send(json.dumps({"op": "snapshot", "most": most}).encode() + b"\n")
        room = 2 * most + MOST_LINES
        while data := await self._answer(CHUNK):
            room -= len(data)
            if room < 0:
                raise anyio.BrokenResourceError
            keep(data)

    async def _undisturbed(self, work: Callable[[], Awaitable[T]]) -> T:
        """Finish what was begun, for the next request's sake, but not forever."""
        async with self._asking:
            try:
                with anyio.fail_after(SECONDS, shield=True):
                    return await work()
            except (anyio.EndOfStream, anyio.BrokenResourceError, TimeoutError) as error:
                raise await self._lost(error) from error

    async def _lost(self, error: Exception) -> SandboxError:
        await self._sandbox.kill()
        said = self._sandbox.stderr_tail().strip()[-500:]
        return SandboxError(f"the workspace is lost: what held it ended ({said or repr(error)})")

    async def _ask(self, request: JsonObject, most: int) -> bytes:
        await self._sandbox.send(json.dumps(request).encode() + b"\n")
        return await self._answer(most)

    async def _answer(self, most: int) -> bytes:
        """Return the answer's bytes; raises the error that it names."""
        head = cast(JsonObject, json.loads(await self._line()))
        if "error" in head:
            kind, text = str(head["error"]), str(head["text"])
            raise ERRORS.get(kind, SandboxError)(text)
        size = cast(int, head["size"])
        if size > most:
            raise anyio.BrokenResourceError
        return await self._exactly(size)

    async def _line(self) -> bytes:
        while b"\n" not in self._rest:
            if len(self._rest) > MOST_LINE:
                raise anyio.BrokenResourceError
            self._rest += await self._sandbox.receive()
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    async def _exactly(self, size: int) -> bytes:
        parts, missing = [self._rest[:size]], size - len(self._rest[:size])
        self._rest = self._rest[size:]
        while missing:
            part = await self._sandbox.receive(min(missing, MOST_LINE))
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)
