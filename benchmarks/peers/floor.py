"""The floor: the least a gateway can do by hand, with nothing in between.

One ASGI function on uvicorn, uvloop and httptools: parse the body, judge the tool and its arguments
with two comparisons, append decision and outcome to a hash-chained log, forward to one stdio child.
The log is written; with `synced` as a fourth argument it is synced to disk twice a call as well.
No sandbox, no session, no schema: whatever a gateway costs more than this buys something.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

import uvicorn
import uvloop


class Child:
    """One stdio server, answers matched by id."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.next_id = 0

    async def read(self) -> None:
        """Hand out answers for ever."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            message = json.loads(line)
            self.waiting.pop(message["id"]).set_result(message)

    async def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send one request and return the whole answer."""
        assert self.process.stdin is not None
        self.next_id += 1
        future = self.waiting[self.next_id] = asyncio.get_running_loop().create_future()
        body = {"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params}
        self.process.stdin.write(json.dumps(body, separators=(",", ":")).encode() + b"\n")
        return await future


class Log:
    """A hash chain in a file."""

    def __init__(self, file: BinaryIO, synced: bool) -> None:
        self.file = file
        self.synced = synced
        self.previous = "0" * 64

    def append(self, record: dict[str, Any]) -> None:
        """Write one record."""
        record["prev"] = self.previous
        text = json.dumps(record, separators=(",", ":"), sort_keys=True).encode()
        self.previous = hashlib.sha256(text).hexdigest()
        self.file.write(text + b"\n")
        self.file.flush()
        if self.synced:
            os.fdatasync(self.file.fileno())


def judge(params: dict[str, Any]) -> bool:
    """Two comparisons stand for a policy."""
    return params["name"] == "echo" and len(params["arguments"]["text"]) <= 100_000


async def serve(server: str, port: int, log_file: str, *, synced: bool) -> None:
    """Serve until killed."""
    process = await asyncio.create_subprocess_exec(sys.executable, server, stdin=-1, stdout=-1, limit=2**24)
    child = Child(process)
    reader = asyncio.ensure_future(child.read())
    await child.request("initialize", {"protocolVersion": "2025-11-25"})
    with Path(log_file).open("ab") as file:  # noqa: ASYNC230 - opened once, before anything is served
        log = Log(file, synced)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                return
            body, more = b"", True
            while more:
                message = await receive()
                body, more = body + message["body"], message.get("more_body", False)
            request = json.loads(body)
            allowed = judge(request["params"])
            log.append({"event": "decision", "allow": allowed, "tool": request["params"]["name"]})
            answer = await child.request(
                "tools/call", {k: request["params"][k] for k in ("name", "arguments")}
            )
            log.append({"event": "outcome", "tool": request["params"]["name"]})
            answer["id"] = request["id"]
            data = json.dumps(answer, separators=(",", ":")).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": data})

        config = uvicorn.Config(app, port=port, log_level="error", access_log=False, lifespan="off")
        await uvicorn.Server(config).serve()
    reader.cancel()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3], synced="synced" in sys.argv[4:]))
