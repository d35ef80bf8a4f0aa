"""How a request of this front becomes a call, and an outcome its answer: shared by tools and all else."""

from __future__ import annotations

from dataclasses import replace

from gateway.core.calls import Answered, Outcome, ToolCall
from gateway.core.json_types import JsonObject
from gateway.core.results import tool_result
from gateway.runtime.approvals import Prompt
from gateway.runtime.gateway import Gateway
from gateway.runtime.sessions import Session
from gateway.serve.mcp.directory import Directory
from gateway.serve.mcp.envelope import asks_for_input, result_envelope
from gateway.serve.mcp.peers import peer_of
from gateway.serve.mcp.prompting import DeferredPrompt, prompt_of
from gateway.serve.mcp.request_state import Retry, Seal, answers_of
from gateway.serve.mcp.requests import RequestContext, params_of
from gateway.serve.mcp.sessions import Bindings, Sessions

__all__ = ["Calling", "seal_of", "shown_of"]


class Calling:
    """The way from a request to the path of a call and back, for one endpoint."""

    def __init__(
        self,
        gateway: Gateway,
        directory: Directory,
        sessions: Sessions,
        server_info: JsonObject,
        bindings: Bindings | None,
    ) -> None:
        self.directory = directory
        self._gateway = gateway
        self._sessions = sessions
        self._server_info = server_info
        self._bindings = bindings

    async def session(self, ctx: RequestContext, pack: str) -> Session:
        """Return the caller's session with a pack; see `Sessions.of`."""
        return await self._sessions.of(ctx, pack)

    async def run(self, ctx: RequestContext, session: Session, call: ToolCall) -> Outcome:
        """Take a call down the path that nobody can be asked about."""
        return await self._gateway.call(session, call)

    async def outcome(
        self, ctx: RequestContext, session: Session, call: ToolCall
    ) -> tuple[Outcome, JsonObject]:
        """Take a call down the path, with its client; return how it ended and what is shown of it.

        A call that brings answers (`input_required`) is opened first, and what it ends with is sealed.
        """
        seal = seal_of(self._gateway, session, call)
        params = params_of(ctx)
        retry = seal.open(params.get("requestState"), answers_of(params))
        prompt = prompt_of(ctx, self._bindings, retry)
        if retry.params:
            call = replace(call, params={**call.params, **retry.params})
        outcome = await self._gateway.call(session, call, prompt, peer_of(ctx, self._bindings))
        return outcome, self.enveloped(ctx, shown_of(outcome, prompt, retry, seal))

    async def answered(self, ctx: RequestContext, session: Session, call: ToolCall) -> JsonObject | Outcome:
        """Return a call's result, or its outcome where there is none to show."""
        outcome, shown = await self.outcome(ctx, session, call)
        return shown if isinstance(outcome, Answered) or asks_for_input(shown) else outcome

    def enveloped(self, ctx: RequestContext, result: JsonObject, *, listing: bool = False) -> JsonObject:
        """Return a result as a caller of this version is sent it."""
        return result_envelope(
            result, version=ctx.protocol_version, server_info=self._server_info, listing=listing
        )


def seal_of(gateway: Gateway, session: Session, call: ToolCall) -> Seal:
    """Return what seals and opens the states of a call."""
    of = f"{session.pack.name}/{session.id}"
    key, now = session.machine.facts.key, gateway.clock.now()
    return Seal(key, of, call.method.value, call.tool, call.arguments, now)


def shown_of(outcome: Outcome, prompt: Prompt | None, retry: Retry, seal: Seal) -> JsonObject:
    """Return what is shown of an outcome: its result, or the question that takes its place, sealed."""
    if isinstance(prompt, DeferredPrompt) and (asked := prompt.asked(outcome)) is not None:
        state = seal.state_of(replace(retry, approval=asked.approval), hold_answers=True)
        return {**asked.result, "requestState": state}
    return _sealed(tool_result(outcome), outcome, seal)


def _sealed(result: JsonObject, outcome: Outcome, seal: Seal) -> JsonObject:
    """Return a result whose state, if it is a question that has one, only this call's retry can bring."""
    state = result.get("requestState")
    if not isinstance(outcome, Answered) or not asks_for_input(result) or state is None:
        return result
    return {**result, "requestState": seal.state_of(Retry(state=str(state)))}
