"""Resources, prompts, completion and log levels over raw parameters: everything but tools.

Reading, subscribing, getting and completing are calls and go down the path of a call; listings ask the
session's servers live. Translates, never decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import anyio
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS

from gateway.core.calls import Answered, Denied, Failed, Front, Method, Outcome, ServerError, Target, ToolCall
from gateway.core.decisions import DecisionCode
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.results import DECISION_META_KEY, failure_text
from gateway.runtime.sessions import Session, new_call_id
from gateway.runtime.upstream.listings import Listing
from gateway.serve.mcp.calling import Calling
from gateway.serve.mcp.calls import error_of_server
from gateway.serve.mcp.envelope import end_to_end_meta, is_modern
from gateway.serve.mcp.peers import LEVEL_STATE, LOG_LEVELS
from gateway.serve.mcp.requests import RequestContext, meta_of, params_of, text_param
from gateway.serve.mcp.sessions import connection_of

__all__ = ["OfferFront"]

_DENIED = 403
_NO_ANSWER = 502
_NOT_FOUND = -32002
_UNAVAILABLE = "sandgate/unavailable"


class OfferFront:
    """What servers offer beside tools."""

    def __init__(self, calling: Calling) -> None:
        self._calling = calling
        self._directory = calling.directory

    # -- listings

    async def list_resources(self, ctx: RequestContext) -> JsonObject:
        """Return the resources of every pack that the policy shows; of one URI the first."""
        return await self._list(ctx, Listing.RESOURCES, "uri")

    async def list_templates(self, ctx: RequestContext) -> JsonObject:
        """Return the resource templates of every pack that the policy shows."""
        return await self._list(ctx, Listing.TEMPLATES, "uriTemplate")

    async def list_prompts(self, ctx: RequestContext) -> JsonObject:
        """Return the prompts of every pack that the policy shows, under the endpoint's names."""
        return await self._list(ctx, Listing.PROMPTS, "name")

    async def _list(self, ctx: RequestContext, what: Listing, key: str) -> JsonObject:
        if params_of(ctx).get("cursor") is not None:
            raise MCPError(INVALID_PARAMS, f"no such cursor: {what.key} are listed on one page")
        by_pack: dict[str, list[JsonObject]] = {}
        missing: list[JsonValue] = []

        async def of_pack(pack: str, session: Session) -> None:
            offered = await session.offerings.list(what)
            by_pack[pack] = [item for items in offered.items.values() for item in items]
            missing.extend(f"{pack}.{server}" for server in offered.failed)

        sessions = {pack: await self._calling.session(ctx, pack) for pack in self._directory.packs}
        async with anyio.create_task_group() as tasks:
            for pack, session in sessions.items():
                tasks.start_soon(of_pack, pack, session)
        items: dict[str, JsonValue] = {}
        for pack in self._directory.packs:
            for item in by_pack[pack]:
                name = str(item.get(key))
                shown = self._directory.shown(pack, name) if what is Listing.PROMPTS else name
                items.setdefault(shown, {**item, key: shown})
        result: JsonObject = {what.key: list(items.values())}
        if missing:
            result["_meta"] = {_UNAVAILABLE: missing}
        return self._calling.enveloped(ctx, result, listing=True)

    # -- calls

    async def read_resource(self, ctx: RequestContext) -> JsonObject:
        """Read a resource."""
        return await self._about_resource(ctx, Method.READ_RESOURCE)

    async def subscribe(self, ctx: RequestContext) -> JsonObject:
        """Have the client told of a resource's changes."""
        return await self._about_resource(ctx, Method.SUBSCRIBE)

    async def unsubscribe(self, ctx: RequestContext) -> JsonObject:
        """End that."""
        return await self._about_resource(ctx, Method.UNSUBSCRIBE)

    async def _about_resource(self, ctx: RequestContext, method: Method) -> JsonObject:
        uri = text_param(params_of(ctx), "uri")
        session, server = await self._owner(ctx, uri)
        call = _call(ctx, method, "resource", uri, server)
        return await self._answer(
            ctx, session, call, f"Resource not found: {uri[:256]}", {"uri": uri[:8_192]}
        )

    async def follow(self, ctx: RequestContext, uri: str) -> Session | None:
        """Subscribe to a resource for a stream of notifications; `None` where that is not granted."""
        session, server = await self._owner(ctx, uri)
        call = ToolCall(
            new_call_id(), uri, {}, Front.MCP, method=Method.SUBSCRIBE, target="resource", server=server
        )
        outcome = await self._calling.run(ctx, session, call)
        return session if isinstance(outcome, Answered) else None

    async def get_prompt(self, ctx: RequestContext) -> JsonObject:
        """Get a prompt."""
        params = params_of(ctx)
        name, arguments = text_param(params, "name"), _strings(params.get("arguments"))
        session, server, own = await self._prompt(ctx, name)
        call = _call(ctx, Method.GET_PROMPT, "prompt", own, server, arguments)
        return await self._answer(ctx, session, call, f"Unknown prompt: {name[:128]}", {})

    async def complete(self, ctx: RequestContext) -> JsonObject:
        """Complete an argument of a prompt or template: judged as what it completes."""
        params = params_of(ctx)
        ref, argument = params.get("ref"), params.get("argument")
        if not isinstance(ref, dict) or not isinstance(argument, dict):
            raise MCPError(INVALID_PARAMS, "completion has ref (object) and argument (object)")
        kept = {key: params[key] for key in ("argument", "context") if key in params}
        if ref.get("type") not in ("ref/prompt", "ref/resource"):
            raise MCPError(INVALID_PARAMS, "a completion's ref is a ref/prompt or a ref/resource")
        if ref["type"] == "ref/prompt":
            session, server, own = await self._prompt(ctx, text_param(ref, "name"))
            call = _call(ctx, Method.COMPLETE, "prompt", own, server, _completing(params, argument))
            call = replace(call, params={**kept, "ref": {**ref, "name": own}})
        else:
            uri = text_param(ref, "uri")
            session, server = await self._owner(ctx, uri)
            call = replace(_call(ctx, Method.COMPLETE, "resource", uri, server), params={**kept, "ref": ref})
        return await self._answer(ctx, session, call, "nothing to complete by that reference", {})

    async def set_level(self, ctx: RequestContext) -> JsonObject:
        """Take note of the log level that a client with a session wants, and tell its servers."""
        level = params_of(ctx).get("level")
        if level not in LOG_LEVELS:
            raise MCPError(INVALID_PARAMS, f"level is one of {', '.join(LOG_LEVELS)}")
        connection_of(ctx).state[LEVEL_STATE] = level
        for pack in self._directory.packs:
            session = await self._calling.session(ctx, pack)
            await session.lease.set_level(str(level))
        return {}

    # -- whose it is

    async def _owner(self, ctx: RequestContext, uri: str) -> tuple[Session, str | None]:
        """Return whose a resource is: of the first pack, in the endpoint's order, that has it."""
        first: Session | None = None
        for pack in self._directory.packs:
            session = await self._calling.session(ctx, pack)
            first = first or session
            alone = len(self._directory.packs) == 1
            server = await session.offerings.owner_of_resource(uri, alone=alone)
            if server is not None:
                return session, server
        assert first is not None, "an endpoint has packs"
        return first, None

    async def _prompt(self, ctx: RequestContext, name: str) -> tuple[Session, str | None, str]:
        pack, shown = self._directory.find(name)
        session = await self._calling.session(ctx, pack)
        owner = await session.offerings.owner_of_prompt(shown)
        return (session, None, shown) if owner is None else (session, *owner)

    async def _answer(
        self, ctx: RequestContext, session: Session, call: ToolCall, unknown: str, data: JsonObject
    ) -> JsonObject:
        result = await self._calling.answered(ctx, session, call)
        if isinstance(result, dict):
            return result
        error = _error(result, unknown, data)
        if error.error.code == _NOT_FOUND and is_modern(ctx.protocol_version):
            # What servers with sessions say of a resource that is not there; without, nobody may any more.
            raise MCPError(INVALID_PARAMS, error.error.message, error.error.data)
        raise error


def _call(
    ctx: RequestContext,
    method: Method,
    target: Target,
    name: str,
    server: str | None,
    arguments: JsonObject | None = None,
) -> ToolCall:
    meta = end_to_end_meta(meta_of(ctx))
    return ToolCall(new_call_id(), name, arguments or {}, Front.MCP, meta, method, target, server)


def _strings(arguments: JsonValue) -> JsonObject:
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, dict) or not all(isinstance(value, str) for value in arguments.values()):
        raise MCPError(INVALID_PARAMS, "a prompt's arguments are an object of strings")
    return arguments


def _completing(params: Mapping[str, JsonValue], argument: JsonObject) -> JsonObject:
    """Return the arguments that a completion is about: those that stand already, and the one begun."""
    context = params.get("context")
    known = context.get("arguments") if isinstance(context, dict) else None
    name = text_param(argument, "name")
    return {**(known if isinstance(known, dict) else {}), name: text_param(argument, "value")}


def _error(outcome: Outcome, unknown: str, data: JsonObject) -> MCPError:
    """Return what MCP tells by a JSON-RPC error where it has no result that could say it."""
    decision: JsonObject = {DECISION_META_KEY: outcome.decision.wire()}
    match outcome:
        case Denied(decided) if decided.code is DecisionCode.UNKNOWN_TOOL:
            return MCPError(INVALID_PARAMS, unknown, {**data, **decision})
        case Denied(decided):
            return MCPError(_DENIED, f"sandgate: {decided.sentence()}", decision)
        case Failed(error=ServerError() as error):
            return error_of_server(error)
        case Failed():
            return MCPError(_NO_ANSWER, failure_text(outcome), decision)
        case _:
            return MCPError(INTERNAL_ERROR, "internal error")
