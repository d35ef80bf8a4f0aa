"""Many episodes in one request, side by side. Translates, decides nothing.

    POST /batch/reset  {episodes: [{session_id?, seed?, task?, ...}, ...]}      -> {results: [RESULT, ...]}
    POST /batch/step   {steps: [{session_id, action, timeout_s?}, ...]}         -> {results: [RESULT, ...]}

`RESULT` is `{session_id, observation, reward, done, metadata}`, or `{session_id, error: {code, message}}`
with the codes of error frames; results stand in the order of their entries, and a bad entry harms no
other. Steps on one session are taken in the order they are listed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, TypeAlias

import anyio
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway.core.calls import Principal
from gateway.core.json_types import JsonObject, JsonValue
from gateway.errors import SandgateError
from gateway.runtime.episodes import Episodes
from gateway.serve.gate import GateLimits
from gateway.serve.identity import principal_of
from gateway.serve.openenv.bodies import body_of, gated, is_gone, json_response, told
from gateway.serve.openenv.wire import (
    ErrorCode,
    FieldsModel,
    WireError,
    error_frame,
    parse_reset,
    parse_step_body,
    validated,
)

__all__ = ["batch_routes"]

logger = logging.getLogger(__name__)

_MOST_ENTRIES = 1000
_Entries: TypeAlias = Annotated[list[Any], Field(max_length=_MOST_ENTRIES)]
_Play: TypeAlias = Callable[[Principal, JsonObject], Awaitable[JsonObject]]


class _Resets(FieldsModel):
    episodes: _Entries


class _Steps(FieldsModel):
    steps: _Entries


def batch_routes(episodes: Episodes, pack: str, prefix: str, limits: GateLimits) -> list[BaseRoute]:
    """Return the routes of one pack below `prefix`."""
    http = _BatchHttp(episodes, pack)
    return [
        Route(f"{prefix}/batch/reset", told(http.reset), methods=["POST"], middleware=gated(limits)),
        Route(f"{prefix}/batch/step", told(http.step), methods=["POST"], middleware=gated(limits)),
    ]


class _BatchHttp:
    """The handlers of one pack."""

    def __init__(self, episodes: Episodes, pack: str) -> None:
        self._episodes = episodes
        self._pack = pack

    async def reset(self, request: Request) -> Response:
        entries = validated(_Resets, body_of(request)).episodes
        results = await _side_by_side(entries, self._reset, request)
        if await is_gone(request):
            await self._end_unheard(principal_of(request.scope), entries, results)
        return json_response({"results": list[JsonValue](results)})

    async def step(self, request: Request) -> Response:
        entries = validated(_Steps, body_of(request)).steps
        results = await _side_by_side(entries, self._step, request)
        return json_response({"results": list[JsonValue](results)})

    async def _end_unheard(
        self, principal: Principal, entries: list[Any], results: Sequence[JsonObject]
    ) -> None:
        """End the sessions whose ids nobody has heard: they would hold their places until idle too long."""
        for entry, result in zip(entries, results, strict=True):
            if "error" not in result and entry.get("session_id") is None:
                await self._episodes.find(self._pack, str(result["session_id"]), principal).aclose()

    async def _reset(self, principal: Principal, entry: JsonObject) -> JsonObject:
        wanted = parse_reset(entry)
        named = entry.get("session_id")
        asked = None if named is None else _session_id(entry)
        result = await self._episodes.reset(self._pack, principal, asked, wanted)
        return {"session_id": result.metadata["session_id"], **result.wire()}

    async def _step(self, principal: Principal, entry: JsonObject) -> JsonObject:
        session_id, step = _session_id(entry), parse_step_body(entry)
        session = self._episodes.find(self._pack, session_id, principal)
        return {"session_id": session_id, **(await session.step(step.action, step.seconds)).wire()}


async def _side_by_side(entries: list[Any], play: _Play, request: Request) -> list[JsonObject]:
    principal = principal_of(request.scope)
    results: list[JsonObject] = [{}] * len(entries)

    async def one(place: int, entry: JsonValue) -> None:
        results[place] = await _told(play, principal, entry)

    async with anyio.create_task_group() as tasks:
        for place, entry in enumerate(entries):
            tasks.start_soon(one, place, entry)
    return results


async def _told(play: _Play, principal: Principal, entry: JsonValue) -> JsonObject:
    """Return an entry's result, or its error in the place of one."""
    fields = entry if isinstance(entry, dict) else {}
    shown: JsonValue
    try:
        if not isinstance(entry, dict):
            raise WireError(ErrorCode.VALIDATION_ERROR, "an entry is a JSON object")
        return await play(principal, entry)
    except SandgateError as error:
        shown = error_frame(error)[0]["data"]
    except Exception:
        # The border of the batch: what went wrong inside is for the log, and the others' business goes on.
        logger.exception("an entry of a batch failed")
        shown = {"message": "internal error", "code": ErrorCode.SESSION_ERROR.value}
    return {"session_id": fields.get("session_id"), "error": shown}


def _session_id(entry: JsonObject) -> str:
    session_id = entry.get("session_id")
    if not isinstance(session_id, str):
        raise WireError.at("session_id", "'session_id' is a string", "string_type")
    return session_id
