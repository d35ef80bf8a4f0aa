"""A raw MCP server of one era only, with fields that no library knows. Standard library only.

`raw.py legacy` speaks 2025-11-25, `raw.py modern` 2026-07-28. It keeps count of what it was told:
`seen` returns the methods of every message it had.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

JsonObject = dict[str, Any]
META = "io.modelcontextprotocol/"
MODERN = sys.argv[1] == "modern"
BIG = 123456789012345678901
FORM = {"type": "object", "properties": {"name": {"type": "string"}}, "x-unknown": BIG}
SEEN: list[JsonObject] = []
CAPABILITIES: JsonObject = {}
ANSWERS: dict[str, JsonObject] = {}
ANSWERED = threading.Condition()
CANCELLED: set[Any] = set()
WRITING = threading.Lock()


class Gone(Exception):
    """A resource that is not there."""


def say(message: JsonObject) -> None:
    with WRITING:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def text(value: str, **more: Any) -> JsonObject:
    return {"content": [{"type": "text", "text": value}], **more}


def ask(method: str, params: JsonObject) -> JsonObject:
    """Ask the client, as servers with sessions do; return its whole answer."""
    key = f"q{len(SEEN)}"
    say({"id": key, "method": method, "params": params})
    with ANSWERED:
        ANSWERED.wait_for(lambda: key in ANSWERS, 5)
        return ANSWERS.pop(key, {"error": {"code": 0, "message": "no answer"}})


def greet(params: JsonObject, request_id: Any) -> JsonObject:
    """Ask for a name and greet."""
    question = {"message": "Name?", "requestedSchema": FORM, "unknownField": [BIG]}
    if MODERN:
        given = params.get("inputResponses", {}).get("who")
        if given is None:
            request = {"method": "elicitation/create", "params": question}
            return {"resultType": "input_required", "inputRequests": {"who": request}, "requestState": "mine"}
        return text(f"hello {given['content']['name']} {params.get('requestState')}")
    answer = ask("elicitation/create", question)
    return text(
        "hello " + (answer["result"]["content"]["name"] if "result" in answer else json.dumps(answer))
    )


def pester(params: JsonObject, request_id: Any) -> JsonObject:
    """Ask more than anybody answers at once, the first question under one id twice; say what was refused."""
    keys = [f"p{number}" for number in range(40)]
    for key in (keys[0], *keys):
        say({"id": key, "method": "elicitation/create", "params": {"message": key, "requestedSchema": FORM}})
    with ANSWERED:
        ANSWERED.wait_for(lambda: sum("error" in ANSWERS.get(key, {}) for key in keys) >= 25, 4)
        return text(json.dumps(sorted(key for key in keys if "error" in ANSWERS.get(key, {}))))


def nag(params: JsonObject, request_id: Any) -> JsonObject:
    """Ask one question after the other until one is refused; say how many were not."""
    if MODERN:
        return asking("once more")
    answered = 0
    while "result" in ask("elicitation/create", {"message": "once more", "requestedSchema": FORM}):
        answered += 1
    return text(str(answered))


def beset(params: JsonObject, request_id: Any) -> JsonObject:
    """Never come to an end: have a new question before the last is answered, or ask for no answer at all."""
    if MODERN:
        time.sleep(0.5)
        return asking()
    asked = 0
    while True:
        say({"id": f"b{asked}", "method": "elicitation/create", "params": {"message": "and?"}})
        asked += 1
        time.sleep(0.1)
        with ANSWERED:
            while len(ANSWERS) < asked - 1:
                ANSWERED.wait()


def swarm(params: JsonObject, request_id: Any) -> JsonObject:
    """Ask more at once than anybody reads."""
    return asking(*(f"s{number}" for number in range(17)))


def asking(*questions: str) -> JsonObject:
    """Return a result that asks, as servers without sessions do."""
    requests = {
        question: {"method": "elicitation/create", "params": {"message": question, "requestedSchema": FORM}}
        for question in questions
    }
    return {"resultType": "input_required", "inputRequests": requests, "requestState": "mine"}


def rich(params: JsonObject, request_id: Any) -> JsonObject:
    """Return what no library knows."""
    block = {"type": "hologram", "frames": [BIG], "annotations": {"x": 1.5}}
    return {
        "content": [block],
        "structuredContent": {"n": BIG},
        "extra": {"deep": [None, BIG]},
        "_meta": {"a/b": BIG},
    }


def trace(params: JsonObject, request_id: Any) -> JsonObject:
    return text(json.dumps(params.get("_meta", {})))


def can(params: JsonObject, request_id: Any) -> JsonObject:
    meta = params.get("_meta", {})
    return text(json.dumps(meta.get(META + "clientCapabilities", {}) if MODERN else CAPABILITIES))


def steps(params: JsonObject, request_id: Any) -> JsonObject:
    """Tell of progress, and log."""
    token = params.get("_meta", {}).get("progressToken")
    for step in (1, 2, 3):
        say(
            {
                "method": "notifications/message",
                "params": {"level": "debug" if step == 1 else "error", "data": step},
            }
        )
        if token is not None:
            say(
                {
                    "method": "notifications/progress",
                    "params": {"progressToken": token, "progress": step, "y": BIG},
                }
            )
    return text("done")


def slow(params: JsonObject, request_id: Any) -> JsonObject:
    """Take long, unless cancelled."""
    for _ in range(400):
        if request_id in CANCELLED:
            return text("stopped")
        time.sleep(0.01)
    return text("slept")


def seen(params: JsonObject, request_id: Any) -> JsonObject:
    return text(json.dumps([message.get("method") for message in SEEN]))


_TOOLS = (greet, pester, nag, beset, swarm, rich, trace, can, steps, slow, seen)
TOOLS = {function.__name__: function for function in _TOOLS}


def definition(name: str) -> JsonObject:
    schema = {
        "type": "object",
        "properties": {},
        "$defs": {"x": {"const": BIG}},
        "additionalProperties": False,
    }
    return {"name": name, "inputSchema": schema, "unknownField": {"n": BIG}}


def handle(method: str, params: JsonObject, request_id: Any) -> JsonObject:
    match method:
        case "tools/list":
            return {"tools": [definition(name) for name in TOOLS]}
        case "tools/call":
            return TOOLS[params["name"]](params, request_id)
        case "resources/list":
            names = [f"doc://{sys.argv[1]}/a", "doc://shared/b", "doc://secret/c"]
            return {"resources": [{"uri": uri, "name": uri, "unknownField": BIG} for uri in names]}
        case "resources/templates/list":
            template = {"uriTemplate": f"doc://{sys.argv[1]}/gone/{{name}}", "name": "gone"}
            return {"resourceTemplates": [template]}
        case "resources/read" if "/gone/" in params["uri"]:
            raise Gone(params["uri"])
        case "resources/read":
            return {"contents": [{"uri": params["uri"], "text": sys.argv[1], "unknownField": BIG}]}
        case "prompts/list":
            return {"prompts": [{"name": "hello", "unknownField": BIG}]}
        case "prompts/get":
            said = {"role": "user", "content": {"type": "text", "text": sys.argv[1]}}
            return {"messages": [said], "unknownField": BIG}
        case "completion/complete":
            came = {key: params[key] for key in ("ref", "argument", "context") if key in params}
            return {"completion": {"values": [json.dumps(came)], "unknownField": BIG}}
        case _:
            raise LookupError(method)


def opening(method: str, params: JsonObject) -> JsonObject | None:
    listed: JsonObject = {"tools": {"listChanged": True}, "resources": {}, "prompts": {}}
    offers: JsonObject = {**listed, "completions": {}, "logging": {}}
    if MODERN and method == "server/discover":
        return {"supportedVersions": ["2026-07-28"], "capabilities": offers, "resultType": "complete"}
    if not MODERN and method == "initialize":
        CAPABILITIES.update(params.get("capabilities", {}))
        info = {"name": "raw", "version": "0"}
        return {"protocolVersion": "2025-11-25", "capabilities": offers, "serverInfo": info}
    return None


def serve(message: JsonObject) -> None:
    method, params, request_id = message["method"], message.get("params", {}), message["id"]
    try:
        modern = META + "protocolVersion" in params.get("_meta", {})
        if modern is not MODERN:
            raise LookupError(method)
        result = opening(method, params) or handle(method, params, request_id)
    except Gone as gone:
        code = -32602 if MODERN else -32002
        say({"id": request_id, "error": {"code": code, "message": "not found", "data": {"uri": str(gone)}}})
    except LookupError:
        say({"id": request_id, "error": {"code": -32601, "message": "no such method"}})
    else:
        say({"id": request_id, "result": {"resultType": "complete", **result} if MODERN else result})


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        SEEN.append(message)
        if "method" not in message:
            with ANSWERED:
                ANSWERS[message["id"]] = message
                ANSWERED.notify_all()
        elif "id" in message:
            threading.Thread(target=serve, args=(message,), daemon=True).start()
        elif message["method"] == "notifications/cancelled":
            CANCELLED.add(message["params"]["requestId"])


if __name__ == "__main__":
    main()
