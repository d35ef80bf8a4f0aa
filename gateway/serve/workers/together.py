"""Routes that speak for the whole gateway: every worker is asked, and the answers become one.

    GET  /metrics /ready /api/sessions /api/sandboxes /api/approvals    summed, or listed together
    DELETE /api/sessions/ID, POST /api/approvals/ID                     by whichever worker knows the id
    POST .../batch/reset .../batch/step                                 each entry by the worker that has it

Identity and roles are every worker's own business: nothing is merged but what each would have shown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from itertools import cycle
from typing import TypeAlias

import anyio
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core import strict_json
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.strict_json import JsonLimits, StrictJsonError
from gateway.runtime.gateway import Gateway
from gateway.serve.gate import GateLimits
from gateway.serve.metrics import merged_metrics
from gateway.serve.workers.asking import Answer, Colleagues, answered_by, inner_scope
from gateway.serve.workers.bodies import whole_body

__all__ = ["Together"]

_Route: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
_LISTS = ("/api/sessions", "/api/sandboxes", "/api/approvals")
_BY_ID = {"DELETE": "/api/sessions/", "POST": "/api/approvals/"}
_OWN_ANSWERS = JsonLimits(max_bytes=2**31, max_keys=2**31, max_values=2**31, max_depth=256)
_NO_STORE = {"Cache-Control": "no-store"}


class Together:
    """ASGI application: `app` of this worker, and of the others where it takes all of them."""

    def __init__(self, app: ASGIApp, gateway: Gateway, colleagues: Colleagues, limits: GateLimits) -> None:
        self._app = app
        self._places = gateway.places
        self._colleagues = colleagues
        self._limits = limits
        self._turns = cycle([colleagues.own, *colleagues.others])
        self._gets: dict[str, _Route] = {
            "/metrics": self._metrics,
            "/ready": self._ready,
            **dict.fromkeys(_LISTS, self._listed),
        }
        prefixes = [f"/packs/{pack}" for pack in gateway.packs]
        prefixes += [""] if len(prefixes) == 1 else []
        self._batches = {
            f"{prefix}/batch/{what}": key
            for prefix in prefixes
            for what, key in (("reset", "episodes"), ("step", "steps"))
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await (self._route(scope) or self._app)(scope, receive, send)

    def _route(self, scope: Scope) -> _Route | None:
        if scope["type"] != "http":
            return None
        method, path = scope["method"], scope["path"]
        if method == "GET":
            return self._gets.get(path)
        if method == "POST" and path in self._batches:
            return self._batch
        return self._by_id if path.startswith(_BY_ID.get(method, "?")) else None

    async def _own(self, scope: Scope, body: bytes = b"") -> Answer:
        return await answered_by(self._app, inner_scope(scope, body), body)

    # -- asked of all

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        accept = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"accept"), "")
        own = await self._own(scope)
        if own.status != 200:
            await _respond(own, scope, receive, send)
            return
        others = (await self._colleagues.ask_all(scope)).values()
        pages = [own.body, *(answer.body for answer in others if answer and answer.status == 200)]
        body, media_type = merged_metrics([page.decode() for page in pages], accept)
        await Response(body, headers={"Content-Type": media_type, **_NO_STORE})(scope, receive, send)

    async def _listed(self, scope: Scope, receive: Receive, send: Send) -> None:
        own = await self._own(scope)
        entries = _json(own)
        if own.status != 200 or not isinstance(entries, list):
            await _respond(own, scope, receive, send)
            return
        for answer in (await self._colleagues.ask_all(scope)).values():
            more = _json(answer) if answer is not None and answer.status == 200 else None
            entries += more if isinstance(more, list) else []
        # What waits is shown oldest first.
        entries.sort(key=lambda entry: _number(entry, "created"))
        await _say(200, entries)(scope, receive, send)

    async def _ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        own = _object(await self._own(scope))
        answers = await self._colleagues.ask_all(scope)
        each = {self._colleagues.own: own}
        each |= {worker: {} if answer is None else _object(answer) for worker, answer in answers.items()}
        ready = all(said.get("ready") is True for said in each.values())
        document: JsonObject = {**own, "ready": ready}
        if len(own) > 1:  # a stranger is told the verdict only
            document |= _readiness(each)
        headers = _NO_STORE | ({} if ready else {"Retry-After": "5"})
        await _say(200 if ready else 503, document, headers)(scope, receive, send)

    # -- of whoever knows it

    async def _by_id(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, receive = await whole_body(scope, receive, self._limits)
        if body is None:
            await self._app(scope, receive, send)
            return
        own = await self._own(scope, body)
        if own.status == 404:
            for answer in (await self._colleagues.ask_all(scope, body, seconds=30.0)).values():
                if answer is not None and answer.status != 404:
                    own = answer
        await _respond(own, scope, receive, send)

    async def _batch(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = self._batches[scope["path"]]
        body, receive = await whole_body(scope, receive, self._limits)
        entries = None if body is None else _entries(body, key, self._limits)
        if entries is None:
            await self._app(scope, receive, send)  # which says what is wrong with it
            return
        groups: dict[int, list[int]] = {}
        for index, entry in enumerate(entries):
            groups.setdefault(self._holder(entry), []).append(index)
        results: list[JsonValue] = [None] * len(entries)
        refused: list[Answer] = []

        async def one(worker: int, places: list[int]) -> None:
            part = strict_json.dumps({key: [entries[place] for place in places]})
            answer = (
                None if worker == self._colleagues.own else await self._colleagues.ask(worker, scope, part)
            )
            answer = answer or await self._own(scope, part)
            told = _object(answer).get("results")
            if answer.status == 200 and isinstance(told, list):
                for place, result in zip(places, told, strict=True):
                    results[place] = result
            else:
                refused.append(answer)

        async with anyio.create_task_group() as tasks:
            for worker, places in groups.items():
                tasks.start_soon(one, worker, places)
        if refused:
            await _respond(refused[0], scope, receive, send)
        else:
            await _say(200, {"results": results})(scope, receive, send)

    def _holder(self, entry: JsonValue) -> int:
        """Return who plays an entry: the worker of its session or snapshot, else the next in turn."""
        named = entry if isinstance(entry, dict) else {}
        for table, name in ((self._places.episodes, "session_id"), (self._places.snapshots, "snapshot")):
            if isinstance(wanted := named.get(name), str):
                return table.holder(wanted) or self._colleagues.own
        return next(self._turns)


def _readiness(each: Mapping[int, JsonObject]) -> JsonObject:
    """Return what `/ready` says of all workers together."""
    workers: list[JsonValue] = [
        {"worker": worker, "ready": said.get("ready") is True, "sessions": said.get("sessions")}
        for worker, said in sorted(each.items())
    ]
    ledgers = [said["ledger"] for said in each.values() if "ledger" in said]
    return {
        "ledger": next((ledger for ledger in ledgers if ledger != "ok"), "ok"),
        "draining": any(said.get("draining") is True for said in each.values()),
        "sessions": sum(int(_number(said, "sessions")) for said in each.values()),
        "warm": sum(int(_number(said, "warm")) for said in each.values()),
        "workers": workers,
    }


def _entries(body: bytes, key: str, limits: GateLimits) -> list[JsonValue] | None:
    try:
        document = strict_json.loads(body, JsonLimits(max_bytes=limits.max_body))
    except StrictJsonError:
        return None
    entries = document.get(key) if isinstance(document, dict) else None
    return entries if isinstance(entries, list) else None


def _json(answer: Answer) -> JsonValue:
    try:
        return strict_json.loads(answer.body, _OWN_ANSWERS)
    except StrictJsonError:
        return None


def _object(answer: Answer) -> JsonObject:
    document = _json(answer)
    return document if isinstance(document, dict) else {}


def _number(entry: JsonValue, field: str) -> float:
    value = entry.get(field) if isinstance(entry, dict) else None
    return float(value) if isinstance(value, int | float) else 0.0


def _say(status: int, document: JsonValue, headers: Mapping[str, str] = _NO_STORE) -> Response:
    return Response(strict_json.dumps(document), status, headers, "application/json")


async def _respond(answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
    response = Response(answer.body, answer.status, media_type="application/json")
    if answer.headers:
        response.raw_headers = list(answer.headers)
    await response(scope, receive, send)
