"""The session machine: how one call goes from request to answer. Pure; no clock, files or network.

The shell (`runtime.gateway`) feeds it events and carries out the one command each event yields:

    Called ──> Record(decision) ──Recorded──> denied:  Record(outcome) ──> Answer
                  ^             └─Recorded──> allowed: Acquire ──Acquired──> Send ──Returned──┐
                  │             │                         └──── Broke ─────────┴─── Broke ────┤
                  │             └─Recorded──> ask: SeekApproval ─────────────────── Broke ────┤
                  └─ Approved (judged again), Refused, Expired, Pending ─┘                    │
               RecordLost ──> Answer(denied)         Answer <──Recorded── Record(outcome) <───┘

Every rule of the path is in `_TRANSITIONS`: nothing is sent before its decision is on disk, nothing
is answered before its outcome is, a call is sent at most once, and any doubt is a denial. An approved
call is judged once more, by the policy of that moment; the approval stands in for the very ask it
answers and for nothing else. A policy that asks about the session's files has them looked at before
each judgement (`Look`, `Looked`); other calls do without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import InitVar, dataclass, field, replace
from typing import TypeAlias

from gateway.core.approvals import ApprovalRequest, approval_request, approved_decision
from gateway.core.calls import (
    Answered,
    Denied,
    Failed,
    FailureKind,
    Outcome,
    ServerError,
    Target,
    ToolCall,
)
from gateway.core.catalog import Tool, offered
from gateway.core.decisions import Decision, DecisionCode, Effect
from gateway.core.events import (
    Acquire,
    Acquired,
    Answer,
    Approved,
    Broke,
    Called,
    Command,
    Event,
    Expired,
    Look,
    Looked,
    Pending,
    Record,
    Recorded,
    RecordLost,
    Refused,
    Returned,
    SeekApproval,
    Send,
)
from gateway.core.json_types import JsonObject
from gateway.core.policy import Request
from gateway.core.policy.approving import CallNumber, approval_terms
from gateway.core.policy.provenance import Seen
from gateway.core.policy.state import PolicyState
from gateway.core.records import CallIds, decision_record, outcome_record
from gateway.core.running_call import Given, Phase, Running
from gateway.core.secrets import mask, mask_object
from gateway.core.session_facts import SessionFacts

__all__ = ["SessionMachine"]

_UNDECIDED = Decision(Effect.DENY, DecisionCode.POLICY_ERROR, "the call has not been judged")


@dataclass(slots=True)
class SessionMachine:
    """Judges the calls of one session and says what to do next. `now` is in monotonic seconds.

    `past` is where its policy state starts from, another session's that it goes on from.
    """

    facts: SessionFacts
    past: InitVar[PolicyState | None] = None
    state: PolicyState = field(init=False)
    _drifted: frozenset[str] = frozenset()
    _running: dict[str, Running] = field(default_factory=dict[str, Running])

    def __post_init__(self, past: PolicyState | None) -> None:
        prompt = self.facts.prompt
        self.state = past.branch(prompt) if past else PolicyState(self.facts.counters, Seen(prompt))

    def branch(self) -> PolicyState:
        """Return what this session's calls left behind until now: the `past` of one that goes on from it."""
        return self.state.branch(self.facts.prompt)

    def tools(self) -> list[JsonObject]:
        """Return the tool definitions this session's principal could call under some arguments."""
        facts = self.facts
        return [
            tool.definition
            for tool in facts.catalog.tools.values()
            if tool.trusted
            and tool.name not in self._drifted
            and facts.policy.could_allow(tool.server, tool.upstream, facts.principal, facts.mode)
        ]

    def shows(self, target: Target | None, server: str, name: str) -> bool:
        """Whether a listing shows a resource or prompt of a server; no target: the template `name`."""
        facts = self.facts
        if target is None:
            return facts.policy.could_allow_template(server, name, facts.principal, facts.mode)
        return facts.policy.could_allow(server, name, facts.principal, facts.mode, target)

    def masked(self, value: JsonObject) -> JsonObject:
        """Return what a server says outside of any call, without the operator's secrets."""
        return mask_object(value, self.facts.secrets)

    def told(self, call_id: str, value: JsonObject) -> JsonObject:
        """Return what a server says or asks during a call, as the caller may see it."""
        return self.state.cleaned(call_id, self.masked(value))

    def listed(self, server: str, definitions: Iterable[JsonObject]) -> None:
        """Take note of what the session's own server lists now; changed tools are denied from here on."""
        others = frozenset(n for n in self._drifted if self.facts.catalog.tools[n].server != server)
        self._drifted = others | self.facts.catalog.drifted(server, definitions)

    def receive(self, call_id: str, event: Event, now: float) -> Command:
        """Advance one call by one event and return what to do next.

        An event that the call's phase does not expect is a bug of the shell and raises `RuntimeError`.
        """
        if isinstance(event, Called):
            return self._called(event, now)
        running = self._running.get(call_id)
        step = running and _TRANSITIONS.get((running.phase, type(event)))
        if running is None or step is None:
            phase = running.phase.name if running else "unknown"
            raise RuntimeError(f"unexpected {type(event).__name__} for call {call_id} in phase {phase}")
        return step(self, running, event, now)

    # -- transitions

    def _called(self, event: Called, now: float) -> Command:
        call, facts = event.call, self.facts
        if call.call_id in self._running:
            raise RuntimeError(f"call id {call.call_id} is in use")
        tool = facts.catalog.tools.get(call.tool) if call.target == "tool" else _named(call)
        number = self.state.begin(event.step)
        ids = CallIds(facts.id, event.episode, event.step, facts.principal.name, facts.pack)
        running = Running(
            call, facts.policy, _UNDECIDED, call.arguments, tool, ids, now, number, wall=event.wall
        )
        self._running[call.call_id] = running
        return self._consider(running, now)

    def _consider(self, running: Running, now: float) -> Command:
        """Judge the call, once it is known what the policy asks of the session's files."""
        policy, tool = running.policy, running.tool
        if policy.looks and tool is not None:
            paths = policy.paths_to_look_at(self._asked(running.call, tool))
            if paths:
                running.phase = Phase.LOOKING
                return Look(paths)
        return self._judged(running, {}, now)

    def _looked(self, running: Running, event: Event, now: float) -> Command:
        assert isinstance(event, Looked)
        return self._judged(running, event.crosses_link, now)

    def _judged(self, running: Running, crosses_link: Mapping[str, bool], now: float) -> Command:
        decision, running.arguments = self._judge(running, crosses_link, now)
        given = running.given
        if given is not None and decision.effect is Effect.ASK:
            running.decision = decision.of_call(running.call.call_id)
            asked = self._request(running)
            if asked.binding == given.binding:
                decision = approved_decision(decision, given.approval, given.by)
                running.clears = tuple(asked.terms.clears)
        return self._decide(running, decision)

    def _decide(self, running: Running, decision: Decision) -> Command:
        """Have the call's decision, or the one that takes its place, recorded before it counts."""
        running.phase, running.decision = Phase.JUDGED, decision.of_call(running.call.call_id)
        body = decision_record(
            call=running.call,
            decision=running.decision,
            ids=running.ids,
            tool=running.tool_ids,
            arguments=running.arguments,
            plain=self._plain(running),
            key=self.facts.key,
        )
        return Record(body)

    def _plain(self, running: Running) -> JsonObject | None:
        """Return the arguments as the ledger shows them, `None` where it is not to show them."""
        facts, tool = self.facts, running.tool
        shown = facts.plain_arguments or (
            tool is not None and running.policy.shows_arguments(tool.target, tool.server, tool.upstream)
        )
        return mask_object(running.arguments, facts.secrets) if shown else None

    def _judge(
        self, running: Running, crosses_link: Mapping[str, bool], now: float
    ) -> tuple[Decision, JsonObject]:
        call, tool, policy = running.call, running.tool, running.policy
        if tool is None:
            return self._deny(
                DecisionCode.UNKNOWN_TOOL, f"no server of this pack has a {call.target} {call.tool[:128]!r}"
            ), call.arguments
        if not tool.trusted or tool.name in self._drifted:
            return self._definition_changed(tool), call.arguments
        if (fault := tool.check(call.arguments)) is not None:
            return self._deny(DecisionCode.INVALID_ARGUMENTS, fault), call.arguments
        request, moment = self._asked(call, tool), running.moment(now)
        judgement = self.state.judge(policy, call.call_id, request, moment, crosses_link.get)
        return judgement.decision, judgement.arguments

    def _asked(self, call: ToolCall, tool: Tool) -> Request:
        facts = self.facts
        server, name = tool.server, tool.upstream
        workspace, who, mode = facts.workspace, facts.principal, facts.mode
        if tool.target == "resource":
            return Request.of_resource(server, name, workspace=workspace, principal=who, mode=mode)
        if tool.target == "prompt":
            arguments = call.arguments
            return Request.of_prompt(server, name, arguments, workspace=workspace, principal=who, mode=mode)
        return Request(server, name, call.arguments, tool.kinds, workspace, who, mode)

    def _decided(self, running: Running, event: Event, now: float) -> Command:
        if running.decision.effect is Effect.ASK:
            running.phase = Phase.SEEKING
            request = self._request(running)
            running.asked = request.binding
            return SeekApproval(request)
        if running.decision.code is DecisionCode.APPROVED:
            self.state.clear(running.clears)
        if not running.decision.allowed or running.tool is None:
            return self._settle(running, Denied(running.decision), now)
        running.phase = Phase.ACQUIRING
        return Acquire(running.tool.server)

    def _request(self, running: Running) -> ApprovalRequest:
        return approval_request(
            running.call,
            running.ids,
            running.tool_ids,
            principal=self.facts.principal,
            arguments=running.arguments,
            decision=running.decision,
            terms=approval_terms(
                running.policy,
                running.decision.rule,
                self.facts.mode,
                CallNumber(self.facts.seed, running.number),
                self.state.times_added,
            ),
            secrets=self.facts.secrets,
        )

    def _approved(self, running: Running, event: Event, now: float) -> Command:
        """Judge the call as things stand now; the approval replaces the very ask it was given to."""
        assert isinstance(event, Approved)
        running.given = Given(event.approval, event.by, running.asked)
        running.policy = self.facts.policy
        return self._consider(running, now)

    def _not_approved(self, running: Running, event: Event, now: float) -> Command:
        match event:
            case Pending(approval):
                code = DecisionCode.APPROVAL_PENDING
                reason = f"{running.decision.reason}; {approval} waits for it: call again once it is given"
            case Expired(reason):
                code = DecisionCode.APPROVAL_EXPIRED
            case Refused(reason):
                code = DecisionCode.APPROVAL_DENIED
            case _:
                raise RuntimeError(f"{type(event).__name__} says nothing of an approval")
        return self._decide(running, replace(running.decision, effect=Effect.DENY, code=code, reason=reason))

    def _acquired(self, running: Running, event: Event, now: float) -> Command:
        assert isinstance(event, Acquired)
        assert running.tool is not None
        running.sandbox = event.sandbox
        if running.tool.name in self._drifted:  # its server turned out to be another than the one locked
            denial = self._definition_changed(running.tool).of_call(running.call.call_id)
            return self._settle(running, Denied(denial), now)
        running.phase = Phase.SENT
        params = running.call.forwarded(running.tool.upstream, running.arguments)
        return Send(running.tool.server, running.call.method.value, params)

    def _returned(self, running: Running, event: Event, now: float) -> Command:
        assert isinstance(event, Returned)
        masked = mask_object(event.result, self.facts.secrets)
        result = self.state.returned(running.call.call_id, masked)
        if isinstance(result, str):
            return self._settle(running, Failed(running.decision, FailureKind.TOO_LARGE, result), now)
        return self._settle(running, Answered(running.decision, result), now)

    def _broke(self, running: Running, event: Event, now: float) -> Command:
        assert isinstance(event, Broke)
        secrets = self.facts.secrets
        error = event.error
        if error is not None:
            error = ServerError(error.code, str(mask(error.message, secrets)), mask(error.data, secrets))
        if running.phase is Phase.SENT:
            self.state.answered_in_part(running.call.call_id)
        message, error = self.state.failed(running.call.call_id, str(mask(event.message, secrets)), error)
        outcome = Failed(running.decision, event.kind, message, error)
        return self._settle(running, outcome, now)

    def _settle(self, running: Running, outcome: Outcome, now: float) -> Command:
        self.state.ended(running.call.call_id, outcome, sent=running.phase is Phase.SENT)
        running.phase, running.outcome = Phase.SETTLED, outcome
        body = outcome_record(
            call=running.call,
            outcome=outcome,
            ids=running.ids,
            tool=running.tool_ids,
            ms=(now - running.started) * 1000,
            key=self.facts.key,
        )
        return Record(body)

    def _answer(self, running: Running, event: Event, now: float) -> Command:
        assert running.outcome is not None
        return self._done(running, running.outcome)

    def _decision_lost(self, running: Running, event: Event, now: float) -> Command:
        assert isinstance(event, RecordLost)
        return self._done(
            running, Denied(running.decision.as_denial(DecisionCode.AUDIT_UNAVAILABLE, event.reason))
        )

    def _outcome_lost(self, running: Running, event: Event, now: float) -> Command:
        # The call may have run, but an answer that the ledger does not know must not be seen.
        assert isinstance(event, RecordLost)
        denial = running.decision.as_denial(DecisionCode.AUDIT_UNAVAILABLE, event.reason)
        if not running.decision.allowed:
            return self._done(running, Denied(denial))
        return self._done(running, Failed(denial, FailureKind.AUDIT_UNAVAILABLE, event.reason))

    def _done(self, running: Running, outcome: Outcome) -> Command:
        running.phase = Phase.DONE
        self.state.release(running.call.call_id)
        del self._running[running.call.call_id]
        return Answer(outcome)

    # -- decisions that no rule makes

    def _deny(self, code: DecisionCode, reason: str) -> Decision:
        policy = self.facts.policy
        return Decision(Effect.DENY, code, reason, policy=policy.file, policy_sha256=policy.sha256)

    def _definition_changed(self, tool: Tool) -> Decision:
        name = f"{tool.server}.{tool.upstream}"
        reason = (
            f"the definition of {name} is not the locked one: review it, then run 'sandgate toolpack lock'"
        )
        return self._deny(DecisionCode.DEFINITION_CHANGED, reason)


def _named(call: ToolCall) -> Tool | None:
    return None if call.server is None else offered(call.server, call.target, call.tool)


_Step: TypeAlias = Callable[[SessionMachine, Running, Event, float], Command]

# pyright: reportPrivateUsage=false
_TRANSITIONS: dict[tuple[Phase, type], _Step] = {
    (Phase.LOOKING, Looked): SessionMachine._looked,
    (Phase.JUDGED, Recorded): SessionMachine._decided,
    (Phase.JUDGED, RecordLost): SessionMachine._decision_lost,
    (Phase.SEEKING, Approved): SessionMachine._approved,
    (Phase.SEEKING, Refused): SessionMachine._not_approved,
    (Phase.SEEKING, Expired): SessionMachine._not_approved,
    (Phase.SEEKING, Pending): SessionMachine._not_approved,
    (Phase.SEEKING, Broke): SessionMachine._broke,
    (Phase.ACQUIRING, Acquired): SessionMachine._acquired,
    (Phase.ACQUIRING, Broke): SessionMachine._broke,
    (Phase.SENT, Returned): SessionMachine._returned,
    (Phase.SENT, Broke): SessionMachine._broke,
    (Phase.SETTLED, Recorded): SessionMachine._answer,
    (Phase.SETTLED, RecordLost): SessionMachine._outcome_lost,
}
