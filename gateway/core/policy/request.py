"""What the policy is asked, what it answers, and what it may know of a toolpack. Frozen values.

A call of a tool is a `Request(...)`; reading a resource (or subscribing to it) is
`Request.of_resource`, getting a prompt (or completing one of its arguments) `Request.of_prompt`.
All three are judged, labelled and limited alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from gateway.core.calls import LOCAL, Principal
from gateway.core.decisions import Decision
from gateway.core.json_types import JsonObject
from gateway.core.policy.model import Mode
from gateway.core.policy.patterns import Target, split_name
from gateway.core.policy.situation import NOWHERE, Charge, Situation
from gateway.core.policy.uris import file_path

__all__ = ["Judgement", "PackFacts", "Request", "ServerNeeds"]

_NO_KINDS: Mapping[str, str] = MappingProxyType({})


class Request(NamedTuple):
    """One call to be judged.

    `tool` is the server's own name of it. `arguments` passed the strict gate and the tool's input
    schema. `kinds` says which arguments (dotted paths) are paths, urls, hosts, sql or commands;
    `workspace` is the absolute path that relative paths resolve against. Where `target` is a resource
    or a prompt, `tool` is its URI or name: those are made by `of_resource` and `of_prompt`.
    """

    server: str
    tool: str
    arguments: JsonObject
    kinds: Mapping[str, str] = _NO_KINDS
    workspace: str = "/workspace"
    principal: Principal = LOCAL
    mode: Mode = "deployment"
    situation: Situation = NOWHERE
    target: Target = "tool"

    def seen_in(self, situation: Situation) -> Request:
        """Return the same request in another situation."""
        # Named one by one: `_replace` takes several times as long, and each call comes through here.
        return Request(
            self.server,
            self.tool,
            self.arguments,
            self.kinds,
            self.workspace,
            self.principal,
            self.mode,
            situation,
            self.target,
        )

    @classmethod
    def of_resource(
        cls,
        server: str,
        uri: str,
        *,
        workspace: str = "/workspace",
        principal: Principal = LOCAL,
        mode: Mode = "deployment",
    ) -> Request:
        """Return the request to read or subscribe to the resource of this URI.

        Rules see the URI as the argument `uri`, and what a `file:` URI names as `path`. The URI is judged
        and forwarded as it came; one that could be read in two ways is refused.
        """
        arguments: JsonObject = {"uri": uri}
        path = file_path(uri)
        if path is not None:
            arguments["path"] = path
        kinds = {"uri": "url", "path": "path"}
        return cls(server, uri, arguments, kinds, workspace, principal, mode, target="resource")

    @classmethod
    def of_prompt(
        cls,
        server: str,
        name: str,
        arguments: JsonObject,
        *,
        workspace: str = "/workspace",
        principal: Principal = LOCAL,
        mode: Mode = "deployment",
    ) -> Request:
        """Return the request to get the prompt of this name with these arguments.

        What is forwarded is `Judgement.arguments`, as for a tool.
        """
        return cls(
            server, name, arguments, workspace=workspace, principal=principal, mode=mode, target="prompt"
        )

    @classmethod
    def named(
        cls,
        name: str,
        arguments: JsonObject,
        facts: PackFacts,
        *,
        principal: Principal = LOCAL,
        mode: Mode = "deployment",
    ) -> Request:
        """Return the request of this `name` (see there) to servers of which `facts` are known.

        Raises `PatternError`, a `ValueError`, for what is no name.
        """
        target, server, own = split_name(name)
        match target:
            case "resource":
                workspace = facts.workspace
                return cls.of_resource(server, own, workspace=workspace, principal=principal, mode=mode)
            case "prompt":
                workspace = facts.workspace
                return cls.of_prompt(
                    server, own, arguments, workspace=workspace, principal=principal, mode=mode
                )
            case "tool":
                kinds = facts.kinds.get(server, {})
                return cls(server, own, arguments, kinds, facts.workspace, principal, mode)

    @property
    def name(self) -> str:
        """What is asked for as policies write it: `fs.read`, `resource:fs/file:///a`, `prompt:fs/review`."""
        if self.target == "tool":
            return f"{self.server}.{self.tool}"
        return f"{self.target}:{self.server}/{self.tool}"


class Judgement(NamedTuple):
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
