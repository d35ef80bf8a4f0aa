"""From a policy file to something that judges: rules bound to each tool at its first call, then kept.

A decision looks only at the rules whose tool pattern matches, so it does not slow down with the
length of the file. Pure but for that cache, which never changes an answer.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.core.calls import Principal
from gateway.core.decisions import Decision, DecisionCode, Effect
from gateway.core.json_types import JsonObject
from gateway.core.policy.binding import About, Binder, IndexedRule, ask_mode
from gateway.core.policy.cases import TestResult, run_cases
from gateway.core.policy.evaluate import ToolRules, decide, paths_to_look_at
from gateway.core.policy.grants import Granted, granted, mount_faults
from gateway.core.policy.labels import added
from gateway.core.policy.model import Grant, Mode, OnDeny, PolicyFile
from gateway.core.policy.patterns import Target
from gateway.core.policy.reading import CaseSet, Policy
from gateway.core.policy.request import Judgement, PackFacts, Request, ServerNeeds
from gateway.core.policy.results import BoundResults, bind_results
from gateway.core.policy.situation import VIRTUAL_START
from gateway.core.policy.targets import target_test, tool_test
from gateway.errors import ConfigError

__all__ = ["DENY_ALL", "CompiledPolicy", "compile_policy"]

_MOST_TOOLS = 4_096
"""Tools whose rules are kept; beyond, the cache starts anew."""


class CompiledPolicy:
    """A policy that judges calls. Safe to share between sessions.

    `file` is the policy's file name (`None` for `DENY_ALL`), `sha256` the digest of its bytes; `looks`:
    some rule asks about a session's files, so that `paths_to_look_at` may have something to say;
    `counts_together`: some rule's limit counts over sessions.
    """

    def __init__(self, policy: Policy | None, facts: PackFacts | None = None) -> None:
        self.policy = policy
        self.model = policy.model if policy else PolicyFile(version=1, rules=())
        self.file = policy.name if policy else None
        self.sha256 = policy.sha256 if policy else None
        self._facts = facts or PackFacts()
        reason = "no rule allows" if policy else "no policy was given, so nothing allows"
        self._otherwise = Decision(
            Effect.DENY, DecisionCode.NO_MATCH, reason, policy=self.file, policy_sha256=self.sha256
        )
        self._binder = Binder(policy, self.model, self._otherwise)
        self._tools: dict[tuple[str, str, Mode], ToolRules] = {}
        self._named: dict[tuple[Target, str, Mode, str, About], ToolRules] = {}
        self._trusted = {source: tool_test([source[len("tool:") :]]) for source in _tool_sources(self.model)}
        audit = self.model.audit
        self._audited = target_test(audit.tool, Effect.ALLOW) if audit else None
        self.looks = any(
            part.symlinks for matchers in self.model.every_matchers() for part in matchers.every()
        )
        limits = [rule.limit for rule in self.model.rules if rule.limit is not None]
        self.counts_together = any(limit.per != "session" for limit in limits)
        self._results = [
            (target_test(rule.tool, Effect.DENY), index) for index, rule in enumerate(self.model.results)
        ]

    @property
    def on_deny(self) -> OnDeny:
        """What a denial costs in training: `penalty`, and `end_after` so many denials."""
        return self.model.modes.training.on_deny

    # -- judging

    def judge(self, request: Request) -> Judgement:
        """Return the decision and the canonical arguments; total: an error in here is a denial."""
        try:
            return decide(self.rules_of(request), request, self.model.defaults, self._otherwise)
        except Exception as error:  # noqa: BLE001 - any doubt is a denial, this program's own faults included
            reason = f"the policy could not be evaluated ({type(error).__name__})"
            return Judgement(self._otherwise.as_denial(DecisionCode.POLICY_ERROR, reason), request.arguments)

    def could_allow(
        self,
        server: str,
        name: str,
        principal: Principal,
        mode: Mode = "deployment",
        target: Target = "tool",
    ) -> bool:
        """Whether this principal could ever have the tool, resource or prompt, under some arguments.

        This is what listings show. `name` is the server's own name of it, or the URI of a resource.
        """
        return self._could(principal, mode, lambda entry: entry.names(target, server, name))

    def could_allow_template(
        self, server: str, template: str, principal: Principal, mode: Mode = "deployment"
    ) -> bool:
        """Whether this principal could ever read some resource that the URI template makes."""
        return self._could(principal, mode, lambda entry: entry.may_name(server, template))

    def _could(self, principal: Principal, mode: Mode, about: Callable[[IndexedRule], bool]) -> bool:
        asking = ask_mode(self.model, mode) != "deny"
        granted = False
        for entry in self._binder.rules:
            rule = entry.rule
            if mode not in entry.modes or not about(entry):
                continue
            if not self._binder.covers(rule, lambda test: test(principal)):
                continue
            if rule.effect is Effect.DENY and not rule.args and not entry.guards:
                return False
            granted = granted or rule.effect is Effect.ALLOW or (rule.effect is Effect.ASK and asking)
        return granted

    def paths_to_look_at(self, request: Request) -> tuple[str, ...]:
        """Return the paths in the workspace that `symlinks` asks about; empty where nothing asks.

        What is found of them comes back as `Situation.crosses_link`.
        """
        if not self.looks:
            return ()
        try:
            return paths_to_look_at(self.rules_of(request), request, self.model.defaults)
        except Exception:  # noqa: BLE001 - what nobody looked at is a doubt, and `judge` says the rest
            return ()

    def rules_of(self, request: Request) -> ToolRules:
        """Return the rules that one tool's calls are judged by."""
        if request.target != "tool":
            return self._rules_of_named(request)
        key = (request.server, request.tool, request.mode)
        known = self._tools.get(key)
        if known and known.workspace == request.workspace and known.kinds == request.kinds:
            return known
        if len(self._tools) >= _MOST_TOOLS:
            self._tools.clear()
        bound = self._tools[key] = self._binder.bind(request)
        return bound

    def _rules_of_named(self, request: Request) -> ToolRules:
        """Return the rules for a resource or prompt; kept by which they are, as callers make names up."""
        about = self._binder.about(request)
        key = (request.target, request.server, request.mode, request.workspace, about)
        known = self._named.get(key)
        if known is None:
            if len(self._named) >= _MOST_TOOLS:
                self._named.clear()
            known = self._named[key] = self._binder.bind(request)
        return known

    # -- what results do

    def labels_added(self, request: Request, arguments: JsonObject) -> frozenset[str]:
        """Return the labels that a result of this call adds to its session; `arguments` are canonical."""
        rules = self.rules_of(request).labels
        return added(rules, arguments, request.situation) if rules else frozenset()

    def sources_of(self, request: Request) -> frozenset[str]:
        """Return the sources of the file's `from` matchers that its result counts for: a tool's may."""
        if not self._trusted or request.target != "tool":
            return frozenset()
        server, tool = request.server, request.tool
        return frozenset(source for source, names in self._trusted.items() if names(server, tool))

    def results_of(self, request: Request) -> BoundResults | None:
        """Return what is kept back of its results, or `None` where no rule says anything."""
        target, server, tool = request.target, request.server, request.tool
        indices = [index for names, index in self._results if names(target, server, tool)]
        if not indices or self.policy is None:
            return None
        rules, document = self.model.results, self.policy.document
        shapes = sorted({shape for index in indices for shape in rules[index].redact})
        caps = [
            (most, f"{self.file}:{document.position(('results', index)).line}")
            for index in indices
            if (most := rules[index].max_bytes) is not None
        ]
        return bind_results(shapes, caps)

    def shows_arguments(self, target: Target, server: str, name: str) -> bool:
        """Whether the ledger is to show the argument values of calls of this tool, resource or prompt."""
        return self._audited is not None and self._audited(target, server, name)

    # -- its surroundings

    def clock_time(self, wall: float, steps: int, mode: Mode) -> float:
        """Return the time on the mode's clock, in unix seconds, after so many steps."""
        clock = self.model.modes.training.clock
        if mode == "deployment" or clock is None:
            return wall
        return VIRTUAL_START + steps * clock.virtual.step

    def granted(self, server: str, needs: ServerNeeds, workspace: str) -> Granted:
        """Return what the server's sandbox gets; raises `ConfigError` for a grant that cannot be given."""
        grants = self.model.grants
        if grants is None or self.policy is None:
            return granted(needs, None, workspace)
        faults = list(mount_faults(self.model, self.policy.document, workspace))
        if faults:
            raise ConfigError(faults)
        return granted(needs, grants.get(server, Grant.model_validate({})), workspace)

    def run_tests(self, cases: CaseSet | None = None) -> list[TestResult]:
        """Judge the file's own tests, or other cases, by the facts the policy was compiled with."""
        chosen = cases or (self.policy.cases if self.policy else None)
        return run_cases(self.judge, self.model, chosen, self._facts) if chosen else []


def compile_policy(policy: Policy, pack: PackFacts | None = None, *, verify: bool = True) -> CompiledPolicy:
    """Return the policy ready to judge; raises `ConfigError` where one of its own tests fails.

    `pack` tells the tests which arguments are of which kind; without it `@path` and the like name
    nothing. `verify=False` leaves the tests to the commands that report them one by one.
    """
    compiled = CompiledPolicy(policy, pack)
    failed = [result.problem for result in compiled.run_tests() if result.problem] if verify else []
    if failed:
        raise ConfigError(failed)
    return compiled


def _tool_sources(model: PolicyFile) -> set[str]:
    every = (part for matchers in model.every_matchers() for part in matchers.every())
    return {source for part in every for source in part.from_ if source.startswith("tool:")}


DENY_ALL = CompiledPolicy(None)
"""What stands where no policy was given: every call is denied."""
