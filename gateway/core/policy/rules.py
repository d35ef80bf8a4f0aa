"""One rule bound to one tool: its conditions as closures, and the decision it makes when it holds.

In allow and ask, a value counts only if every matcher holds; every value must count, and there must
be one. In deny, a value counts unless a matcher clearly does not hold; one value is enough. So any
doubt is a denial.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gateway.core.calls import Principal
from gateway.core.decisions import Decision, Effect
from gateway.core.json_types import JsonObject
from gateway.core.policy.arguments import UNREACHABLE, Finder, named, of_kind
from gateway.core.policy.guards import Guard
from gateway.core.policy.judges import Judge, ValueKind
from gateway.core.policy.matchers import Check, compile_matchers
from gateway.core.policy.model import SELECTORS, ArgumentMatchers, Kind, Mode, PrincipalPattern, Rule
from gateway.core.policy.request import Request
from gateway.core.policy.situation import Charge, Situation
from gateway.core.policy.wildcards import StringTest, compile_wildcard

__all__ = ["BoundRule", "Condition", "PrincipalTest", "ToolView", "bind_conditions", "compile_principal"]

PrincipalTest = Callable[[Principal], bool]
Counter = Callable[[JsonObject, Request], Charge]


@dataclass(frozen=True, slots=True)
class ToolView:
    """How one tool's arguments are judged.

    `declared` kinds come from the toolpack and are what `@path` names; `kinds` are those and the
    ones that path and URL matchers imply. `variables` are the texts of the policy's `vars`.
    """

    declared: Mapping[str, Kind]
    kinds: Mapping[str, Kind]
    workspace: str
    variables: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Condition:
    """One entry of a rule's `args`: where its values are, and what must be true of them.

    `looks`: what is true of them shows in the session's files.
    """

    argument: str
    find: Finder
    checks: tuple[Check, ...]
    holds: Callable[[JsonObject, Situation], bool]
    looks: bool = False


@dataclass(frozen=True, slots=True)
class BoundRule:
    """A rule as one tool sees it. `decisions`, by mode, are ready but for the call's id.

    `counter` names what its limit counts, where it has one.
    """

    rule: Rule
    line: int
    decisions: Mapping[Mode, Decision]
    to: tuple[PrincipalTest, ...]
    conditions: tuple[Condition, ...]
    guards: tuple[Guard, ...] = ()
    counter: Counter | None = None

    def holds(self, arguments: JsonObject, request: Request) -> bool:
        """Whether the rule holds for canonical arguments; what its limit says is not asked here."""
        return self.first_miss(arguments, request) < 0

    def first_miss(self, arguments: JsonObject, request: Request) -> int:
        """Return which part does not hold: a condition, after them the principal, then a guard; or -1."""
        at = 0
        for condition in self.conditions:
            if not condition.holds(arguments, request.situation):
                return at
            at += 1
        if self.to and not self.covers(request.principal):
            return at
        for guard in self.guards:
            at += 1
            if not guard.holds(arguments, request):
                return at
        return -1

    def covers(self, principal: Principal) -> bool:
        """Whether the rule is about this principal."""
        return not self.to or any(test(principal) for test in self.to)


def bind_conditions(
    args: Mapping[str, ArgumentMatchers], effect: Effect, view: ToolView
) -> tuple[Condition, ...]:
    """Return what `args` ask of one tool's arguments, in the file's order; doubts count as in `effect`."""
    return tuple(_condition(argument, matchers, effect, view) for argument, matchers in args.items())


def compile_principal(pattern: PrincipalPattern) -> PrincipalTest:
    """Return a test of authenticated identities; every key that is written has to match."""
    clients, users, groups = map(_wildcards, (pattern.client, pattern.user, pattern.group))

    def test(principal: Principal) -> bool:
        return (
            (clients is None or _any_of(clients, principal.client))
            and (users is None or _any_of(users, principal.user))
            and (groups is None or any(_any_of(groups, group) for group in principal.groups))
        )

    return test


def _wildcards(patterns: Sequence[str] | None) -> list[StringTest] | None:
    return None if patterns is None else [compile_wildcard(pattern) for pattern in patterns]


def _any_of(tests: Sequence[StringTest], text: str | None) -> bool:
    return text is not None and any(test(text) for test in tests)


def _condition(argument: str, matchers: ArgumentMatchers, effect: Effect, view: ToolView) -> Condition:
    kind = SELECTORS.get(argument)
    find = of_kind(kind, view.declared) if kind else named(argument)
    if matchers.absent:
        return Condition(argument, find, (_ABSENT,), _holds_absent(find, effect))
    kind = kind or view.kinds.get(argument)
    checks = compile_matchers(matchers, ValueKind(kind, view.workspace, view.variables))
    judges = tuple(check.judge for check in checks)
    holds = _denies(find, judges) if effect is Effect.DENY else _grants(find, judges)
    return Condition(argument, find, checks, holds, any(part.symlinks for part in matchers.every()))


_ABSENT = Check("absent", True, "true", lambda value, _: False)


def _holds_absent(find: Finder, effect: Effect) -> Callable[[JsonObject, Situation], bool]:
    def holds(arguments: JsonObject, situation: Situation) -> bool:
        found = find(arguments)
        # Unreachable cannot be judged: it counts in a deny only.
        return not found or (effect is Effect.DENY and UNREACHABLE in found)

    return holds


def _grants(find: Finder, judges: Sequence[Judge]) -> Callable[[JsonObject, Situation], bool]:
    def holds(arguments: JsonObject, situation: Situation) -> bool:
        values = find(arguments)
        for value in values:
            if value is UNREACHABLE:
                return False
            for judge in judges:
                if judge(value, situation) is not True:
                    return False
        return len(values) > 0

    return holds


def _denies(find: Finder, judges: Sequence[Judge]) -> Callable[[JsonObject, Situation], bool]:
    def holds(arguments: JsonObject, situation: Situation) -> bool:
        for value in find(arguments):
            if value is UNREACHABLE:
                return True
            for judge in judges:
                if judge(value, situation) is False:
                    break
            else:
                return True
        return False

    return holds
