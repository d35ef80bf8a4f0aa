"""A tool server that misbehaves on request. Runs in a process of its own; standard library only.

Each tool's name is the misbehaviour. `initialize` and `tools/list` are answered properly unless the
first argument names a misbehaviour for them.
"""

import json
import os
import sys
import time
from typing import Any

SCHEMA = {"type": "object", "additionalProperties": True}
NAMES = [
    "fine",
    "crash",
    "exit",
    "silent",
    "close_stdout",
    "garbage",
    "invalid_utf8",
    "big_line",
    "endless",
    "twice",
    "wrong_id",
    "string_id",
    "duplicate_keys",
    "nan",
    "batch",
    "no_result",
    "rpc_error",
    "not_an_object",
    "log_first",
    "ping_first",
    "stop_reading",
    "ask_and_stop_reading",
    "change_tools",
    "stderr_flood",
    "flood_words",
    "flood_objects",
    "flood_blanks",
    "flood_line",
    "count",
    "huge_int",
]


def out(raw: bytes) -> None:
    sys.stdout.buffer.write(raw)
    sys.stdout.buffer.flush()


def reply(request_id: object, result: object) -> None:
    out(json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}).encode() + b"\n")


def text(value: object) -> dict[str, object]:
    return {"content": [{"type": "text", "text": str(value)}]}


class Server:
    def __init__(self, start: str) -> None:
        self.start = start
        self.calls = 0
        self.tools = list(NAMES)

    def handle(self, message: dict[str, object]) -> None:
        method, request_id = message.get("method"), message.get("id")
        if method == "initialize":
            self.initialize(request_id)
        elif method == "tools/list" and self.start == "endless_list":
            tool = {"name": "t", "description": "x" * 500_000, "inputSchema": SCHEMA}
            reply(request_id, {"tools": [tool], "nextCursor": "more"})
        elif method == "tools/list":
            extra = "changed" if "changed" in self.tools else "as listed"
            reply(
                request_id,
                {"tools": [{"name": n, "description": extra, "inputSchema": SCHEMA} for n in NAMES]},
            )
        elif method == "tools/call":
            self.calls += 1
            params: Any = message["params"]
            getattr(self, params["name"])(request_id)

    def initialize(self, request_id: object) -> None:
        if self.start == "exit":
            sys.exit(3)
        if self.start == "silent":
            return
        version = "1999-01-01" if self.start == "old" else "2025-11-25"
        info = {"name": "hostile", "version": "1"}
        reply(request_id, {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info})

    def fine(self, i: object) -> None:
        reply(i, text("fine"))

    def count(self, i: object) -> None:
        reply(i, text(self.calls))

    def crash(self, i: object) -> None:
        os.kill(os.getpid(), 9)

    def exit(self, i: object) -> None:
        sys.exit(7)

    def silent(self, i: object) -> None:
        pass

    def garbage(self, i: object) -> None:
        out(b"INFO starting up\n{not json\n]]]\n\x00\x01\n")
        reply(i, text("after garbage"))

    def invalid_utf8(self, i: object) -> None:
        out(b'{"jsonrpc":"2.0","id":%d,"result":{"content":"\xff\xfe"}}\n' % i)  # type: ignore[arg-type]

    def big_line(self, i: object) -> None:
        out(b'{"jsonrpc":"2.0","id":%d,"result":{"content":"' % i + b"x" * 3_000_000 + b'"}}\n')  # type: ignore[arg-type]

    def endless(self, i: object) -> None:
        out(b'{"jsonrpc":"2.0","id":%d,"result":{"x":"' % i)  # type: ignore[arg-type]
        for _ in range(200):
            out(b"x" * 100_000)
        out(b"\n")

    def twice(self, i: object) -> None:
        reply(i, text("first"))
        reply(i, text("second"))

    def wrong_id(self, i: object) -> None:
        reply(99999, text("not yours"))
        reply(i, text("yours"))

    def string_id(self, i: object) -> None:
        reply(str(i), text("not yours"))
        reply(i, text("yours"))

    def duplicate_keys(self, i: object) -> None:
        out(b'{"jsonrpc":"2.0","id":%d,"result":{"a":1,"a":2}}\n' % i)  # type: ignore[arg-type]

    def nan(self, i: object) -> None:
        out(b'{"jsonrpc":"2.0","id":%d,"result":{"a":NaN}}\n' % i)  # type: ignore[arg-type]

    def batch(self, i: object) -> None:
        out(b'[{"jsonrpc":"2.0","id":%d,"result":{}}]\n' % i)  # type: ignore[arg-type]
        reply(i, text("after batch"))

    def no_result(self, i: object) -> None:
        out(b'{"jsonrpc":"2.0","id":%d}\n' % i)  # type: ignore[arg-type]

    def rpc_error(self, i: object) -> None:
        error = {"code": -32050, "message": "server says no", "data": {"why": [1, 2]}}
        out(json.dumps({"jsonrpc": "2.0", "id": i, "error": error}).encode() + b"\n")

    def not_an_object(self, i: object) -> None:
        reply(i, [1, 2])

    def log_first(self, i: object) -> None:
        out(b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}\n')
        reply(i, text("logged"))

    def ping_first(self, i: object) -> None:
        out(b'{"jsonrpc":"2.0","id":"p1","method":"ping"}\n')
        out(b'{"jsonrpc":"2.0","id":"p2","method":"sampling/createMessage","params":{}}\n')
        answers = [json.loads(sys.stdin.buffer.readline()) for _ in range(2)]
        reply(i, text(json.dumps(answers)))

    def stop_reading(self, i: object) -> None:
        reply(i, text("now I stop reading"))
        time.sleep(60)

    def ask_and_stop_reading(self, i: object) -> None:
        out(b'{"jsonrpc":"2.0","id":"q","method":"roots/list"}\n')
        time.sleep(60)

    def change_tools(self, i: object) -> None:
        self.tools.append("changed")
        out(b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n')
        reply(i, text("changed"))

    def stderr_flood(self, i: object) -> None:
        for _ in range(400):
            sys.stderr.buffer.write(b"e" * 10_000 + b"\n")
        reply(i, text("flooded"))

    def flood(self, line: bytes) -> None:
        while True:
            out(line * 50_000)

    def flood_words(self, i: object) -> None:
        self.flood(b"x\n")

    def flood_objects(self, i: object) -> None:
        self.flood(b"{}\n")

    def flood_blanks(self, i: object) -> None:
        self.flood(b"\n")

    def flood_line(self, i: object) -> None:
        self.flood(b"x")

    def huge_int(self, i: object) -> None:
        out(b'{"jsonrpc":"2.0","id":%d,"result":{"content":[],"n":123456789012345678901}}\n' % i)  # type: ignore[arg-type]


def main() -> None:
    server = Server(sys.argv[1] if len(sys.argv) > 1 else "")
    for line in sys.stdin.buffer:
        server.handle(json.loads(line))


if __name__ == "__main__":
    main()
