"""What results do as written, what sandboxes may have, what is capped."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gateway.core.policy.fields import Bytes, HostPorts, Identifier, Names, Roots, Shapes, TargetPatterns
from gateway.core.policy.model.matching import ArgumentMatchers
from gateway.core.policy.model.parts import LIST, Part

__all__ = [
    "Audit",
    "Defaults",
    "Grant",
    "GrantedMounts",
    "LabelRule",
    "ResultRule",
]


class LabelRule(Part):
    """What a result does to its session. `*` covers everything: tools, resources and prompts."""

    tool: TargetPatterns
    args: dict[str, ArgumentMatchers] = Field(default_factory=dict[str, ArgumentMatchers])
    adds: Annotated[tuple[Identifier, ...], LIST, Field(min_length=1)]


class ResultRule(Part):
    """What is kept back of a result before anyone sees it. `*` covers everything."""

    tool: TargetPatterns
    redact: Shapes = ()
    max_bytes: Bytes | None = None

    @model_validator(mode="after")
    def _says_something(self) -> ResultRule:
        if not self.model_fields_set & {"redact", "max_bytes"}:
            raise ValueError("one or both of redact, max_bytes")
        return self


class Audit(Part):
    """Whose argument values the ledger shows; of other calls it shows names, types and lengths."""

    arguments: Literal["plain"] = Field(description="plain: the values, but for the operator's secrets.")
    tool: TargetPatterns = Field(("*",), description="Whose; all tools by default.")


class GrantedMounts(Part):
    """Folders a sandbox may see; this version has the workspace and nothing else."""

    rw: Roots = ()
    ro: Roots = ()


class Grant(Part):
    """What one server's sandbox may have; it gets no more than it needs."""

    mounts: GrantedMounts | None = None
    memory: Bytes | None = Field(None, gt=0)
    cpu: float | None = Field(None, gt=0, le=1024, strict=False)
    pids: int | None = Field(None, ge=1, le=32_768)
    secrets: Names = Field((), description="Secrets by name; none that is not written.")
    egress: HostPorts = Field(
        (), description="Hosts as name[:port] or *.name[:port], port 443; none that is not written."
    )


class Defaults(Part):
    """Caps on arguments, checked before anything else reads them."""

    max_args_bytes: Bytes = 1_000_000
    max_depth: int = Field(default=64, ge=1, le=200)
    max_items: int = Field(
        default=10_000, ge=1, le=100_000, description="Most items of one list or members of one object."
    )
