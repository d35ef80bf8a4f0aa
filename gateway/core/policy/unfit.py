"""The value that stands for 'this cannot be made canonical'. Nothing else lives here."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Unfit"]


@dataclass(frozen=True, slots=True)
class Unfit:
    """Why a value is refused before any rule sees it; a refusal, not an exception."""

    reason: str
    too_large: bool = False
