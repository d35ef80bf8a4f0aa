"""What a session's calls leave behind for the calls after them: labels, counts, texts, what is spent.

Pure and mutable, one for each session; only counters that are not per session are shared. The
session machine tells it what happened; it decides nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.core.calls import Answered, Denied, Outcome, ServerError
from gateway.core.decisions import Effect
from gateway.core.json_types import JsonObject
from gateway.core.policy.compile import CompiledPolicy
from gateway.core.policy.limits import Counters
from gateway.core.policy.provenance import Seen
from gateway.core.policy.request import Judgement, Request
from gateway.core.policy.situation import Charge, Situation
from gateway.core.policy.verdicts import Verdict
from gateway.core.strict_json import dumps

__all__ = ["Moment", "PolicyState"]

_NOBODY = nullcontext()


class Moment(NamedTuple):
    """When something happens: the wall clock in unix seconds, and a monotonic one for rates."""

    wall: float
    monotonic: float


class _Open(NamedTuple):
    """A judged call that has not ended: what its result will be held against."""

    policy: CompiledPolicy
    request: Request
    arguments: JsonObject
    charges: tuple[Charge, ...]


@dataclass(slots=True)
class PolicyState:
    """One session's past, as far as a policy can ask for it. `shared` counts across the gateway."""

    shared: Counters = field(default_factory=Counters)
    seen: Seen = field(default_factory=Seen)
    labels: frozenset[str] = frozenset()
    steps: int = 0
    denials: int = 0
    calls: dict[str, int] = field(default_factory=dict[str, int])
    _begun: int = 0
    _times_added: dict[str, int] = field(default_factory=dict[str, int])
    _own: Counters = field(default_factory=Counters)
    _open: dict[str, _Open] = field(default_factory=dict[str, _Open])

    def branch(self, prompt: str) -> PolicyState:
        """Return a state with the same past and another prompt, which goes its own way from here on.

        Calls in flight may have had their effect already, so they count in it as if they had.
        """
        branch = PolicyState(
            self.shared,
            self.seen.branch(prompt),
            self.labels,
            self.steps,
            self.denials,
            dict(self.calls),
            _begun=self._begun,
            _times_added=dict(self._times_added),
            _own=self._own.branch(),
            _open=dict(self._open),
        )
        for call_id in self._open:
            branch.answered_in_part(call_id)
        branch._open.clear()
        return branch

    def begin(self, step: int | None) -> int:
        """Take note of a new call: the step it belongs to, or one more where there are no steps.

        Returns the call's number in the session, from 1.
        """
        self.steps = self.steps + 1 if step is None else step
        self._begun += 1
        return self._begun

    def times_added(self, label: str) -> int:
        """Return how often results have added a label, cleared or not."""
        return self._times_added.get(label, 0)

    def clear(self, labels: Iterable[str]) -> None:
        """Take labels from the session, because somebody who may said so."""
        self.labels -= frozenset(labels)

    def judge(
        self,
        policy: CompiledPolicy,
        call_id: str,
        request: Request,
        moment: Moment,
        crosses_link: Callable[[str], Verdict],
    ) -> Judgement:
        """Judge a call as things stand and charge what lets it through; judged again, it is charged anew.

        `crosses_link` says what was found of the paths of `policy.paths_to_look_at(request)`.
        """
        # Others may count at the same time: what there is room for is charged in one go.
        with self.shared.lock if policy.counts_together else _NOBODY:
            return self._judge(policy, call_id, request, moment, crosses_link)

    def _judge(
        self,
        policy: CompiledPolicy,
        call_id: str,
        request: Request,
        moment: Moment,
        crosses_link: Callable[[str], Verdict],
    ) -> Judgement:
        self.release(call_id)
        now = policy.clock_time(moment.wall, self.steps, request.mode)
        # A virtual clock also paces rates; a real one may jump, so rates run on the monotonic clock.
        tick = moment.monotonic if now == moment.wall else now
        request = request.seen_in(self._situation(now, tick, crosses_link))
        judgement = policy.judge(request)
        if judgement.decision.effect is not Effect.DENY:
            for charge in judgement.charges:
                self._counters(charge).reserve(charge, tick)
            self._open[call_id] = _Open(policy, request, judgement.arguments, judgement.charges)
        return judgement

    def returned(self, call_id: str, result: JsonObject) -> JsonObject | str:
        """Return a result as it may be seen, or why it is withheld. The session takes its labels on."""
        opened = self._open[call_id]
        self.answered_in_part(call_id)
        request = opened.request
        rules = opened.policy.results_of(request)
        if rules is not None:
            result = rules.cleaned(result)
            withheld = rules.withheld(result)
            if withheld is not None:
                return withheld
        sources = opened.policy.sources_of(request)
        if sources and result.get("isError") is not True:
            self.seen.keep(sources, result)
        return result

    def cleaned(self, call_id: str, value: JsonObject) -> JsonObject:
        """Return what a server says while its call runs as it may be seen; its labels count from here on."""
        self.answered_in_part(call_id)
        opened = self._open.get(call_id)
        rules = opened and opened.policy.results_of(opened.request)
        return rules.cleaned(value) if rules else value

    def failed(self, call_id: str, message: str, error: ServerError | None) -> tuple[str, ServerError | None]:
        """Return what may be seen of a failure, cleaned as a result is."""
        opened = self._open.get(call_id)
        rules = opened and opened.policy.results_of(opened.request)
        if not rules:
            return message, error
        return rules.text(message), error and rules.error(error)

    def answered_in_part(self, call_id: str) -> None:
        """Take on the labels of a call that the server has had, whatever came of it."""
        opened = self._open.get(call_id)
        if opened is not None and opened.policy.rules_of(opened.request).labels:
            now = opened.request.seen_in(opened.request.situation._replace(labels=self.labels))
            for label in opened.policy.labels_added(now, opened.arguments):
                self.labels |= {label}
                self._times_added[label] = self.times_added(label) + 1

    def ended(self, call_id: str, outcome: Outcome, *, sent: bool) -> None:
        """Settle what a call was charged: a call that never reached its server costs nothing."""
        if isinstance(outcome, Denied):
            self.denials += 1
        opened = self._open.get(call_id)
        if opened is None or not sent:
            self.release(call_id)
            return
        del self._open[call_id]
        if isinstance(outcome, Answered):
            if opened.request.target == "tool":
                name = opened.request.name
                self.calls[name] = self.calls.get(name, 0) + 1
            if any(charge.limit.bytes is not None for charge in opened.charges):
                size = len(dumps(outcome.result))
                for charge in opened.charges:
                    self._counters(charge).settle(charge, size)

    def release(self, call_id: str) -> None:
        """Give back what a call was charged that does not run. Idempotent."""
        opened = self._open.pop(call_id, None)
        for charge in opened.charges if opened else ():
            self._counters(charge).release(charge)

    def _situation(self, now: float, tick: float, crosses_link: Callable[[str], Verdict]) -> Situation:
        def spent(charge: Charge) -> bool:
            return self._counters(charge).spent(charge, tick)

        return Situation(
            labels=self.labels,
            now=now,
            steps=self.steps,
            denials=self.denials,
            calls=self.calls,
            appeared=self.seen.finder(),
            spent=spent,
            crosses_link=crosses_link,
        )

    def _counters(self, charge: Charge) -> Counters:
        return self._own if charge.limit.per == "session" else self.shared
