"""What is well-formed and still probably wrong: warnings about a policy, alone or against a toolpack.

Faults that refuse a file are found when it is read (`reading`); nothing here changes a decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import WithDefaultSchema

from gateway.core.decisions import Effect
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.policy.contradictions import contradiction, guard_contradiction
from gateway.core.policy.granted_hosts import host_differences
from gateway.core.policy.grants import differences, mount_faults
from gateway.core.policy.matchers import implied_kind
from gateway.core.policy.model import SELECTORS, ArgumentMatchers, Place, PolicyFile, Rule
from gateway.core.policy.patterns import split_pattern, split_tool_pattern
from gateway.core.policy.reading import Policy
from gateway.core.policy.request import PackFacts
from gateway.core.policy.targets import target_test, tool_test
from gateway.errors import Problem

__all__ = ["check", "policy_json_schema", "report"]

_PATH_NAMES = frozenset({"path", "paths", "file", "files", "filename", "dir", "directory", "folder", "cwd"})
_URL_NAMES = frozenset({"url", "urls", "uri", "uris", "href", "endpoint"})


def check(policy: Policy, facts: PackFacts | None = None) -> list[Problem]:
    """Return warnings in the file's order; `facts` adds the toolpack's servers, tools and arguments."""
    checker = _Checker(policy, facts or PackFacts())
    found = [*checker.alone(), *(checker.against_pack() if facts else ())]
    return sorted(
        set(found), key=lambda problem: (problem.line, problem.column, problem.code, problem.message)
    )


def report(errors: Sequence[Problem], warnings: Sequence[Problem]) -> JsonObject:
    """Return the JSON of `policy check --format json`."""
    return {
        "ok": not errors,
        "errors": [_wire(problem) for problem in errors],
        "warnings": [_wire(problem) for problem in warnings],
    }


def policy_json_schema() -> JsonObject:
    """Return the JSON Schema of policy files, for editors. The reader checks more than it can say."""
    schema: JsonObject = PolicyFile.model_json_schema(schema_generator=_WithoutDefaults)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "sandgate policy"}


class _WithoutDefaults(GenerateJsonSchema):
    """A matcher that is left out is not there; its technical default would only mislead an editor."""

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        """Return the schema of the value alone."""
        return self.generate_inner(schema["schema"])


def _wire(problem: Problem) -> JsonObject:
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "code": problem.code,
        "message": problem.message,
    }


class _Checker:
    def __init__(self, policy: Policy, facts: PackFacts) -> None:
        self._document = policy.document
        self._model = policy.model
        self._rules = list(policy.model.placed_rules())
        self._facts = facts
        self._kinds = facts.kinds
        self._added = {label for entry in policy.model.labels for label in entry.adds}

    def alone(self) -> Iterator[Problem]:
        """Yield what the file itself shows."""
        for place, rule, _ in self._rules:
            for argument, matchers in rule.args.items():
                path = (*place, "args", argument)
                reason = contradiction(matchers)
                if reason:
                    yield self._document.problem(
                        path, "never_holds", f"rule {rule.id!r} can never hold: {reason}"
                    )
                yield from self._relative_globs(path, argument, matchers)
            if reason := guard_contradiction(rule):
                yield self._document.problem(
                    place, "never_holds", f"rule {rule.id!r} can never hold: {reason}"
                )
            yield from self._labels_nobody_adds(place, rule)
            yield from self._short_uris((*place, rule.effect.value), rule.tools)
            for index, label in enumerate(rule.approve.clears if rule.approve else ()):
                if label not in self._added:
                    message = f"no entry of 'labels' adds {label!r}: there is nothing to clear"
                    yield self._document.problem(
                        (*place, "approve", "clears", index), "unknown_label", message
                    )

        for section, entries in (("labels", self._model.labels), ("results", self._model.results)):
            for index, entry in enumerate(entries):
                yield from self._short_uris((section, index, "tool"), entry.tool)

    def _short_uris(self, place: Place, patterns: Sequence[str]) -> Iterator[Problem]:
        for position, pattern in enumerate(patterns):
            if split_pattern(pattern).target == "resource" and pattern.endswith("://*"):
                message = (
                    f"{pattern!r} names URIs of one segment only; for all of the scheme write '{pattern}*'"
                )
                yield self._document.problem((*place, position), "short_pattern", message)

    def _labels_nobody_adds(self, place: Place, rule: Rule) -> Iterator[Problem]:
        wanted = rule.if_labels
        for label in (*wanted.all, *wanted.any, *wanted.none) if wanted else ():
            if label not in self._added:
                message = f"no entry of 'labels' adds {label!r}: rule {rule.id!r} asks for it in vain"
                yield self._document.problem((*place, "if_labels"), "unknown_label", message)

    def _relative_globs(self, path: Place, argument: str, matchers: ArgumentMatchers) -> Iterator[Problem]:
        if argument != "@path" and implied_kind(matchers) != "path" and not self._declared(argument, "path"):
            return
        for pattern in (*matchers.glob, *matchers.not_glob):
            if not pattern.startswith(("/", "**")):
                message = (
                    f"{pattern!r} is taken relative to the workspace; for any folder write '**/{pattern}'"
                )
                yield self._document.problem(path, "relative_pattern", message)

    def _declared(self, argument: str, kind: str) -> bool:
        return any(kinds.get(argument) == kind for kinds in self._kinds.values())

    def against_pack(self) -> Iterator[Problem]:
        """Yield what does not fit the toolpack."""
        yield from differences(self._model, self._document, self._facts.needs)
        yield from host_differences(self._model, self._document, self._facts.tools)
        yield from mount_faults(self._model, self._document, self._facts.workspace)
        yield from self._unknown_elsewhere()
        for place, rule, _ in self._rules:
            yield from self._unknown_tools((*place, rule.effect.value), rule.tools)
            tools = _covered(rule, self._facts)
            yield from self._unknown_arguments(place, rule, tools)
            yield from self._kindless(place, rule, tools)
            if reason := self._shadow(rule, tools):
                yield self._document.problem(
                    place, "never_matters", f"rule {rule.id!r} never matters: {reason}"
                )

    def _unknown_elsewhere(self) -> Iterator[Problem]:
        for index, entry in enumerate(self._model.labels):
            yield from self._unknown_tools(("labels", index, "tool"), entry.tool)
        for index, entry in enumerate(self._model.results):
            yield from self._unknown_tools(("results", index, "tool"), entry.tool)

    def _unknown_tools(self, place: Place, patterns: Sequence[str]) -> Iterator[Problem]:
        for position, pattern in enumerate(patterns):
            if pattern == "*" or split_pattern(pattern).target != "tool":
                continue
            if any(map(tool_test([pattern]), *_columns(self._facts))):
                continue
            server, tool = split_tool_pattern(pattern)
            known = server in self._facts.tools
            unlocked = [name for name in self._kinds if name not in self._facts.tools]
            if server in unlocked or ("*" in server and unlocked):
                message = f"tools of {unlocked[0]!r} are not known yet: run 'sandgate toolpack lock'"
                yield self._document.problem((*place, position), "not_locked", message)
                continue
            what = (
                f"server {server!r} has no tool {tool!r}"
                if known
                else f"no server and tool match {pattern!r}"
            )
            yield self._document.problem((*place, position), "unknown_tool", f"{what} in this toolpack")

    def _unknown_arguments(self, place: Place, rule: Rule, tools: _Tools) -> Iterator[Problem]:
        for argument in rule.args if tools else ():
            path = (*place, "args", argument)
            kind = SELECTORS.get(argument)
            if kind:
                if not any(kind in self._kinds.get(server, {}).values() for server, _, _ in tools):
                    message = (
                        f"no argument of the rule's tools is declared as a {kind}: {argument!r} names nothing"
                    )
                    yield self._document.problem(path, "unknown_argument", message)
            elif not any(_has_argument(schema, argument) for _, _, schema in tools):
                message = f"none of the rule's tools has an argument {argument!r}"
                yield self._document.problem(path, "unknown_argument", message)

    def _kindless(self, place: Place, rule: Rule, tools: _Tools) -> Iterator[Problem]:
        if rule.effect is Effect.DENY:
            return
        for server, tool, schema in tools:
            for argument in _properties(schema):
                likely = _likely_kind(argument)
                if not likely or argument in self._kinds.get(server, {}):
                    continue
                if argument in rule.args and implied_kind(rule.args[argument]):
                    continue
                message = f"{server}.{tool}: argument {argument!r} is named like a {likely} and has no kind"
                yield self._document.problem(place, "no_kind", message)

    def _shadow(self, rule: Rule, tools: _Tools) -> str | None:
        """Return which rule without conditions decides all that this one could."""
        if not tools:
            return None
        covering = [
            other
            for _, other, modes in self._rules
            if len(modes) > 1 and other is not rule and _always_holds(other)
        ]
        for effect in (Effect.DENY, Effect.ASK, Effect.ALLOW):
            rules = [other for other in covering if other.effect is effect]
            weaker = rule.effect is not effect and _STRICTER[effect] > _STRICTER[rule.effect]
            same = rule.effect is effect and effect is not Effect.ASK and not _always_holds(rule)
            if (weaker or same) and all(any(_names(other, tool) for other in rules) for tool in tools):
                named = " and ".join(repr(other.id) for other in rules)
                verb = {Effect.DENY: "denies", Effect.ASK: "asks about", Effect.ALLOW: "allows"}[effect]
                return f"{named} {verb} all its tools without conditions"
        return None


_STRICTER = {Effect.ALLOW: 0, Effect.ASK: 1, Effect.DENY: 2}
_Tool = tuple[str, str, JsonObject]
_Tools = list[_Tool]


def _always_holds(rule: Rule) -> bool:
    return not (rule.args or rule.to or rule.if_labels or rule.hours or rule.when or rule.limit)


def _names(rule: Rule, tool: _Tool) -> bool:
    return target_test(rule.tools, rule.effect)("tool", tool[0], tool[1])


def _covered(rule: Rule, facts: PackFacts) -> _Tools:
    names = target_test(rule.tools, rule.effect)
    return [
        (server, tool, schema)
        for server, tools in facts.tools.items()
        for tool, schema in tools.items()
        if names("tool", server, tool)
    ]


def _columns(facts: PackFacts) -> tuple[list[str], list[str]]:
    pairs = [(server, tool) for server, tools in facts.tools.items() for tool in tools]
    return [server for server, _ in pairs], [tool for _, tool in pairs]


def _properties(schema: JsonValue) -> dict[str, JsonValue]:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return properties if isinstance(properties, dict) else {}


def _has_argument(schema: JsonValue, argument: str) -> bool:
    """Whether a schema may have the dotted path: one without `properties` may have anything in it."""
    if not schema:
        return True  # the lock knows that the tool is there, and not what it takes
    first, _, rest = argument.partition(".")
    properties = _properties(schema)
    if first not in properties:
        return not isinstance(schema, dict) or "properties" not in schema
    return not rest or not _properties(properties[first]) or _has_argument(properties[first], rest)


def _likely_kind(argument: str) -> str | None:
    last = argument.lower().replace("-", "_").rpartition("_")[2]
    if last in _PATH_NAMES:
        return "path"
    return "url" if last in _URL_NAMES else None
