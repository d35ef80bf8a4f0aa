"""From a policy file to something that judges: rules bound to each tool at its first call, then kept.

A decision looks only at the rules whose tool pattern matches, so it does not slow down with the
length of the file. Pure but for that cache, which never changes an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from gateway.core.calls import Principal
from gateway.core.decisions import Decision, DecisionCode, Effect
from gateway.core.policy.arguments import Spelling, canon_for
from gateway.core.policy.cases import TestResult, run_cases
from gateway.core.policy.evaluate import ToolRules, decide
from gateway.core.policy.matchers import implied_kind
from gateway.core.policy.model import KINDS, SELECTORS, AskMode, Kind, Mode, OnDeny, PolicyFile, Rule
from gateway.core.policy.patterns import split_tool_pattern
from gateway.core.policy.reading import CaseSet, Policy
from gateway.core.policy.request import Judgement, PackFacts, Request
from gateway.core.policy.rules import BoundRule, ToolView, bind_conditions, compile_principal
from gateway.core.policy.wildcards import compile_wildcard
from gateway.errors import ConfigError

__all__ = ["DENY_ALL", "CompiledPolicy", "compile_policy", "tool_test"]

_MOST_TOOLS = 4_096
"""Tools whose rules are kept; beyond, the cache starts anew."""
_OUTCOMES = {
    Effect.ALLOW: (Effect.ALLOW, DecisionCode.RULE_ALLOW),
    Effect.DENY: (Effect.DENY, DecisionCode.RULE_DENY),
    Effect.ASK: (Effect.ASK, DecisionCode.APPROVAL_PENDING),
}
_WHY = {
    DecisionCode.RULE_ALLOW: "the rule allows this call",
    DecisionCode.RULE_DENY: "the rule forbids this call",
    DecisionCode.APPROVAL_PENDING: "the call needs an approval",
    DecisionCode.APPROVAL_DENIED: "the call needs an approval, and there is nobody to give one",
}


@dataclass(frozen=True, slots=True)
class _IndexedRule:
    rule: Rule
    line: int
    names: Callable[[str, str], bool]


class CompiledPolicy:
    """A policy that judges calls. Safe to share between sessions.

    `file` is the policy's file name (`None` for `DENY_ALL`), `sha256` the digest of its bytes.
    """

    def __init__(self, policy: Policy | None, facts: PackFacts | None = None) -> None:
        self.policy = policy
        self.model = policy.model if policy else PolicyFile(version=1, rules=())
        self.file = policy.name if policy else None
        self.sha256 = policy.sha256 if policy else None
        self._facts = facts or PackFacts()
        self._principals = {name: compile_principal(part) for name, part in self.model.principals.items()}
        self._rules = _indexed(policy) if policy else []
        self._tools: dict[tuple[str, str], ToolRules] = {}
        reason = "no rule allows" if policy else "no policy was given, so nothing allows"
        self._otherwise = Decision(
            Effect.DENY, DecisionCode.NO_MATCH, reason, policy=self.file, policy_sha256=self.sha256
        )

    @property
    def on_deny(self) -> OnDeny:
        """What a denial costs in training: `penalty`, and `end_after` so many denials."""
        return self.model.modes.training.on_deny

    def judge(self, request: Request) -> Judgement:
        """Return the decision and the canonical arguments; total: an error in here is a denial."""
        try:
            return decide(self.rules_of(request), request, self.model.defaults, self._otherwise)
        except Exception as error:  # noqa: BLE001 - any doubt is a denial, this program's own faults included
            reason = f"the policy could not be evaluated ({type(error).__name__})"
            return Judgement(self._otherwise.as_denial(DecisionCode.POLICY_ERROR, reason), request.arguments)

    def could_allow(self, server: str, tool: str, principal: Principal, mode: Mode = "deployment") -> bool:
        """Whether this principal could call the tool under some arguments."""
        asking = self._ask_mode(mode) != "deny"
        granted = False
        for indexed in self._rules:
            if indexed.names(server, tool) and self._covers(indexed.rule, principal):
                effect = indexed.rule.effect
                if effect is Effect.DENY and not indexed.rule.args:
                    return False
                granted = granted or effect is Effect.ALLOW or (effect is Effect.ASK and asking)
        return granted

    def run_tests(self, cases: CaseSet | None = None) -> list[TestResult]:
        """Judge the file's own tests, or other cases, by the facts the policy was compiled with."""
        chosen = cases or (self.policy.cases if self.policy else None)
        return run_cases(self.judge, self.model.principals, chosen, self._facts) if chosen else []

    def rules_of(self, request: Request) -> ToolRules:
        """Return the rules that one tool's calls are judged by."""
        key = (request.server, request.tool)
        known = self._tools.get(key)
        if known and known.workspace == request.workspace and known.kinds == request.kinds:
            return known
        if len(self._tools) >= _MOST_TOOLS:
            self._tools.clear()
        bound = self._tools[key] = self._bind(request)
        return bound

    def _bind(self, request: Request) -> ToolRules:
        indexed = [entry for entry in self._rules if entry.names(request.server, request.tool)]
        declared: dict[str, Kind] = {argument: KINDS[kind] for argument, kind in request.kinds.items()}
        kinds: dict[str, Kind] = {**_implied_kinds(indexed), **declared}
        view = ToolView(declared, kinds, request.workspace)
        bound = [self._bound(entry, view) for entry in indexed]
        return ToolRules(
            kinds=declared,
            workspace=request.workspace,
            spellings=tuple(_spellings(view)),
            denies=_with_effect(bound, Effect.DENY),
            asks=_with_effect(bound, Effect.ASK),
            allows=_with_effect(bound, Effect.ALLOW),
        )

    def _bound(self, entry: _IndexedRule, view: ToolView) -> BoundRule:
        rule = entry.rule
        return BoundRule(
            rule=rule,
            line=entry.line,
            decisions={mode: self._decision(rule, entry.line, mode) for mode in ("training", "deployment")},
            to=tuple(self._principals[name] for name in rule.to or ()),
            conditions=bind_conditions(rule, view),
        )

    def _decision(self, rule: Rule, line: int, mode: Mode) -> Decision:
        effect, code = _OUTCOMES[rule.effect]
        if rule.effect is Effect.ASK and self._ask_mode(mode) == "deny":
            effect, code = Effect.DENY, DecisionCode.APPROVAL_DENIED
        return replace(
            self._otherwise, effect=effect, code=code, reason=rule.why or _WHY[code], rule=rule.id, line=line
        )

    def _ask_mode(self, mode: Mode) -> AskMode:
        modes = self.model.modes
        return modes.training.ask if mode == "training" else modes.deployment.ask

    def _covers(self, rule: Rule, principal: Principal) -> bool:
        return not rule.to or any(self._principals[name](principal) for name in rule.to)


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


def _indexed(policy: Policy) -> list[_IndexedRule]:
    return [
        _IndexedRule(rule, policy.rule_line(index), tool_test(rule.tools))
        for index, rule in enumerate(policy.model.rules)
    ]


def tool_test(patterns: Sequence[str]) -> Callable[[str, str], bool]:
    """Return a test of server and tool names for a rule's patterns."""
    tests = [tuple(map(compile_wildcard, split_tool_pattern(pattern))) for pattern in patterns]
    return lambda server, tool: any(of_server(server) and of_tool(tool) for of_server, of_tool in tests)


def _implied_kinds(entries: Sequence[_IndexedRule]) -> dict[str, Kind]:
    """Return the kinds that the rules' own matchers give to arguments; a path wins over a URL."""
    kinds: dict[str, Kind] = {}
    for entry in entries:
        for argument, matchers in entry.rule.args.items():
            kind = implied_kind(matchers)
            if kind and argument not in SELECTORS and kinds.get(argument) != "path":
                kinds[argument] = kind
    return kinds


def _spellings(view: ToolView) -> Iterator[Spelling]:
    for argument, kind in view.kinds.items():
        canon = canon_for(kind, view.workspace)
        if canon:
            first, *rest = argument.split(".")
            yield Spelling(first, tuple(rest), canon)


def _with_effect(rules: Sequence[BoundRule], effect: Effect) -> tuple[BoundRule, ...]:
    return tuple(rule for rule in rules if rule.rule.effect is effect)


DENY_ALL = CompiledPolicy(None)
"""What stands where no policy was given: every call is denied."""
