"""The OpenAPI 3.1 document of an environment, as `/openapi.json` tells it. Data only.

Stock clients read two things from it: `info.version` (of the contract, 1.x) and whether `/reset`,
`/step` and `/state` are among the paths, which they are exactly where episodes can be played.
"""

from __future__ import annotations

from gateway.core.json_types import JsonObject, JsonValue
from gateway.serve.openenv.schemas import schemas

__all__ = ["CONTRACT_VERSION", "openapi"]

CONTRACT_VERSION = "1.0.0"
"""Of the HTTP contract; a pack has its own version in `/metadata`."""

_ANY: JsonObject = {"type": "object"}
_TASKS: JsonObject = {"tasks": {"type": "array", "items": _ANY}}


def openapi(name: str, description: str, *, server: str, playable: bool) -> JsonObject:
    """Return the document; `server` is the path that the routes stand below."""
    told = schemas()
    parts: JsonObject = {
        "Action": told["action"],
        "Observation": told["observation"],
        "State": told["state"],
        "StepResult": _step_result(),
        "Error": _error(),
    }
    paths = {**_told_always(), **(_control() | _batch() | _tasks() if playable else {})}
    return {
        "openapi": "3.1.0",
        "info": {"title": name, "version": CONTRACT_VERSION, "description": description},
        "servers": [{"url": server}],
        "paths": paths,
        "components": {"schemas": parts},
    }


def _ref(part: str) -> JsonObject:
    return {"$ref": f"#/components/schemas/{part}"}


def _fields(properties: JsonObject, *required: str) -> JsonObject:
    return {"type": "object", "properties": properties, "required": list[JsonValue](required)}


def _step_result() -> JsonObject:
    shared: JsonObject = {"reward": {"type": ["number", "null"]}, "done": {"type": "boolean"}}
    return _fields({"observation": _ref("Observation"), **shared}, "observation", "reward", "done")


def _error() -> JsonObject:
    text: JsonObject = {"type": "string"}
    return _fields({"error": text, "message": text}, "error", "message")


def _get(summary: str, answer: JsonObject, *parameters: JsonValue) -> JsonObject:
    asked: JsonObject = {"parameters": list(parameters)} if parameters else {}
    return {"get": {"summary": summary, **asked, "responses": _responses(answer)}}


def _post(summary: str, body: JsonObject, answer: JsonObject, *parameters: JsonValue) -> JsonObject:
    asked: JsonObject = {"parameters": list(parameters)} if parameters else {}
    content: JsonObject = {"content": {"application/json": {"schema": body}}}
    return {"post": {"summary": summary, **asked, "requestBody": content, "responses": _responses(answer)}}


def _responses(answer: JsonObject) -> JsonObject:
    def of(description: str, schema: JsonObject) -> JsonObject:
        return {"description": description, "content": {"application/json": {"schema": schema}}}

    return {"200": of("Done.", answer), "default": of("Refused; the message says why.", _ref("Error"))}


def _told_always() -> JsonObject:
    schema = _fields({"action": _ANY, "observation": _ANY, "state": _ANY}, "action", "observation", "state")
    text: JsonObject = {"type": "string"}
    about = _fields({"name": text, "description": text, "version": text}, "name", "description")
    return {
        "/health": _get("Whether the server lives.", _fields({"status": {"const": "healthy"}}, "status")),
        "/metadata": _get("What this environment is.", about),
        "/schema": _get("JSON Schemas of actions, observations and state.", schema),
        "/mcp": _post("Model Context Protocol (Streamable HTTP).", _ANY, _ANY),
    }


def _control() -> JsonObject:
    header: JsonObject = {"name": "X-Session-ID", "in": "header", "schema": {"type": "string"}}
    text: JsonObject = {"type": ["string", "null"]}
    number: JsonObject = {"type": ["integer", "null"], "minimum": 0}
    chosen: JsonObject = {"task": text, "split": text, "index": number, "snapshot": text}
    start = _fields({"seed": number, "episode_id": text, **chosen, "session_id": text})
    seconds: JsonObject = {"type": ["number", "null"], "exclusiveMinimum": 0}
    own: JsonObject = {"timeout_s": seconds, "request_id": text, "session_id": text}
    step = _fields({"action": _ref("Action"), **own}, "action")
    return {
        "/reset": _post("Start an episode in a pristine workspace.", start, _ref("StepResult"), header),
        "/step": _post("Take one step.", step, _ref("StepResult"), header),
        "/state": _get("Where the episode stands.", _ref("State"), header),
    }


def _batch() -> JsonObject:
    entries: JsonObject = {"type": "array", "items": _ANY}
    results = _fields({"results": entries}, "results")
    return {
        "/batch/reset": _post("Start many episodes.", _fields({"episodes": entries}, "episodes"), results),
        "/batch/step": _post("Take many steps.", _fields({"steps": entries}, "steps"), results),
    }


def _tasks() -> JsonObject:
    env: JsonObject = {"name": "env", "in": "path", "required": True, "schema": {"type": "string"}}
    split: JsonObject = {"split": {"type": "string"}}
    index: JsonObject = {"type": "integer"}
    bound: JsonObject = {"type": ["integer", "null"]}
    part = _fields({**split, "start": bound, "stop": bound}, "split")
    names: JsonObject = {"type": "array", "items": {"type": "string"}}
    splits: JsonObject = {"type": "array", "items": _ANY}
    one, counted = _fields({"task": _ANY}, "task"), _fields({"num_tasks": index}, "num_tasks")
    ask = _fields(split, "split")
    return {
        "/list_environments": _get("The environments served here.", names),
        "/{env}/splits": _get("The splits that have tasks.", splits, env),
        "/{env}/tasks": _post("The tasks of a split.", ask, _fields(_TASKS, "tasks"), env),
        "/{env}/num_tasks": _post("How many tasks a split has.", ask, counted, env),
        "/{env}/task": _post("One task.", _fields({**split, "index": index}, "split", "index"), one, env),
        "/{env}/task_range": _post("Some tasks in order.", part, _fields(_TASKS, "tasks"), env),
    }
