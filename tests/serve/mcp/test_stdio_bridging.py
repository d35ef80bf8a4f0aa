"""All that passes over HTTP passes over standard input and output, in both eras."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.gateways import copy_pack
from tests.support.mcp_http import LEGACY, modern_meta
from tests.support.processes import sandgate_argv

FORMS: dict[str, Any] = {"elicitation": {}}
ALICE = {"action": "accept", "content": {"name": "Alice"}}


class Client:
    """One client at the pipes of `sandgate stdio`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout
        self._id = 0

    def say(self, message: dict[str, Any]) -> None:
        self._in.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        self._in.flush()

    def hear(self) -> dict[str, Any]:
        line = self._out.readline()
        assert line, "the gateway ended"
        return json.loads(line)

    def ask(self, method: str, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Send a request; return all that comes up to its answer. Questions are answered on the way."""
        self._id += 1
        self.say({"id": self._id, "method": method, "params": params or {}})
        heard: list[dict[str, Any]] = []
        while True:
            message = self.hear()
            heard.append(message)
            if "method" not in message and message.get("id") == self._id:
                return heard
            if "id" in message:
                self.say({"id": message["id"], "result": ALICE})


@contextmanager
def client(tmp_path: Path) -> Generator[Client]:
    pack = copy_pack("bridge", tmp_path).folder
    process = subprocess.Popen(
        sandgate_argv("stdio", str(pack), "--state", str(tmp_path / "state")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        yield Client(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0


def test_a_session_over_pipes_has_questions_progress_resources_and_prompts(tmp_path: Path) -> None:
    with client(tmp_path) as mcp:
        about = {"name": "t", "version": "0"}
        opening = {"protocolVersion": LEGACY, "capabilities": FORMS, "clientInfo": about}
        (opened,) = mcp.ask("initialize", opening)
        offers = opened["result"]["capabilities"]
        assert offers.keys() >= {"tools", "resources", "prompts", "logging"}
        mcp.say({"method": "notifications/initialized"})
        for tool in ("old_greet", "new_greet"):
            question, answer = mcp.ask("tools/call", {"name": tool, "arguments": {}})
            assert question["method"] == "elicitation/create"
            assert answer["result"]["content"][0]["text"].startswith("hello Alice")
        call = {"name": "new_steps", "arguments": {}, "_meta": {"progressToken": 7}}
        said = [message["method"] for message in mcp.ask("tools/call", call)[:-1]]
        assert said == ["notifications/message", "notifications/progress"] * 3
        (read,) = mcp.ask("resources/read", {"uri": "doc://modern/a"})
        assert read["result"]["contents"][0]["text"] == "modern"
        (got,) = mcp.ask("prompts/get", {"name": "old_hello"})
        assert got["result"]["messages"][0]["content"]["text"] == "legacy"


def test_a_caller_without_a_session_over_pipes_is_asked_by_the_result(tmp_path: Path) -> None:
    meta = {"_meta": modern_meta(**{"io.modelcontextprotocol/clientCapabilities": FORMS})}
    with client(tmp_path) as mcp:
        (found,) = mcp.ask("server/discover", meta)
        assert "resources" in found["result"]["capabilities"]
        for tool in ("old_greet", "new_greet"):
            call = {"name": tool, "arguments": {}, **meta}
            (asked,) = mcp.ask("tools/call", call)
            ((key, _),) = asked["result"]["inputRequests"].items()
            retry = {**call, "inputResponses": {key: ALICE}, "requestState": asked["result"]["requestState"]}
            (done,) = mcp.ask("tools/call", retry)
            assert done["result"]["content"][0]["text"].startswith("hello Alice")
        (absent,) = mcp.ask("logging/setLevel", {"level": "info", **meta})
        assert absent["error"]["code"] == -32601
