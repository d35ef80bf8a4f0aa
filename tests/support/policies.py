"""Short ways to say: this policy, this call, what is decided?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from gateway.core.calls import LOCAL, Answered, Denied, Failed, FailureKind, Principal
from gateway.core.decisions import Decision
from gateway.core.policy import CompiledPolicy, Judgement, PackFacts, Request, compile_policy, load_policy
from gateway.core.policy.limits import Counters
from gateway.core.policy.model import Mode
from gateway.core.policy.provenance import Seen
from gateway.core.policy.situation import NOWHERE, Situation
from gateway.core.policy.state import Moment, PolicyState

KINDS = {
    "path": "path",
    "paths": "path",
    "url": "url",
    "host": "host",
    "query": "sql",
    "command": "command",
    "options.target": "path",
}


def compiled(text: str, file: str = "policies/p.yaml") -> CompiledPolicy:
    """Return a policy from its text."""
    return compile_policy(load_policy(text, file))


def with_rules(*rules: Mapping[str, Any], **parts: Any) -> CompiledPolicy:
    """Return a policy from rules written as Python values; ids are filled in as r0, r1 …"""
    numbered = [{"id": f"r{index}", **rule} for index, rule in enumerate(rules)]
    return compiled(yaml.safe_dump({"version": 1, **parts, "rules": numbered}, sort_keys=False))


def judged(
    policy: CompiledPolicy,
    call: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    kinds: Mapping[str, str] = KINDS,
    principal: Principal = LOCAL,
    mode: Mode = "deployment",
    workspace: str = "/workspace",
    situation: Situation = NOWHERE,
) -> Judgement:
    """Judge one call, named `server.tool`."""
    server, _, tool = call.partition(".")
    return policy.judge(
        Request(server, tool, dict(arguments or {}), kinds, workspace, principal, mode, situation)
    )


def effect_of(
    policy: CompiledPolicy, call: str, arguments: Mapping[str, Any] | None = None, **how: Any
) -> str:
    """Return what is decided, in a word."""
    return judged(policy, call, arguments, **how).decision.effect.value


def code_of(policy: CompiledPolicy, call: str, arguments: Mapping[str, Any] | None = None, **how: Any) -> str:
    """Return the decision's code."""
    return judged(policy, call, arguments, **how).decision.code.value


class Life:
    """One session under a policy, without a gateway: calls are judged, answered and settled in turn."""

    def __init__(
        self,
        policy: CompiledPolicy,
        *,
        shared: Counters | None = None,
        prompt: str = "",
        principal: Principal = LOCAL,
        mode: Mode = "deployment",
        kinds: Mapping[str, str] = KINDS,
    ) -> None:
        self.policy = policy
        self.kinds = kinds
        self.state = PolicyState(shared or Counters(), Seen(prompt))
        self.principal = principal
        self.mode: Mode = mode
        self.now = 0.0
        self.wall = 1_700_000_000.0
        self.shown: Any = None
        self._count = 0

    def start(self, call: str, arguments: Mapping[str, Any] | None = None) -> tuple[str, Decision]:
        """Judge a call and leave it in flight."""
        self._count += 1
        call_id = f"c{self._count}"
        request = Request.named(
            call, dict(arguments or {}), PackFacts(), principal=self.principal, mode=self.mode
        )
        if request.target == "tool":
            request = request._replace(kinds=self.kinds)
        self.state.begin(None)
        moment = Moment(self.wall + self.now, self.now)
        judgement = self.state.judge(self.policy, call_id, request, moment, NOWHERE.crosses_link)
        return call_id, judgement.decision

    def end(self, call_id: str, decision: Decision, result: str | Mapping[str, Any] | None = "ok") -> None:
        """Have the server answer; `None`: it never had the call."""
        if not decision.allowed:
            self.state.ended(call_id, Denied(decision), sent=False)
        elif result is None:
            failed = Failed(decision, FailureKind.START_FAILED, "it did not start")
            self.state.ended(call_id, failed, sent=False)
        else:
            content = {"content": [{"type": "text", "text": result}]} if isinstance(result, str) else result
            self.shown = self.state.returned(call_id, dict(content))
            self.state.ended(call_id, Answered(decision, dict(content)), sent=True)

    def call(
        self,
        call: str,
        arguments: Mapping[str, Any] | None = None,
        result: str | Mapping[str, Any] | None = "ok",
    ) -> str:
        """Make a call to its end and return its decision's code."""
        call_id, decision = self.start(call, arguments)
        self.end(call_id, decision, result)
        return decision.code.value
