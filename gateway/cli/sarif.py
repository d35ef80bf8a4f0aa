"""Problems as SARIF 2.1.0, which code hosts show beside the line. Knows nothing of where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from gateway import __version__
from gateway.errors import Problem

__all__ = ["sarif"]

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(errors: Sequence[Problem], warnings: Sequence[Problem]) -> dict[str, Any]:
    """Return one SARIF log with a result for each problem; each code is a rule of it."""
    results = [*(_result(problem, "error") for problem in errors)]
    results += [_result(problem, "warning") for problem in warnings]
    rules = [{"id": code} for code in sorted({result["ruleId"] for result in results})]
    driver = {"name": "sandgate", "version": __version__, "rules": rules}
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results, "columnKind": "unicodeCodePoints"}],
    }


def _result(problem: Problem, level: str) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": quote(PurePath(problem.file).as_posix())}}
    if problem.line:
        place["region"] = {"startLine": problem.line, "startColumn": problem.column}
    return {
        "ruleId": problem.code,
        "level": level,
        "message": {"text": problem.message},
        "locations": [{"physicalLocation": place}],
    }
