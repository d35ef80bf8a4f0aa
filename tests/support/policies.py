"""Short ways to say: this policy, this call, what is decided?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from gateway.core.calls import LOCAL, Principal
from gateway.core.policy import CompiledPolicy, Judgement, Request, compile_policy, load_policy
from gateway.core.policy.model import Mode

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
) -> Judgement:
    """Judge one call, named `server.tool`."""
    server, _, tool = call.partition(".")
    return policy.judge(
        Request(server, tool, dict(arguments or {}), kinds, workspace, principal=principal, mode=mode)
    )


def effect_of(
    policy: CompiledPolicy, call: str, arguments: Mapping[str, Any] | None = None, **how: Any
) -> str:
    """Return what is decided, in a word."""
    return judged(policy, call, arguments, **how).decision.effect.value


def code_of(policy: CompiledPolicy, call: str, arguments: Mapping[str, Any] | None = None, **how: Any) -> str:
    """Return the decision's code."""
    return judged(policy, call, arguments, **how).decision.code.value
