"""Inspect AI with the task that the documentation shows: its MCP client, its agent, a scripted model."""

from __future__ import annotations

import json
from pathlib import Path

import anyio.to_thread

from tests.support.env_serving import env_server
from tests.support.markdown import file_in
from tests.support.venvs import client_venv, run_client

REQUIREMENTS = ("inspect-ai==0.3.285", "mcp==2.3.0")

PLAYER = r"""
import json, runpy, sys
from inspect_ai import eval
from inspect_ai.model import ModelOutput, ModelUsage, get_model

file, url, logs = sys.argv[1:]
LINES = [
    ("read", {"path": "README.md"}),
    ("write", {"path": "/workspace/.env", "content": "x"}),
    ("write", {"path": "README.md", "content": "mine"}),
    ("read", {"path": "README.md"}),
    ("submit", {"answer": "a month"}),
]


def say(messages, tools, choice, config):
    line = LINES[sum(message.role == "assistant" for message in messages)]
    output = ModelOutput.for_tool_call("mockllm/model", *line)
    output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)  # or it fetches a tokenizer
    return output


task = runpy.run_path(file)["tide_clock"](url=url)
model = get_model("mockllm/model", custom_outputs=say)
[log] = eval(task, model=model, epochs=2, display="none", log_dir=logs)
print(json.dumps({
    "status": log.status,
    "accuracy": log.results.scores[0].metrics["accuracy"].value,
    "tools": [
        [[message.text, message.error and message.error.message] for message in sample.messages
         if message.role == "tool"]
        for sample in log.samples
    ],
}))
"""


async def test_inspect_plays_each_sample_in_a_session_of_its_own_and_reads_denials(tmp_path: Path) -> None:
    file = tmp_path / "inspect_task.py"
    file.write_text(file_in("docs/training.md", file.name))
    python = await anyio.to_thread.run_sync(client_venv, "inspect", REQUIREMENTS)
    async with env_server(tmp_path) as server:
        args = (str(file), f"{server.url}/packs/echo/mcp", str(tmp_path / "logs"))
        told = json.loads(await anyio.to_thread.run_sync(run_client, python, PLAYER, *args))
    assert (told["status"], told["accuracy"]) == ("success", 1.0)
    assert len(told["tools"]) == 2
    for first, denied, written, second in told["tools"]:
        assert first == ["Teh echo pack's workspace.\n", None]
        assert "'no-secret-files'" in denied[1]
        assert written[1] is None
        assert second == ["mine", None]
