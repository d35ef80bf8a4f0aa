"""From a file's rules to the few that judge one tool: matched by name once, their conditions compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeAlias

from gateway.core.decisions import Decision, DecisionCode, Effect
from gateway.core.policy.arguments import Spelling, canon_for
from gateway.core.policy.evaluate import ToolRules
from gateway.core.policy.guards import Guard, bind_guards
from gateway.core.policy.labels import BoundLabels
from gateway.core.policy.limits import counter_of
from gateway.core.policy.matchers import implied_kind
from gateway.core.policy.model import (
    KINDS,
    SELECTORS,
    ArgumentMatchers,
    AskMode,
    Kind,
    LabelRule,
    Mode,
    PolicyFile,
    Rule,
)
from gateway.core.policy.reading import Policy
from gateway.core.policy.request import Request
from gateway.core.policy.rules import (
    BoundRule,
    Counter,
    PrincipalTest,
    ToolView,
    bind_conditions,
    compile_principal,
)
from gateway.core.policy.targets import TargetTest, target_test, template_test
from gateway.core.policy.uris import uri_fault
from gateway.core.policy.variables import texts_in

__all__ = ["About", "Binder", "IndexedRule", "ask_mode"]

_MODES: tuple[Mode, ...] = ("training", "deployment")
_OUTCOMES = {
    Effect.ALLOW: (Effect.ALLOW, DecisionCode.RULE_ALLOW),
    Effect.DENY: (Effect.DENY, DecisionCode.RULE_DENY),
    Effect.ASK: (Effect.ASK, DecisionCode.APPROVAL_PENDING),
}
_WHY = {
    DecisionCode.RULE_ALLOW: "the rule allows this call",
    DecisionCode.RULE_DENY: "the rule forbids this call",
    DecisionCode.LABEL_DENY: "the rule forbids this call to a session with these labels",
    DecisionCode.APPROVAL_PENDING: "the call needs an approval",
    DecisionCode.APPROVAL_DENIED: "the call needs an approval, and there is nobody to give one",
}


About: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]
"""Which rules and which label rules something is about, by place."""


@dataclass(frozen=True, slots=True)
class IndexedRule:
    """A rule and all of it that does not depend on the tool. `modes` are those it holds in.

    `may_name` says whether it may be about a resource that a server's URI template makes.
    """

    rule: Rule
    line: int
    names: TargetTest
    may_name: Callable[[str, str], bool]
    guards: tuple[Guard, ...]
    counter: Counter | None
    modes: tuple[Mode, ...]


class Binder:
    """Binds one policy's rules to a tool, resource or prompt. Immutable."""

    def __init__(self, policy: Policy | None, model: PolicyFile, otherwise: Decision) -> None:
        self.rules = list(_indexed(policy)) if policy else []
        self._model = model
        self._otherwise = otherwise
        self._principals = {name: compile_principal(part) for name, part in model.principals.items()}
        self._labels = [(target_test(rule.tool, Effect.DENY), rule) for rule in model.labels]
        self._variables = tuple(texts_in(model.vars))

    def bind(self, request: Request) -> ToolRules:
        """Return what judges the calls of the request's tool in its mode."""
        target, server, tool, mode = request.target, request.server, request.tool, request.mode
        if mode not in _MODES:
            raise ValueError("no such mode")
        indexed = [entry for entry in self.rules if mode in entry.modes and entry.names(target, server, tool)]
        labels = [rule for names, rule in self._labels if names(target, server, tool)]
        declared: dict[str, Kind] = {argument: KINDS[kind] for argument, kind in request.kinds.items()}
        args = [*(entry.rule.args for entry in indexed), *(rule.args for rule in labels)]
        # A resource's URI is never respelled: the server gets the one that was listed or asked for.
        kinds: dict[str, Kind] = (
            {"path": "path"} if target == "resource" else {**_implied_kinds(args), **declared}
        )
        view = ToolView(declared, kinds, request.workspace, self._variables)
        bound = [self._bound(entry, view) for entry in indexed]
        asks, allows = _with_effect(bound, Effect.ASK), _with_effect(bound, Effect.ALLOW)
        bound_labels = tuple(_bound_labels(rule, view) for rule in labels)
        conditions = chain(*(rule.conditions for rule in bound), *(rule.conditions for rule in bound_labels))
        return ToolRules(
            kinds=declared,
            workspace=request.workspace,
            mode=mode,
            spellings=tuple(_spellings(view)),
            denies=_with_effect(bound, Effect.DENY),
            asks=asks,
            allows=allows,
            grants=asks + allows,
            labels=bound_labels,
            limited=any(rule.counter for rule in bound),
            looks=tuple(condition.find for condition in conditions if condition.looks),
            refuses=uri_fault if target == "resource" else None,
        )

    def about(self, request: Request) -> About:
        """Return which rules `bind` looks at for this request."""
        target, server, name, mode = request.target, request.server, request.tool, request.mode
        return (
            tuple(
                index
                for index, entry in enumerate(self.rules)
                if mode in entry.modes and entry.names(target, server, name)
            ),
            tuple(index for index, (names, _) in enumerate(self._labels) if names(target, server, name)),
        )

    def covers(self, rule: Rule, test: Callable[[PrincipalTest], bool]) -> bool:
        """Whether a rule is for a principal that `test` applies each pattern to."""
        return not rule.to or any(test(self._principals[name]) for name in rule.to)

    def _bound(self, entry: IndexedRule, view: ToolView) -> BoundRule:
        rule = entry.rule
        return BoundRule(
            rule=rule,
            line=entry.line,
            decisions={mode: self._decision(rule, entry.line, mode) for mode in _MODES},
            to=tuple(self._principals[name] for name in rule.to or ()),
            conditions=bind_conditions(rule.args, rule.effect, view),
            guards=entry.guards,
            counter=entry.counter,
        )

    def _decision(self, rule: Rule, line: int, mode: Mode) -> Decision:
        effect, code = _OUTCOMES[rule.effect]
        if rule.effect is Effect.ASK and ask_mode(self._model, mode) == "deny":
            effect, code = Effect.DENY, DecisionCode.APPROVAL_DENIED
        if rule.effect is Effect.DENY and rule.if_labels:
            code = DecisionCode.LABEL_DENY
        reason = rule.why or _WHY[code]
        if effect is Effect.ASK and rule.approve and rule.approve.clears:
            reason += f"; a yes also clears the session's labels: {', '.join(rule.approve.clears)}"
        return replace(self._otherwise, effect=effect, code=code, reason=reason, rule=rule.id, line=line)


def ask_mode(model: PolicyFile, mode: Mode) -> AskMode:
    """Return what becomes of an `ask` in a mode."""
    if mode == "deployment":
        return model.modes.deployment.ask
    return "approver" if model.modes.training.ask else "deny"


def _indexed(policy: Policy) -> Iterator[IndexedRule]:
    for place, rule, modes in policy.model.placed_rules():
        yield IndexedRule(
            rule=rule,
            line=policy.document.position(place).line,
            names=target_test(rule.tools, rule.effect),
            may_name=template_test(rule.tools, rule.effect),
            guards=bind_guards(rule),
            counter=counter_of(rule, policy.file),
            modes=modes,
        )


def _implied_kinds(every: Sequence[dict[str, ArgumentMatchers]]) -> dict[str, Kind]:
    """Return the kinds that the rules' own matchers give to arguments; a path wins over a URL."""
    kinds: dict[str, Kind] = {}
    for args in every:
        for argument, matchers in args.items():
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


def _bound_labels(rule: LabelRule, view: ToolView) -> BoundLabels:
    # A label restricts: a doubt adds it, as a doubt makes a deny hold.
    return BoundLabels(bind_conditions(rule.args, Effect.DENY, view), frozenset(rule.adds))


def _with_effect(rules: Sequence[BoundRule], effect: Effect) -> tuple[BoundRule, ...]:
    return tuple(rule for rule in rules if rule.rule.effect is effect)
