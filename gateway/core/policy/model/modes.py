"""What is different in a mode, as written: overlays that never widen, clocks, what becomes of an ask."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, cast

from pydantic import BeforeValidator, Field

from gateway.core.policy.fields import Duration
from gateway.core.policy.model.parts import LIST, Part
from gateway.core.policy.model.rules import Rule

__all__ = [
    "AskMode",
    "DeploymentMode",
    "Modes",
    "OnDeny",
    "Step",
    "TrainingMode",
    "VirtualClock",
]

AskMode: TypeAlias = Literal["deny", "prompt", "queue"]


class OnDeny(Part):
    """What a denial costs in training."""

    penalty: float = Field(default=0.0, description="Added to the reward of the step.")
    end_after: int | None = Field(default=None, ge=1, description="Denials after which the episode ends.")


class Step(Part):
    """A virtual clock's pace."""

    step: Duration = Field(gt=0, le=86_400)


class VirtualClock(Part):
    """A clock that moves with the steps of an episode."""

    virtual: Step


def _refuse_allow(value: object) -> object:
    if isinstance(value, dict) and "allow" in value:
        raise ValueError("a mode may deny or ask, never allow: put it among the file's rules")
    return cast("object", value)


_Overlay: TypeAlias = Annotated[
    tuple[Annotated[Rule, BeforeValidator(_refuse_allow)], ...],
    LIST,
    Field(description="Only deny and ask."),
]


class TrainingMode(Part):
    """What is different in training."""

    ask: Literal["deny"] = "deny"
    on_deny: OnDeny = OnDeny()
    clock: Literal["virtual", "real"] | VirtualClock = "virtual"
    rules: _Overlay = ()


class DeploymentMode(Part):
    """What is different in deployment."""

    ask: AskMode = "prompt"
    rules: _Overlay = ()


class Modes(Part):
    """Overlays by mode; none can widen an allow."""

    training: TrainingMode = TrainingMode()
    deployment: DeploymentMode = DeploymentMode()
