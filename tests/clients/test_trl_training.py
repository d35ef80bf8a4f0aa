"""TRL's own GRPOTrainer trains on a served pack, by the example: a tiny model, a few steps, on a CPU.

That it learns takes minutes: `examples/train_trl.py` shows it. Here it is the whole path, once.
"""

from __future__ import annotations

import json
import os
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.support.markdown import ROOT
from tests.support.processes import serving
from tests.support.venvs import client_venv

STEPS, GENERATIONS = 2, 4


def trl_python() -> Path:
    """Return the python of an environment with TRL and all that our client needs; skips where there is none.

    `+cpu` on purpose: torch's other builds bring gigabytes of drivers along.
    """
    requirements = ("torch==2.13.0+cpu", "trl==1.16.0", "anyio>=4.10,<5", "websockets>=15")
    try:
        return client_venv("trl", requirements)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"TRL does not install here: {str(error.stderr).strip().splitlines()[-1]}")


def test_grpo_trains_on_episodes_and_leaves_none_behind(tmp_path: Path) -> None:
    python, chart = trl_python(), tmp_path / "reward.svg"
    state = tmp_path / "state"
    with serving("git", "--mode", "training", "--state", str(state)) as served:
        argv = [str(python), str(ROOT / "examples" / "train_trl.py"), served.url, "--plot", str(chart)]
        argv += ["--steps", str(STEPS), "--generations", str(GENERATIONS)]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}  # noqa: TID251 - a child's environment
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told["all"]) == STEPS
    assert all(0.0 <= reward <= 1.0 for reward in told["all"])
    assert "step   2  reward" in done.stderr
    assert ElementTree.parse(chart).getroot().tag.endswith("svg")
    episodes = [file.read_text().splitlines() for file in (state / "trajectories").glob("*.jsonl")]
    ends = [json.loads(lines[-1]) for lines in episodes]
    scored = [end["reward"] for end in ends if end["done"]]
    assert len(scored) == STEPS * GENERATIONS
    assert sum(scored) == pytest.approx(sum(told["all"]) * GENERATIONS)
