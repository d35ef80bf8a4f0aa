"""Hosts that rules let tools reach and hosts that grants let sandboxes reach, where the two differ. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from gateway.core.decisions import Effect
from gateway.core.documents import Document
from gateway.core.json_types import JsonObject
from gateway.core.policy.egress import parse_host_rule
from gateway.core.policy.model import Place, PolicyFile, Rule
from gateway.core.policy.targets import target_test
from gateway.errors import Problem

__all__ = ["host_differences"]


def host_differences(
    model: PolicyFile, document: Document, tools: Mapping[str, Mapping[str, JsonObject]]
) -> Iterator[Problem]:
    """Yield rules without the grant they need, and grants wider than any rule; none without `grants`."""
    for server, grant in (model.grants or {}).items():
        rules = [found for found in _grants(model) if _about(found[1], server, tools.get(server, {}))]
        if not rules and server in tools:
            message = f"no rule lets anybody use server {server!r}: its grant is wider than the rules"
            yield document.problem(("grants", server), "grant_wider", message)
        given = [str(parse_host_rule(text)).rpartition(":")[0] for text in grant.egress]
        yield from _ungranted(document, server, rules, given)
        wanted = {host for _, _, hosts in _named(rules) for host in hosts}
        for index, host in enumerate(given):
            if wanted and not any(_overlap(host, other) for other in wanted):
                message = f"no rule lets a tool of {server!r} name the host {host}: the grant is wider"
                yield document.problem(("grants", server, "egress", index), "grant_wider", message)


def _ungranted(
    document: Document, server: str, rules: Iterable[tuple[Place, Rule]], given: Iterable[str]
) -> Iterator[Problem]:
    for place, rule, hosts in _named(rules):
        missing = [host for host in hosts if not any(_overlap(host, other) for other in given)]
        if missing:
            message = (
                f"rule {rule.id!r} lets {server!r} name {', '.join(missing)}, and its sandbox is not "
                f"granted a way there: add it to grants.{server}.egress"
            )
            yield document.problem(place, "grant_missing", message)


def _grants(model: PolicyFile) -> Iterator[tuple[Place, Rule]]:
    return ((place, rule) for place, rule, _ in model.placed_rules() if rule.effect is not Effect.DENY)


def _about(rule: Rule, server: str, tools: Iterable[str]) -> bool:
    names = target_test(rule.tools, rule.effect)
    return any(names("tool", server, tool) for tool in tools)


def _named(rules: Iterable[tuple[Place, Rule]]) -> Iterator[tuple[Place, Rule, tuple[str, ...]]]:
    """Yield where each rule names hosts, and which."""
    for place, rule in rules:
        for argument, matchers in rule.args.items():
            if matchers.host:
                yield (*place, "args", argument), rule, matchers.host


def _overlap(one: str, other: str) -> bool:
    """Whether two host patterns may mean the same host."""
    if "*" in (one, other) or one == other:
        return True
    return (one.startswith("*.") and other.endswith(one[1:])) or (
        other.startswith("*.") and one.endswith(other[1:])
    )
