"""What a step came to, in words for a person: the decision, what the agent saw, the score. Prints nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.strict_json import dumps

if TYPE_CHECKING:
    from gateway.core.episode import StepResult
    from gateway.core.json_types import JsonObject, JsonValue

__all__ = ["decision_text", "rubric_text", "seen_text"]

_BESIDE = {"reward", "done", "metadata", "prompt", "task", "submitted"}


def decision_text(result: StepResult) -> str:
    """Return how the policy decided the step's call, or each call of its code; empty where there was none."""
    calls = result.observation.get("calls")
    if isinstance(calls, list):
        made = [call for call in calls if isinstance(call, dict)]
        return "\n".join(f"  {call.get('tool')}: {_decided(call.get('decision'))}" for call in made)
    policy = result.metadata.get("policy")
    return f"  {_decided(policy)}" if isinstance(policy, dict) else ""


def seen_text(result: StepResult) -> str:
    """Return what the agent is shown: a result's text, an error's sentence, what code wrote, else JSON.

    Nothing for a call that was denied: the decision's own sentence says it.
    """
    policy, observation = result.metadata.get("policy"), result.observation
    if isinstance(policy, dict) and policy.get("effect") != "allow":
        return ""
    return _observed(observation)


def _observed(observation: JsonObject) -> str:
    if "stdout" in observation:
        return _code_text(observation)
    error, result = observation.get("error"), observation.get("result")
    if isinstance(error, dict):
        return f"{error.get('error_type')}: {error.get('message')}"
    if isinstance(result, dict):
        content = result.get("content")
        return "\n".join(_block(block) for block in content) if isinstance(content, list) else ""
    shown = {name: value for name, value in observation.items() if name not in _BESIDE}
    return dumps(shown).decode() if shown else ""


def rubric_text(result: StepResult) -> str:
    """Return the step's reward and, at the end, why it ended and what every check found."""
    lines = [f"  reward {result.reward:g}"] if result.reward or (result.done and result.reward == 0) else []
    if not result.done:
        return "\n".join(lines)
    why = result.metadata.get("truncated_reason")
    lines.insert(0, f"  done: {result.metadata.get('done_reason')}{f', {why}' if why else ''}")
    rubric = result.metadata.get("rubric")
    checks = [check for check in rubric if isinstance(check, dict)] if isinstance(rubric, list) else []
    lines += [
        f"    {_score(check)}  {check.get('check')}  {_line(check.get('detail'))}".rstrip()
        for check in checks
    ]
    return "\n".join(lines)


def _decided(decision: JsonValue) -> str:
    if not isinstance(decision, dict):
        return "not decided"
    rule, line = decision.get("rule"), decision.get("line")
    by = f" by rule {rule}" if rule else ""
    where = f" ({decision.get('policy')}{f':{line}' if line else ''})" if decision.get("policy") else ""
    return f"{decision.get('effect')}{by}: {decision.get('reason')}{where} [{decision.get('code')}]"


def _code_text(observation: JsonObject) -> str:
    error, result = observation.get("error"), observation.get("result")
    told = [str(observation.get(name) or "").rstrip("\n") for name in ("stdout", "stderr")]
    if result is not None:
        told.append(dumps(result).decode())
    if isinstance(error, dict):
        told.append(str(error.get("traceback") or error.get("message")))
    return "\n".join(text for text in told if text)


def _block(block: JsonValue) -> str:
    if not isinstance(block, dict):
        return str(block)
    return str(block["text"]) if block.get("type") == "text" and "text" in block else f"[{block.get('type')}]"


def _line(text: JsonValue) -> str:
    return " ".join(str(text or "").split())


def _score(check: JsonObject) -> str:
    score = check.get("score")
    shown = f"{score:.2f}" if isinstance(score, int | float) else "?"
    return f"{shown} {'gate' if check.get('gate') else ''}".rstrip()
