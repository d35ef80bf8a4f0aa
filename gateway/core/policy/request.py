"""What the policy is asked, what it answers, and what it may know of a toolpack. Frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.core.calls import LOCAL, Principal
from gateway.core.decisions import Decision
from gateway.core.json_types import JsonObject
from gateway.core.policy.model import Mode
from gateway.core.policy.patterns import Target
from gateway.core.policy.situation import NOWHERE, Charge, Situation

__all__ = ["Judgement", "PackFacts", "Request", "ServerNeeds"]


@dataclass(frozen=True, slots=True)
class Request:
    """One call to be judged.

    `tool` is the server's own name of it. `arguments` passed the strict gate and the tool's input
    schema. `kinds` says which arguments (dotted paths) are paths, urls, hosts, sql or commands;
    `workspace` is the absolute path that relative paths resolve against. Where `target` is a resource
    or a prompt, `tool` is its URI or name.
    """

    server: str
    tool: str
    arguments: JsonObject
    kinds: Mapping[str, str] = field(default_factory=dict[str, str])
    workspace: str = "/workspace"
    principal: Principal = LOCAL
    mode: Mode = "deployment"
    situation: Situation = NOWHERE
    target: Target = "tool"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was decided, and the canonical arguments it was decided on: exactly what is forwarded.

    `charges` are what the call costs the counters of the rules that let it through, if it runs.
    """

    decision: Decision
    arguments: JsonObject
    charges: tuple[Charge, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerNeeds:
    """What a toolpack says that one server's sandbox needs. Sizes in bytes, `cpu` in cores."""

    memory: int
    cpu: float
    pids: int
    secrets: tuple[str, ...] = ()
    egress: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PackFacts:
    """What a toolpack's lock and manifest say that a policy can be checked and tested against.

    `tools`: server -> tool -> input schema. `kinds`: server -> argument (dotted path) -> kind.
    `needs`: what each server's sandbox needs, which the policy's grants may cut.
    """

    tools: Mapping[str, Mapping[str, JsonObject]] = field(default_factory=dict[str, dict[str, JsonObject]])
    kinds: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, dict[str, str]])
    workspace: str = "/workspace"
    needs: Mapping[str, ServerNeeds] = field(default_factory=dict[str, ServerNeeds])
