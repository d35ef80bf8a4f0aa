"""Servers that have a stand-in for training: the same tools by the lock, or the pack is not served."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.calls import LOCAL, Answered, Front, ToolCall
from gateway.errors import UsageError
from gateway.runtime.gateway import Gateway, GatewaySettings
from gateway.runtime.packs import load_pack
from gateway.runtime.sessions import new_call_id
from tests.support.gateways import copy_pack, served

TRAINING = GatewaySettings(mode="training")


def with_training(tmp_path: Path, training: str, *changes: tuple[str, str], more: str = "") -> None:
    """Give the echo pack a `training` entry, and a stand-in that is the server with these changes."""
    folder = copy_pack("echo", tmp_path).folder
    text = (folder / "servers" / "echo.py").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "servers" / "stand_in.py").write_text(text)
    manifest = folder / "toolpack.yaml"
    written = manifest.read_text().replace(
        "    startup_timeout", f"    training: {training}\n{more}    startup_timeout"
    )
    manifest.write_text(written)


async def said(gateway: Gateway, tool: str, **arguments: str) -> str:
    session = await gateway.open_session("echo", LOCAL, env={"SANDGATE_SEED": "9"})
    outcome = await gateway.call(session, ToolCall(new_call_id(), tool, {**arguments}, Front.ENV))
    assert isinstance(outcome, Answered)
    assert outcome.decision.rule == "talk"
    content = outcome.result["content"]
    assert isinstance(content, list)
    block = content[0]
    assert isinstance(block, dict)
    return str(block["text"])


STAND_IN = "{command: [python, servers/stand_in.py]}"
ANSWERS_OTHERWISE = ('return text(arguments["text"])', 'return text("from the stand-in")')


async def test_a_stand_in_answers_in_training_and_the_server_in_deployment(tmp_path: Path) -> None:
    with_training(tmp_path, STAND_IN, ANSWERS_OTHERWISE)
    async with served(tmp_path, settings=TRAINING) as gateway:
        assert await said(gateway, "echo", text="hi") == "from the stand-in"
        assert len(gateway.packs["echo"].catalog.findings) == 0
    async with served(tmp_path) as gateway:
        assert await said(gateway, "echo", text="hi") == "hi"


async def test_a_stand_in_needs_no_secret_of_the_server(tmp_path: Path) -> None:
    with_training(tmp_path, STAND_IN, more="    secrets: [TOKEN]\n")
    async with served(tmp_path, settings=TRAINING, secrets={"TOKEN": "s3cret"}) as gateway:
        assert await said(gateway, "env", name="TOKEN") == ""
    async with served(tmp_path, settings=TRAINING) as gateway:
        assert await said(gateway, "echo", text="hi") == "hi"
    with pytest.raises(UsageError, match="needs the secret TOKEN"):
        async with served(tmp_path):
            pytest.fail("deployment runs the server itself")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("Return the text.", "Return some text."), "it defines otherwise echo"),
        (('"hidden": (echo', '"other": (echo'), "it lacks hidden; it adds other"),
        (('schema(["seconds"]', "schema([]"), "it defines otherwise sleep"),
    ],
)
async def test_a_stand_in_that_an_agent_could_tell_is_not_served(
    tmp_path: Path, change: tuple[str, str], told: str
) -> None:
    with_training(tmp_path, STAND_IN, change)
    with pytest.raises(UsageError, match=told):
        async with served(tmp_path, settings=TRAINING):
            pytest.fail("it was served")
    async with served(tmp_path) as gateway:
        assert await said(gateway, "echo", text="hi") == "hi"


async def test_a_stand_in_without_a_lock_is_not_served_and_writes_none(tmp_path: Path) -> None:
    with_training(tmp_path, STAND_IN)
    lock = copy_pack("echo", tmp_path).folder / "tools.lock.json"
    lock.unlink()
    with pytest.raises(UsageError, match="no lock to hold it against: run 'sandgate toolpack lock"):
        async with served(tmp_path, settings=TRAINING):
            pytest.fail("it was served")
    assert not lock.exists()


async def test_training_may_add_environment_and_the_seed_stands_in_for_its_name(tmp_path: Path) -> None:
    with_training(tmp_path, '{env: {CLOCK: "fixed", SALT: "s-${seed}"}}', more='    env: {CLOCK: "real"}\n')
    async with served(tmp_path, settings=TRAINING) as gateway:
        assert await said(gateway, "env", name="CLOCK") == "fixed"
        assert await said(gateway, "env", name="SALT") == "s-9"
    async with served(tmp_path) as gateway:
        assert await said(gateway, "env", name="CLOCK") == "real"


def test_a_tool_that_a_task_names_and_no_server_has_is_a_finding(tmp_path: Path) -> None:
    from gateway.core.catalog import Catalog
    from gateway.runtime.pack_checks import unknown_tools

    folder = copy_pack("echo", tmp_path).folder
    task = "id: odd\nsplit: train\nprompt: p\nrubric: [{check: {tool_called: send}}]\n"
    (folder / "tasks" / "odd.yaml").write_text(task + "events: [{after_tool: recieve, delete: a}]\n")
    found = [finding for finding in unknown_tools(load_pack(str(folder)), Catalog({})) if "'odd'" in finding]
    assert [finding.split("'")[3] for finding in found] == ["send", "recieve"]
