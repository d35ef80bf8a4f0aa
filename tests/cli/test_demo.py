"""`sandgate demo`, as `make demo` runs it: real servers, real sandboxes, real clients."""

from __future__ import annotations

from pathlib import Path

from tests.support.processes import run_sandgate
from tests.support.terminal import sandgate


def test_the_demo_comes_out_as_it_should_and_leaves_its_ledger_where_it_is_told(tmp_path: Path) -> None:
    ran = run_sandgate("demo", "--state", str(tmp_path), timeout=400)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "NOT AS EXPECTED" not in ran.stdout
    assert "reward 1.0" in ran.stdout
    verified = sandgate("audit", "verify", str(tmp_path), "--format", "json")
    assert (verified.code, verified.document["decisions"]) == (0, 4)


def test_a_demo_whose_gateway_does_not_start_says_so(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("in the way")
    ran = run_sandgate("demo", "--state", str(tmp_path))
    assert ran.returncode == 2
    assert "the gateway did not start; what it said stands above" in ran.stderr
    assert "Traceback" not in ran.stderr
