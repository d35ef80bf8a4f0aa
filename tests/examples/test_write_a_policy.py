"""The walk from a wide policy to a tight one: every command of it runs and prints what it shows."""

from __future__ import annotations

from pathlib import Path

from gateway.runtime import audit
from tests.support.markdown import ROOT, Document, blocks

WALK = ROOT / "examples" / "write_a_policy"


def test_the_walk_does_what_it_shows(tmp_path: Path) -> None:
    story = Document(tmp_path)
    played = blocks(WALK / "README.md")
    for block in played:
        story.play(block)
    assert len(played) == 5


def test_the_recorded_ledger_is_whole() -> None:
    assert audit.verify(WALK / "recorded").ok
