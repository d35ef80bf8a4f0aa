"""A model that says its lines: OpenAI's chat completions on loopback, for harnesses with their own client."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["ScriptedModel", "scripted_model"]


@dataclass(frozen=True)
class ScriptedModel:
    """A serving model: `url` is its base address, `asked` every request's messages, oldest first."""

    url: str
    asked: list[list[dict[str, Any]]] = field(default_factory=list[list[dict[str, Any]]])


@contextmanager
def scripted_model(lines: Sequence[str]) -> Generator[ScriptedModel]:
    """Serve a model whose nth answer in a conversation is the nth of `lines`; the last one from then on."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    model = ScriptedModel(f"http://127.0.0.1:{server.server_address[1]}/v1")
    server.RequestHandlerClass = _handler(model, lines)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield model
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(model: ScriptedModel, lines: Sequence[str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            messages = request["messages"]
            model.asked.append(messages)
            said = sum(message["role"] == "assistant" for message in messages)
            line = lines[min(said, len(lines) - 1)]
            stream = bool(request.get("stream"))
            body = _streamed(request["model"], line) if stream else _whole(request["model"], line)
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream" if stream else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the tests' output is theirs."""

    return Handler


_USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


def _whole(model: str, line: str) -> bytes:
    message = {"role": "assistant", "content": line}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return json.dumps(_completion(model, "chat.completion", choice) | {"usage": _USAGE}).encode()


def _streamed(model: str, line: str) -> bytes:
    said: dict[str, Any] = {
        "index": 0,
        "finish_reason": None,
        "delta": {"role": "assistant", "content": line},
    }
    end: dict[str, Any] = {"index": 0, "finish_reason": "stop", "delta": {}}
    chunks = [_completion(model, "chat.completion.chunk", choice) for choice in (said, end)]
    chunks[-1] |= {"usage": _USAGE}
    return "".join(f"data: {text}\n\n" for text in [*map(json.dumps, chunks), "[DONE]"]).encode()


def _completion(model: str, kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {"id": "scripted", "object": kind, "created": 0, "model": model, "choices": [choice]}
