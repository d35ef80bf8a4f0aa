"""The policy file as frozen models: grammar only. What it means is in `matchers` and `evaluate`."""

from gateway.core.policy.model.file import Case, CaseFile, PolicyFile
from gateway.core.policy.model.matching import ArgumentMatchers, Argv, ItemMatchers, Matchers, Sql
from gateway.core.policy.model.modes import (
    Approver,
    AskMode,
    DeploymentMode,
    Modes,
    OnDeny,
    SeededAsk,
    Step,
    TrainingMode,
    VirtualClock,
)
from gateway.core.policy.model.parts import KINDS, SELECTORS, Kind, Mode, Place
from gateway.core.policy.model.results import Audit, Defaults, Grant, GrantedMounts, LabelRule, ResultRule
from gateway.core.policy.model.rules import Approve, IfLabels, Limit, Per, PrincipalPattern, Rule

__all__ = [
    "KINDS",
    "SELECTORS",
    "Approve",
    "Approver",
    "ArgumentMatchers",
    "Argv",
    "AskMode",
    "Audit",
    "Case",
    "CaseFile",
    "Defaults",
    "DeploymentMode",
    "Grant",
    "GrantedMounts",
    "IfLabels",
    "ItemMatchers",
    "Kind",
    "LabelRule",
    "Limit",
    "Matchers",
    "Mode",
    "Modes",
    "OnDeny",
    "Per",
    "Place",
    "PolicyFile",
    "PrincipalPattern",
    "ResultRule",
    "Rule",
    "SeededAsk",
    "Sql",
    "Step",
    "TrainingMode",
    "VirtualClock",
]
