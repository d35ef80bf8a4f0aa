"""`sandgate env bench` measures what it says: so many episodes, so many steps, some at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.gateways import copy_pack
from tests.support.processes import run_sandgate


def benched(tmp_path: Path, *args: str) -> dict[str, Any]:
    pack = str(copy_pack("echo", tmp_path).folder)
    done = run_sandgate("env", "bench", pack, *args, "--state", str(tmp_path / "state"), "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_given_actions_are_measured_to_the_end_of_each_episode(tmp_path: Path) -> None:
    file = tmp_path / "actions.jsonl"
    calls = [{"tool_name": "echo", "arguments": {"text": "hi"}}] * 3
    file.write_text("".join(json.dumps(action) + "\n" for action in [*calls, {"type": "submit"}, *calls]))
    told = benched(
        tmp_path, "--actions", str(file), "--task", "be-good", "--episodes", "4", "--sessions", "2"
    )
    assert (told["pack"], told["task"], told["episodes"], told["sessions"]) == ("echo", "be-good", 4, 2)
    assert told["steps"] == 4 * 4
    for measured in ("reset_ms", "first_step_ms", "step_ms", "end_ms"):
        spread = told[measured]
        assert 0 < spread["p50"] <= spread["p95"] <= spread["max"]
    assert told["steps_per_second"] > 0
    assert list((tmp_path / "state").glob("trajectories/*")) == []


def test_without_actions_tools_are_listed_up_to_the_packs_limit(tmp_path: Path) -> None:
    told = benched(tmp_path, "--episodes", "1")
    assert told["steps"] == 8
    assert told["first_step_ms"]["p50"] > 0
