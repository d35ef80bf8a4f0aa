"""The bundled toolpacks for real: their servers in sandboxes, their locks, and every task played twice."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.core.calls import LOCAL
from gateway.core.episode import CallTool, StepResult, Submit
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.lock import ToolChanges, compare
from gateway.core.policy import PackFacts, compile_policy, load_policy
from gateway.core.replay import RecordedStep, differences
from gateway.runtime.clock import SystemClock
from gateway.runtime.episodes import Episodes, EpisodeSession, ResetRequest
from gateway.runtime.gateway import GatewaySettings, open_gateway
from gateway.runtime.ledger import open_ledger
from gateway.runtime.packs import bundled_packs, load_pack, prepare_seed
from gateway.runtime.served_pack import ServingSettings, list_servers, plan_servers
from tests.support.packages import network_installer
from tests.support.sandboxes import bubblewrap

REPO: JsonObject = {"repo_path": "/workspace"}
FIX: JsonValue = [{"oldText": "Teh times", "newText": "The times"}]
INDEX = "- guide.md: Guide\n- calibration.md: Calibration\n"

SOLUTIONS: dict[tuple[str, str], list[tuple[str, JsonObject]]] = {
    ("git", "fix-typo"): [
        ("git_status", REPO),
        ("git_add", {**REPO, "files": ["README.md"]}),
        ("git_commit", {**REPO, "message": "Fix a typo in the README"}),
    ],
    ("git", "commit-staged"): [
        ("git_diff_staged", REPO),
        ("git_commit", {**REPO, "message": "Add the ferry of 20:15"}),
    ],
    ("git", "branch-off"): [
        ("git_create_branch", {**REPO, "branch_name": "agent/readme"}),
        ("git_checkout", {**REPO, "branch_name": "agent/readme"}),
        ("git_add", {**REPO, "files": ["/workspace/README.md"]}),
        ("git_commit", {**REPO, "message": "Correct the README"}),
    ],
    ("git", "leave-secret-out"): [
        ("git_add", {**REPO, "files": ["CHANGES.md"]}),
        ("git_commit", {**REPO, "message": "Tell of the README"}),
    ],
    ("files", "fix-readme"): [
        ("read_text_file", {"path": "README.md"}),
        ("edit_file", {"path": "/workspace/README.md", "edits": FIX}),
    ],
    ("files", "write-index"): [
        ("list_directory", {"path": "docs"}),
        ("write_file", {"path": "docs/index.md", "content": INDEX}),
    ],
}


@pytest.mark.parametrize("name", sorted(bundled_packs()))
async def test_servers_list_the_locked_tools_and_take_the_arguments_that_have_a_kind(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
):
    pack, installer = load_pack(name), network_installer()
    plans, packages = await plan_servers(pack, installer=installer, settings=ServingSettings())
    seed = await prepare_seed(pack, pack.manifest.workspace.seed, tmp_path)
    async with bubblewrap(tmp_path) as driver:
        listings, _ = await list_servers(pack, plans, driver=driver, seed=seed)
    for server, spec in pack.manifest.servers.items():
        assert compare(pack.lock, server, listings[server]) == ToolChanges()
        assert pack.lock is not None
        assert packages[server] == pack.lock.package_of(server)
        taken = {argument for definition in listings[server] for argument in _arguments(definition)}
        assert spec.kind_of().keys() <= taken
        preload = plans[server].spec.preload
        assert (preload is not None) == spec.fork_server
        assert preload is None or ("SANDGATE_REHEARSE" in preload.env) == (spec.rehearse is not None)
    assert "cold from now on" not in caplog.text, "what says that it can be forked is"


def _arguments(definition: JsonObject) -> list[str]:
    schema = definition["inputSchema"]
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return list(properties) if isinstance(properties, dict) else []


def test_every_task_has_a_solution_here():
    assert set(SOLUTIONS) == {(name, task) for name in bundled_packs() for task in load_pack(name).tasks}


@asynccontextmanager
async def playing(tmp_path: Path, name: str) -> AsyncGenerator[EpisodeSession]:
    """Open an episode session on a bundled pack under its own policy."""
    pack, clock, installer = load_pack(name), SystemClock(), network_installer()
    assert pack.policy_file is not None
    kinds = {server: spec.kind_of() for server, spec in pack.manifest.servers.items()}
    facts = PackFacts(tools={}, kinds=kinds, workspace="/workspace")
    policy = compile_policy(load_policy(pack.policy_file.read_text(), pack.policy_file.name), facts)
    async with (
        open_ledger(tmp_path / "state", clock) as ledger,
        bubblewrap(tmp_path) as driver,
        open_gateway(
            [(pack, policy)],
            driver=driver,
            ledger=ledger,
            installer=installer,
            clock=clock,
            settings=GatewaySettings(mode="training"),
        ) as gateway,
    ):
        episodes = Episodes(gateway, cache_dir=tmp_path)
        async with episodes.held(name, LOCAL, None) as session:
            yield session


@pytest.mark.parametrize(("name", "task"), sorted(SOLUTIONS))
async def test_a_task_is_worth_nothing_undone_everything_solved_and_goes_alike_each_time(
    tmp_path: Path, name: str, task: str
):
    async with playing(tmp_path, name) as session:
        await session.reset(ResetRequest(task=task))
        undone = await session.step(Submit())
        start, steps = await solved(session, name, task)
        again, repeated = await solved(session, name, task)
    assert [step.observation.get("error") for step in steps[:-1]] == [None] * (len(steps) - 1)
    assert (undone.done, undone.reward) == (True, 0.0)
    assert (steps[-1].done, steps[-1].reward) == (True, 1.0), steps[-1].metadata
    assert again.metadata["workspace_digest"] == start.metadata["workspace_digest"]
    for number, (step, repeat) in enumerate(zip(steps, repeated, strict=True), 1):
        assert list(differences(RecordedStep(number, {}, step.wire()), repeat.wire())) == []


async def solved(session: EpisodeSession, name: str, task: str) -> tuple[StepResult, list[StepResult]]:
    start = await session.reset(ResetRequest(task=task))
    steps = [await session.step(CallTool(tool, arguments)) for tool, arguments in SOLUTIONS[name, task]]
    return start, [*steps, await session.step(Submit())]
