"""What is different in a mode, as written: overlays that never widen, clocks, what becomes of an ask."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, cast

from pydantic import BeforeValidator, Field

from gateway.core.policy.fields import Duration
from gateway.core.policy.model.parts import LIST, Part
from gateway.core.policy.model.rules import Rule

__all__ = [
    "Approver",
    "AskMode",
    "DeploymentMode",
    "Modes",
    "OnDeny",
    "SeededAsk",
    "Step",
    "TrainingMode",
    "VirtualClock",
]

AskMode: TypeAlias = Literal["deny", "prompt", "queue", "approver"]


class Approver(Part):
    """Dice that answer for people: the same episode gets the same answers."""

    probability: float = Field(ge=0, le=1, strict=False, description="How often the answer is yes.")
    seed: int = Field(0, description="Mixed with the seed of the episode and the number of the call.")


class SeededAsk(Part):
    """Asks are answered by dice."""

    approver: Approver


def _of_training(value: object) -> object:
    if value == "deny" or isinstance(value, dict | SeededAsk):
        return None if value == "deny" else cast("object", value)
    raise ValueError("nobody is asked in training: deny, or {approver: {probability: 0.5, seed: 1}}")


def _clock(value: object) -> object:
    if value in ("virtual", "real"):
        return {"virtual": {"step": 1.0}} if value == "virtual" else None
    if isinstance(value, dict | VirtualClock):
        return cast("object", value)
    raise ValueError("a clock is virtual, real or {virtual: {step: 10s}}")


def _of_deployment(value: object) -> object:
    if isinstance(value, dict) and "approver" in value:
        raise ValueError("dice approve nothing in deployment: prompt, queue or deny")
    return cast("object", value)


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

    ask: Annotated[
        SeededAsk | None,
        BeforeValidator(_of_training, json_schema_input_type=Literal["deny"] | SeededAsk),
    ] = Field(default=None, description="deny (the default), or who answers in people's place.")
    on_deny: OnDeny = OnDeny()
    clock: Annotated[
        VirtualClock | None,
        BeforeValidator(_clock, json_schema_input_type=Literal["virtual", "real"] | VirtualClock),
    ] = Field(
        default=VirtualClock(virtual=Step(step=1.0)),
        description="virtual (one second a step) or real.",
    )
    rules: _Overlay = ()


class DeploymentMode(Part):
    """What is different in deployment."""

    ask: Annotated[Literal["deny", "prompt", "queue"], BeforeValidator(_of_deployment)] = "prompt"
    clock: Literal["real"] = Field(default="real", description="The wall's; there is no other.")
    rules: _Overlay = ()


class Modes(Part):
    """Overlays by mode; none can widen an allow."""

    training: TrainingMode = TrainingMode()
    deployment: DeploymentMode = DeploymentMode()
