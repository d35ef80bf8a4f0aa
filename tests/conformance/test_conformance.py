"""The official conformance suite passes through the gateway as it does against the server directly."""

from __future__ import annotations

from pathlib import Path

from tests.conformance.suite import REQUIREMENTS, both, direct, lost, table, through_the_gateway

SCORED = {"2025-11-25": 30, "2026-07-28": 37}


def test_every_scenario_that_passes_directly_passes_through_the_gateway(tmp_path: Path) -> None:
    with direct() as url:
        reference = both(url)
    assert {name: report.score for name, report in reference.items()} == SCORED
    with through_the_gateway(tmp_path) as url:
        ours = both(url)
        missing = lost(url, reference, ours)
    print(table(reference, ours))
    for requirements in REQUIREMENTS:
        assert not missing[requirements], ours[requirements].output[-6_000:]
