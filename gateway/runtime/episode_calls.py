"""The tool calls of one episode, from actions and from code: each goes through `Gateway.call`.

Takes note of what the episode counts; judges nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import anyio

from gateway.core.calls import Answered, Failed, FailureKind, Front, Outcome, ToolCall
from gateway.core.episode import EpisodeState
from gateway.core.json_types import JsonObject
from gateway.core.observations import SUBMIT_TOOL, submit_definition
from gateway.runtime.gateway import Gateway
from gateway.runtime.sessions import Session, new_call_id

__all__ = ["EpisodeCalls"]

_SERVER_LOST = {FailureKind.CRASHED, FailureKind.START_FAILED}


@dataclass(slots=True, eq=False)
class EpisodeCalls:
    """Calls tools for one episode. `reward` is what the calls since the last `begin` were worth."""

    gateway: Gateway
    session: Session
    state: EpisodeState
    reward: float | None = None

    def begin(self, step: int) -> None:
        """Begin a step: the records of its calls carry its number."""
        self.session.step = step
        self.reward = None

    async def call(
        self, tool: str, arguments: JsonObject, front: Front, seconds: float | None
    ) -> tuple[Outcome, bool]:
        """Call a tool; return the outcome, and whether it is that no answer came in time: it may have run.

        Raises what `Gateway.call` raises.
        """
        call, late = ToolCall(new_call_id(), tool, arguments, front), False
        if seconds is None:
            outcome = await self.gateway.call(self.session, call)
        else:
            ended: list[Outcome] = []
            with anyio.move_on_after(seconds) as bound:
                await self.gateway.call(self.session, call, heard=ended.append)
            outcome, late = ended[0], bound.cancelled_caught
        if late and isinstance(outcome, Failed):
            message = f"no answer within {seconds:g} s; the call may still have run"
            outcome = replace(outcome, kind=FailureKind.TIMEOUT, message=message)
        self._note_loss(outcome)
        self._earn(self.state.saw(tool, outcome))
        if tool == SUBMIT_TOOL and isinstance(outcome, Answered) and not outcome.result.get("isError"):
            self.state.submit(arguments.get("answer"))  # a submitting tool of the pack's own
        return outcome, late

    def tools(self) -> list[JsonObject]:
        """Return the tools' MCP definitions as the policy shows them, with the one that submits."""
        offered = [submit_definition()] if self._offers_submit() else []
        return [*self.session.tools(), *offered]

    def submits(self, tool: str) -> bool:
        """Whether calling this tool is submitting, which no server is asked about."""
        return tool == SUBMIT_TOOL and self._offers_submit()

    def _offers_submit(self) -> bool:
        """Whether the episode itself has a tool that submits; a pack's own tool of that name goes first."""
        served = self.session.pack
        return served.pack.manifest.env.submit and SUBMIT_TOOL not in served.catalog.tools

    def _earn(self, reward: float | None) -> None:
        if reward is not None:
            self.reward = reward + (self.reward or 0.0)

    def _note_loss(self, outcome: Outcome) -> None:
        lost = self.session.failed
        if lost is None and isinstance(outcome, Failed) and outcome.kind in _SERVER_LOST:
            lost = outcome.message
        if lost is not None:
            self.state.fail(lost)
