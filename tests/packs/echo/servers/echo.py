"""A tiny MCP server for tests: raw JSON-RPC over stdio, standard library only, starts in milliseconds.

It appends every message it receives to `.echo-log.jsonl` in its working folder, before acting on it:
what reached the server is told by the server, not by the gateway.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LOG = Path(".echo-log.jsonl")
JsonObject = dict[str, Any]


class RpcError(Exception):
    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message, "data": data}


def text(value: str, **more: Any) -> JsonObject:
    return {"content": [{"type": "text", "text": value}], "isError": False, **more}


def echo(arguments: JsonObject) -> JsonObject:
    return text(arguments["text"])


def structured(arguments: JsonObject) -> JsonObject:
    value = {"value": arguments["value"]}
    return text(json.dumps(value), structuredContent=value, _meta={"echo/extra": 1}, unknownField=[1])


def write(arguments: JsonObject) -> JsonObject:
    path = Path(arguments["path"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(arguments["content"], encoding="utf-8")
    return text(f"wrote {path}")


def read(arguments: JsonObject) -> JsonObject:
    return text(Path(arguments["path"]).read_text(encoding="utf-8"))


def link(arguments: JsonObject) -> JsonObject:
    Path(arguments["path"]).symlink_to(arguments["target"])
    return text(f"linked {arguments['path']}")


def fail(arguments: JsonObject) -> JsonObject:
    return {"content": [{"type": "text", "text": arguments["message"]}], "isError": True}


def rpc_error(arguments: JsonObject) -> JsonObject:
    raise RpcError(arguments.get("code", -32050), "the server says no", {"hint": "as asked"})


def crash(_: JsonObject) -> JsonObject:
    print("crashing as asked", file=sys.stderr, flush=True)
    os._exit(3)


def sleep(arguments: JsonObject) -> JsonObject:
    time.sleep(arguments["seconds"])
    return text("slept")


def big(arguments: JsonObject) -> JsonObject:
    return text("x" * arguments["bytes"])


def env(arguments: JsonObject) -> JsonObject:
    return text(os.environ.get(arguments["name"], ""))  # noqa: TID251 - its own, not the gateway's


def log(_: JsonObject) -> JsonObject:
    return text(LOG.read_text(encoding="utf-8"))


def noise(arguments: JsonObject) -> JsonObject:
    """Write a line that is not JSON-RPC to stdout first, as careless servers do."""
    sys.stdout.write(arguments["line"] + "\n")
    return text("was noisy")


def schema(required: list[str], **properties: str) -> JsonObject:
    return {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in properties.items()},
        "required": required,
        "additionalProperties": False,
    }


Handler = Callable[[JsonObject], JsonObject]
TOOLS: dict[str, tuple[Handler, str, JsonObject]] = {
    "echo": (echo, "Return the text.", schema(["text"], text="string")),
    "structured": (
        structured,
        "Return the number as structured content.",
        schema(["value"], value="integer"),
    ),
    "write": (write, "Write a file.", schema(["path", "content"], path="string", content="string")),
    "read": (read, "Read a file.", schema(["path"], path="string")),
    "link": (link, "Make a symbolic link.", schema(["path", "target"], path="string", target="string")),
    "fail": (fail, "Answer with a tool error.", schema(["message"], message="string")),
    "rpc_error": (rpc_error, "Answer with a JSON-RPC error.", schema([], code="integer")),
    "crash": (crash, "End the server process.", schema([])),
    "sleep": (sleep, "Answer after a while.", schema(["seconds"], seconds="number")),
    "big": (big, "Return that many characters.", schema(["bytes"], bytes="integer")),
    "env": (env, "Return one of the server's own environment variables.", schema(["name"], name="string")),
    "log": (log, "Return every message this server has received.", schema([])),
    "noise": (noise, "Print a stray line, then answer.", schema(["line"], line="string")),
    "hidden": (echo, "A tool that the test policy never grants.", schema(["text"], text="string")),
}


def initialize(params: JsonObject) -> JsonObject:
    return {
        "protocolVersion": params.get("protocolVersion", "2025-11-25"),
        "capabilities": {"tools": {"listChanged": False}},
        "serverInfo": {"name": "echo", "version": "1.0.0"},
    }


def tools_list(_: JsonObject) -> JsonObject:
    return {
        "tools": [
            {"name": name, "description": description, "inputSchema": input_schema}
            for name, (_, description, input_schema) in TOOLS.items()
        ]
    }


def tools_call(params: JsonObject) -> JsonObject:
    tool = TOOLS.get(params.get("name", ""))
    if tool is None:
        raise RpcError(-32602, f"unknown tool {params.get('name')!r}")
    try:
        return tool[0](params.get("arguments") or {})
    except OSError as error:
        return fail({"message": str(error)})


METHODS: dict[str, Handler] = {
    "initialize": initialize,
    "ping": lambda _: {},
    "tools/list": tools_list,
    "tools/call": tools_call,
}


def answer(message: JsonObject) -> JsonObject | None:
    if "id" not in message:
        return None
    method = METHODS.get(message.get("method", ""))
    reply: JsonObject = {"jsonrpc": "2.0", "id": message["id"]}
    try:
        if method is None:
            raise RpcError(-32601, f"unknown method {message.get('method')!r}")
        return {**reply, "result": method(message.get("params") or {})}
    except RpcError as error:
        return {**reply, "error": error.error}


def main() -> None:
    for line in sys.stdin:
        with LOG.open("a", encoding="utf-8") as log_file:
            log_file.write(line.rstrip("\n") + "\n")
        reply = answer(json.loads(line))
        if reply is not None:
            sys.stdout.write(json.dumps(reply) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
