"""`sandgate audit export`: the records as they stand, for other programs."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.ledgers import records_of, write_ledger
from tests.support.terminal import sandgate


async def test_whole_records_are_exported_a_line_each_and_filtered_as_queries_are(tmp_path: Path) -> None:
    await write_ledger(tmp_path, "one", "two")
    done = sandgate("audit", "export", str(tmp_path))
    assert done.code == 0
    assert [json.loads(line) for line in done.out.splitlines()] == records_of(tmp_path)
    assert sandgate("audit", "export", str(tmp_path), "--tool", "none-of-them").out == ""


async def test_a_chain_that_does_not_hold_is_said_beside_what_it_has(tmp_path: Path) -> None:
    await write_ledger(tmp_path, "one")
    [file] = (tmp_path / "audit").glob("*.jsonl")
    file.write_text(file.read_text().replace('"one"', '"two"'))
    done = sandgate("audit", "export", str(tmp_path))
    assert done.code == 1
    assert "the chain is BROKEN" in done.err
    assert f"sandgate audit verify {tmp_path}" in done.err
