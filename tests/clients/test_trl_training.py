"""TRL's own GRPOTrainer trains on a served pack, by the example: a tiny model, a few steps, on a CPU.

That it learns takes minutes: `examples/train_trl.py` shows it. Here it is the whole path, once.
"""

from __future__ import annotations

import json
import os
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from gateway.training import AsyncEnv
from gateway.training.export import export_files, trajectories_in
from tests.support.env_serving import env_server
from tests.support.markdown import ROOT
from tests.support.processes import serving
from tests.support.venvs import client_venv

STEPS, GENERATIONS = 2, 4
READER = r"""
import json, runpy, sys
from datasets import load_dataset
from trl.data_utils import apply_chat_template, is_conversational

rows = load_dataset("json", data_files=sys.argv[1], split="train")
tokenizer = runpy.run_path(sys.argv[2])["tiny_tokenizer"]()
told = [
    {"text": apply_chat_template({"messages": row["messages"], "tools": row["tools"]}, tokenizer)["text"],
     "conversational": is_conversational(row), "messages": row["messages"], "reward": row["reward"]}
    for row in rows
]
print(json.dumps(told))
"""


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


async def test_exported_episodes_are_conversations_to_trl(tmp_path: Path) -> None:
    python = await anyio.to_thread.run_sync(trl_python)
    async with env_server(tmp_path) as server, AsyncEnv(server.url) as env:
        await env.reset(task="fix-readme")
        await env.call("echo", {"text": "hi"})
        await env.call("write", {"path": "README.md", "content": "The."})
        await env.submit("done")
    rows = list(export_files(trajectories_in(tmp_path)))
    file = tmp_path / "episodes.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    script, example = READER, str(ROOT / "examples" / "train_trl.py")
    argv = [str(python), "-c", script, str(file), example]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path)}  # noqa: TID251 - a child's
    done = await anyio.run_process(argv, env=environ, check=False)
    assert done.returncode == 0, done.stderr.decode()
    [told] = json.loads(done.stdout)
    assert (told["conversational"], told["reward"]) == (True, 1.0)
    assert told["messages"] == rows[0]["messages"]  # no argument of one call is made up for another
    assert (
        '<tool_call>{"name": "write", "arguments": {"path": "README.md", "content": "The."}}' in told["text"]
    )
