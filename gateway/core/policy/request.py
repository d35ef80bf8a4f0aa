"""What the policy is asked, what it answers, and what it may know of a toolpack. Frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.core.calls import LOCAL, Principal
from gateway.core.decisions import Decision
from gateway.core.json_types import JsonObject
from gateway.core.policy.model import Mode

__all__ = ["Judgement", "PackFacts", "Request"]


@dataclass(frozen=True, slots=True)
class Request:
    """One call to be judged.

    `tool` is the server's own name of it. `arguments` passed the strict gate and the tool's input
    schema. `kinds` says which arguments (dotted paths) are paths, urls, hosts, sql or commands;
    `workspace` is the absolute path that relative paths resolve against.
    """

    server: str
    tool: str
    arguments: JsonObject
    kinds: Mapping[str, str] = field(default_factory=dict[str, str])
    workspace: str = "/workspace"
    principal: Principal = LOCAL
    mode: Mode = "deployment"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was decided, and the canonical arguments it was decided on: exactly what is forwarded."""

    decision: Decision
    arguments: JsonObject


@dataclass(frozen=True, slots=True)
class PackFacts:
    """What a toolpack's lock and manifest say that a policy can be checked and tested against.

    `tools`: server -> tool -> input schema. `kinds`: server -> argument (dotted path) -> kind.
    """

    tools: Mapping[str, Mapping[str, JsonObject]] = field(default_factory=dict[str, dict[str, JsonObject]])
    kinds: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, dict[str, str]])
    workspace: str = "/workspace"
