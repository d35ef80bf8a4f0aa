"""A trainer's side over the OpenEnv wire: reset to a task, take steps, print JSON lines.

    python examples/env_client.py ws://127.0.0.1:8000/ws '{"task": "fix-typo", "seed": 7}' \
        '{"type": "call_tool", "tool_name": "git_log", "arguments": {"repo_path": "/workspace"}}' \
        '{"type": "submit", "answer": "done"}'

After the URL come the data of `reset` and then one action per argument. Only a WebSocket library
is needed: the wire is plain JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from websockets.sync.client import ClientConnection, connect


def main(url: str, reset: str, *actions: str) -> None:
    """Play one episode against the env front at `url`."""
    with connect(url, max_size=None) as socket:
        exchange(socket, "reset", json.loads(reset))
        for action in actions:
            exchange(socket, "step", json.loads(action))


def exchange(socket: ClientConnection, kind: str, data: dict[str, Any]) -> None:
    """Send one frame, and print its answer with how long it took; exit if the server calls it wrong."""
    started = time.perf_counter()
    socket.send(json.dumps({"type": kind, "data": data}))
    answer: dict[str, Any] = json.loads(socket.recv())
    milliseconds = (time.perf_counter() - started) * 1000
    print(json.dumps({"sent": kind, **answer, "ms": round(milliseconds, 1)}, ensure_ascii=False), flush=True)
    if answer["type"] == "error":
        sys.exit(1)


if __name__ == "__main__":
    address, start, *steps = sys.argv[1:]
    main(address, start, *steps)
