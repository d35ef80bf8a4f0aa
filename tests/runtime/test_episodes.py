"""Episodes for real: sandboxed servers, judged calls, rewards from checks over what was left behind."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.core.calls import LOCAL
from gateway.core.episode import Action, CallTool, EpisodeOver, ListTools, StepResult, Submit
from gateway.core.lock import lock_sha256, parse_lock
from gateway.errors import (
    ClientError,
    LedgerError,
    SandboxError,
    ShuttingDown,
    TooManySessions,
    UnknownSession,
    UsageError,
)
from gateway.runtime.episode_session import ResetFailed
from gateway.runtime.episodes import (
    EpisodeGone,
    Episodes,
    EpisodeSession,
    NoSuchTask,
    ResetRequest,
)
from gateway.runtime.gateway import Gateway, GatewaySettings
from gateway.runtime.trajectories import TrajectoryFolder
from tests.support.gateways import PACKS, copy_pack, served

TRAINING = GatewaySettings(mode="training")
MALLORY = replace(LOCAL, name="mallory")
FIX_README = ResetRequest(task="fix-readme")


@asynccontextmanager
async def episodes(
    tmp_path: Path, settings: GatewaySettings = TRAINING, **more: Any
) -> AsyncGenerator[Episodes]:
    async with served(tmp_path, settings=settings, **more) as gateway:
        yield Episodes(
            gateway, cache_dir=tmp_path / "cache", trajectories=TrajectoryFolder(tmp_path / "trajectories")
        )


@asynccontextmanager
async def playing(tmp_path: Path, **more: Any) -> AsyncGenerator[EpisodeSession]:
    async with episodes(tmp_path, **more) as held, held.held("echo", LOCAL, None) as session:
        yield session


def edit_manifest(tmp_path: Path, old: str, new: str) -> None:
    file = copy_pack("echo", tmp_path).folder / "toolpack.yaml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def write_task(tmp_path: Path, name: str, text: str) -> None:
    (copy_pack("echo", tmp_path).folder / "tasks" / f"{name}.yaml").write_text(text, encoding="utf-8")


def call(tool: str, **arguments: Any) -> Action:
    return CallTool(tool, arguments)


def metadata(result: StepResult) -> dict[str, Any]:
    return result.metadata


def observed(result: StepResult) -> dict[str, Any]:
    return result.observation


async def data(session: EpisodeSession, tool: str, **arguments: Any) -> Any:
    return observed(await session.step(call(tool, **arguments)))["result"]["data"]


def trajectory(tmp_path: Path) -> list[Any]:
    files = sorted((tmp_path / "trajectories").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


# -- a whole episode


async def test_an_episode_is_played_and_scored_from_what_was_left_behind(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        start = await session.reset(FIX_README)
        assert observed(start)["prompt"] == "Fix the typo in README.md and say done."
        assert (start.reward, start.done) == (None, False)
        assert metadata(start)["session_id"] == session.id

        tools = observed(await session.step(ListTools()))["tools"]
        names = [tool["name"] for tool in tools]
        assert "write" in names
        assert "submit" in names
        assert "hidden" not in names

        written = await session.step(call("write", path="README.md", content="The echo pack's workspace.\n"))
        assert observed(written)["error"] is None
        assert metadata(written)["policy"]["effect"] == "allow"
        assert written.reward is None

        end = await session.step(Submit("done"))
        assert (end.reward, end.done) == (1.0, True)
        assert metadata(end)["done_reason"] == "submitted"
        assert metadata(end)["truncated"] is False
        assert [part["score"] for part in metadata(end)["rubric"]] == [1.0, 1.0, 1.0]


async def test_a_denial_is_an_observation_with_the_decision_and_never_reaches_the_server(
    tmp_path: Path,
) -> None:
    async with playing(tmp_path) as session:
        await session.reset()
        denied = await session.step(call("write", path="/workspace/.env", content="x"))
        assert observed(denied)["error"]["error_type"] == "execution_error"
        assert observed(denied)["result"] is None
        decision = metadata(denied)["policy"]
        assert (decision["effect"], decision["rule"], decision["policy"]) == (
            "deny",
            "no-secret-files",
            "policy.yaml",
        )
        assert denied.reward == -0.25
        assert not denied.done
        messages = [json.loads(line) for line in (await data(session, "log")).splitlines()]
        called = [m["params"]["name"] for m in messages if m["method"] == "tools/call"]
        assert called == ["log"]


async def test_arguments_of_another_shape_and_unknown_tools_have_their_own_error_types(
    tmp_path: Path,
) -> None:
    async with playing(tmp_path) as session:
        mistyped = await session.step(call("echo", text=1))
        assert observed(mistyped)["error"]["error_type"] == "invalid_args"
        unknown = await session.step(call("no_such_tool"))
        assert observed(unknown)["error"]["error_type"] == "tool_not_found"
        assert metadata(unknown)["policy"]["code"] == "unknown_tool"
        assert unknown.reward is None
        hidden = await session.step(call("hidden", text="x"))
        assert observed(hidden)["error"]["error_type"] == "execution_error"
        assert metadata(hidden)["policy"]["code"] == "no_match"


async def test_partial_work_is_worth_a_part(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        await session.reset(FIX_README)
        end = await session.step(Submit("done"))
        assert end.reward == 0.25
        assert [part["score"] for part in metadata(end)["rubric"]] == [1.0, 0.0, 1.0]


async def test_a_failed_gate_is_worth_nothing(tmp_path: Path) -> None:
    edit_manifest(tmp_path, "seed: fixtures/start", "seed: fixtures/start/docs")
    async with playing(tmp_path) as session:
        await session.reset(FIX_README)
        assert (await session.step(Submit("done"))).reward == 0.0


async def test_submitting_by_the_tool_is_submitting(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        await session.reset(FIX_README)
        end = await session.step(call("submit", answer="done"))
        assert (end.done, end.reward) == (True, 0.25)
        assert observed(end)["tool_name"] == "submit"
        assert observed(end)["error"] is None


async def test_a_pack_that_offers_no_submitting_tool_has_none(tmp_path: Path) -> None:
    edit_manifest(tmp_path, "submit: true", "submit: false")
    async with playing(tmp_path) as session:
        names = [tool["name"] for tool in observed(await session.step(ListTools()))["tools"]]
        assert "submit" not in names
        assert observed(await session.step(call("submit")))["error"]["error_type"] == "tool_not_found"


STEPWISE = """
id: stepwise
split: train
prompt: p
rubric: [{check: {answer_equals: done}}]
step_rewards:
  - {reward: 0.25, check: {tool_called: {tool: echo, min: 2}}}
  - {reward: 0.5, check: {file_contains: {path: made.txt, text: x}}}
  - {reward: -0.125, check: {file_exists: made.txt}}
"""


async def test_a_task_may_pay_for_steps_each_thing_once(tmp_path: Path) -> None:
    write_task(tmp_path, "stepwise", STEPWISE)
    async with playing(tmp_path) as session:
        await session.reset(ResetRequest(task="stepwise"))
        actions = [
            *(call("echo", text="x"), call("echo", text="forbidden"), call("echo", text="x")),
            *(call("write", path="made.txt", content="x"), call("echo", text="x"), Submit("done")),
        ]
        steps = [await session.step(action) for action in actions]
    assert [step.reward for step in steps] == [0.0, -0.25, 0.25, 0.375, 0.0, 1.0]
    assert metadata(steps[2])["step_rewards"] == [{"check": "tool_called echo", "reward": 0.25}]
    assert "step_rewards" not in metadata(steps[0])


async def test_a_broken_check_of_a_step_ends_the_episode_unscored(tmp_path: Path) -> None:
    write_task(tmp_path, "stepwise", STEPWISE.replace("file_exists: made.txt", "command: [no-such-program]"))
    async with playing(tmp_path) as session:
        await session.reset(ResetRequest(task="stepwise"))
        end = await session.step(call("echo", text="x"))
        assert (end.done, end.reward, metadata(end)["truncated"]) == (True, None, True)
        assert "no-such-program" in metadata(end)["truncated_reason"]


# -- how episodes end


async def test_max_steps_ends_and_scores_the_episode(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        await session.reset(ResetRequest(task="be-good"))
        results = [await session.step(call("echo", text="x")) for _ in range(8)]
        assert [result.done for result in results] == [False] * 7 + [True]
        assert metadata(results[-1])["done_reason"] == "max_steps"
        assert results[-1].reward == 1.0


async def test_max_denials_ends_the_episode_and_the_last_penalty_counts(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        await session.reset(ResetRequest(task="be-good"))
        results = [await session.step(call("echo", text="forbidden")) for _ in range(3)]
        assert [result.done for result in results] == [False, False, True]
        assert metadata(results[-1])["done_reason"] == "max_denials"
        assert results[-1].reward == -0.25


async def test_the_policy_may_end_an_episode_after_fewer_denials(tmp_path: Path) -> None:
    policy = "version: 1\nrules: []\nmodes: {training: {on_deny: {end_after: 1}}}\n"
    async with playing(tmp_path, policy=policy) as session:
        denied = await session.step(call("echo", text="x"))
        assert (denied.done, metadata(denied)["done_reason"]) == (True, "max_denials")


async def test_a_step_after_the_end_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        await session.step(Submit())
        with pytest.raises(EpisodeOver, match="submitted"):
            await session.step(call("echo", text="x"))
        assert (await session.state())["step_count"] == 1


async def test_a_crashed_server_truncates_the_episode_and_is_never_restarted(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        await session.reset(FIX_README)
        crashed = await session.step(call("crash"))
        assert observed(crashed)["error"]["error_type"] == "transport_error"
        assert crashed.done
        assert crashed.reward is None
        assert metadata(crashed)["done_reason"] == "server_failed"
        assert metadata(crashed)["truncated"] is True
        assert "echo" in metadata(crashed)["truncated_reason"]
        with pytest.raises(EpisodeOver):
            await session.step(call("echo", text="x"))
        assert (await session.reset(FIX_README)).done is False
        assert await data(session, "echo", text="back") == "back"


async def test_a_step_has_its_own_deadline_where_the_caller_wants_one(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        await session.step(call("echo", text="warm"))
        with anyio.fail_after(3):
            late = await session.step(call("sleep", seconds=30), seconds=0.2)
        assert observed(late)["error"]["error_type"] == "timeout"
        assert metadata(late)["policy"]["code"] == "rule_allow"
        assert not late.done


async def test_a_call_that_is_denied_with_no_time_left_is_a_denial_all_the_same(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        denied = await session.step(call("echo", text="forbidden"), seconds=0.0)
        assert metadata(denied)["policy"]["code"] == "rule_deny"
        assert denied.reward == -0.25


async def test_a_server_that_does_not_answer_in_time_is_a_timeout(tmp_path: Path) -> None:
    edit_manifest(tmp_path, "call_timeout: 5s", "call_timeout: 300ms")
    async with playing(tmp_path) as session:
        late = await session.step(call("sleep", seconds=30))
        assert observed(late)["error"]["error_type"] == "timeout"


async def test_an_episodes_time_ends_it_in_the_middle_of_a_call(tmp_path: Path) -> None:
    edit_manifest(tmp_path, "max_steps: 8", "max_steps: 8, time_limit: 1500ms")
    async with playing(tmp_path) as session:
        await session.reset(FIX_README)
        late = await session.step(call("sleep", seconds=30))
        assert observed(late)["error"]["error_type"] == "timeout"
        assert (late.done, metadata(late)["done_reason"]) == (True, "time_limit")
        assert late.reward == 0.0


async def test_checks_that_cannot_be_run_leave_the_episode_unscored(tmp_path: Path) -> None:
    text = "id: broken\nsplit: train\nprompt: p\nrubric: [{check: {command: [no-such-program]}}]\n"
    write_task(tmp_path, "broken", text)
    async with playing(tmp_path) as session:
        await session.reset(ResetRequest(task="broken"))
        end = await session.step(Submit())
        assert end.done
        assert end.reward is None
        assert metadata(end)["done_reason"] == "submitted"
        assert metadata(end)["truncated"] is True
        assert "no-such-program" in metadata(end)["truncated_reason"]


# -- reset


async def test_a_reset_leaves_nothing_of_the_last_episode(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        first = metadata(await session.reset())
        await session.step(call("write", path="left.txt", content="x"))
        assert (await session.state())["metadata"] != first  # the workspace has changed
        second = metadata(await session.reset())
        assert second["workspace_digest"] == first["workspace_digest"]
        assert second["session_id"] == first["session_id"]
        assert second["episode_id"] != first["episode_id"]
        left = await session.step(call("read", path="left.txt"))
        assert observed(left)["result"]["is_error"] is True


async def test_a_reset_that_fails_is_never_answered_by_another_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_workspace(_: Any) -> Any:
        raise SandboxError("no room for a workspace")

    async with playing(tmp_path) as session:
        await session.reset(FIX_README)
        with monkeypatch.context() as patched:
            patched.setattr(gateway_of(session).driver, "open_workspace", no_workspace)
            with pytest.raises(SandboxError):
                await session.reset(FIX_README)
        for attempt in (session.tools, lambda: session.step(ListTools())):
            with pytest.raises(ResetFailed, match="reset again"):
                await attempt()
        assert await session.state() == {"episode_id": None, "step_count": 0}
        assert (await session.reset(FIX_README)).metadata["task"] == "fix-readme"
        assert (await session.step(ListTools())).done is False


async def test_state_tells_where_the_episode_stands(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        assert await session.state() == {"episode_id": None, "step_count": 0}
        await session.reset(ResetRequest(episode_id="mine", task="be-good"))
        await session.step(call("echo", text="forbidden"))
        state: dict[str, Any] = await session.state()
        assert (state["episode_id"], state["step_count"], state["denials"]) == ("mine", 1, 1)
        assert len(state["metadata"]["workspace_digest"]) == 64


async def test_the_seed_reaches_the_servers(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        assert metadata(await session.reset(ResetRequest(seed=1234)))["seed"] == 1234
        assert await data(session, "env", name="SANDGATE_SEED") == "1234"
        await session.reset()
        assert await data(session, "env", name="SANDGATE_SEED") == "0"


async def test_a_task_may_bring_its_own_workspace(tmp_path: Path) -> None:
    write_task(
        tmp_path,
        "own",
        "id: own\nsplit: train\nprompt: p\nworkspace: fixtures/start/docs\n"
        "rubric: [{check: {file_exists: kept.txt}}]\n",
    )
    async with playing(tmp_path) as session:
        await session.reset(ResetRequest(task="own"))
        assert (await session.step(Submit())).reward == 1.0


async def test_a_mistaken_reset_costs_nobody_their_episode(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        await session.reset(ResetRequest(episode_id="mine"))
        with pytest.raises(NoSuchTask, match="there are: be-good, fix-readme"):
            await session.reset(ResetRequest(task="no-such-task"))
        assert (await session.state())["episode_id"] == "mine"


async def test_an_episode_without_a_task_is_never_scored(tmp_path: Path) -> None:
    edit_manifest(tmp_path, "tasks: tasks/, ", "")
    async with playing(tmp_path) as session:
        assert observed(await session.reset())["prompt"] is None
        end = await session.step(Submit())
        assert (end.done, end.reward) == (True, None)
        assert "rubric" not in metadata(end)


# -- who holds what


async def test_a_session_is_its_principals_alone(tmp_path: Path) -> None:
    async with episodes(tmp_path) as held:
        result = await held.reset("echo", LOCAL, None, ResetRequest())
        session_id = str(result.metadata["session_id"])
        assert held.find("echo", session_id, LOCAL).id == session_id
        with pytest.raises(UnknownSession):
            held.find("echo", session_id, MALLORY)
        with pytest.raises(UnknownSession):
            await held.reset("echo", MALLORY, session_id, ResetRequest())


async def test_one_connection_at_a_time_holds_a_session_and_leaves_it_behind(tmp_path: Path) -> None:
    async with episodes(tmp_path) as held:
        session_id = str((await held.reset("echo", LOCAL, None, ResetRequest())).metadata["session_id"])
        async with held.held("echo", LOCAL, session_id) as session:
            await session.step(call("echo", text="x"))
            with pytest.raises(ClientError, match="another connection"):
                async with held.held("echo", LOCAL, session_id):
                    pytest.fail("two connections hold one session")
        assert (await held.find("echo", session_id, LOCAL).state())["step_count"] == 1


async def test_sessions_are_bounded_and_a_closed_one_makes_room(tmp_path: Path) -> None:
    async with episodes(tmp_path, settings=replace(TRAINING, max_sessions=1)) as held:
        async with held.held("echo", LOCAL, None):
            with pytest.raises(TooManySessions):
                held.open("echo", MALLORY)
        async with held.held("echo", LOCAL, None) as session:
            assert (await session.reset()).done is False


async def test_an_idle_session_is_gone_and_makes_room(tmp_path: Path) -> None:
    async with episodes(tmp_path, settings=replace(TRAINING, max_sessions=1)) as held:
        session_id = str((await held.reset("echo", LOCAL, None, ResetRequest())).metadata["session_id"])
        await idle_out(held, session_id)
        with pytest.raises(UnknownSession):
            held.find("echo", session_id, LOCAL)
        assert (await held.reset("echo", LOCAL, None, ResetRequest())).done is False


async def test_a_connection_outlives_its_idle_episode_and_is_told_to_reset(tmp_path: Path) -> None:
    async with episodes(tmp_path) as held, held.held("echo", LOCAL, None) as session:
        await session.reset()
        await idle_out(held, session.id)
        for attempt in (session.state, lambda: session.step(ListTools()), lambda: session.step(Submit())):
            with pytest.raises(EpisodeGone, match="reset"):
                await attempt()
        assert (await session.reset()).done is False


async def idle_out(held: Episodes, session_id: str) -> None:
    """End a gateway session the way the gateway does with one that was idle for too long."""
    await held.gateway.close_session(held.gateway.session("echo", session_id, LOCAL))


async def test_steps_on_one_session_queue(tmp_path: Path) -> None:
    numbers: list[Any] = []

    async def step(session: EpisodeSession) -> None:
        numbers.append(metadata(await session.step(call("echo", text="x")))["step"])

    async with playing(tmp_path) as session:
        await session.reset()
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(step, session)
    assert numbers == [1, 2, 3, 4, 5]


async def test_a_draining_gateway_takes_no_step_and_counts_none(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        await session.reset()
        await gateway_of(session).drain()
        with pytest.raises(ShuttingDown):
            await session.step(call("echo", text="x"))
        assert (await session.state())["step_count"] == 0


def gateway_of(session: EpisodeSession) -> Gateway:
    return session._keeper.gateway  # pyright: ignore[reportPrivateUsage]


async def test_closing_ends_the_gateways_session_too(tmp_path: Path) -> None:
    async with episodes(tmp_path) as held:
        async with held.held("echo", LOCAL, None) as session:
            await session.reset()
            assert held.gateway.session("echo", session.id, LOCAL).closed is False
        with pytest.raises(UnknownSession):
            held.gateway.session("echo", session.id, LOCAL)


async def test_deployment_has_no_episodes_unless_the_operator_wants_them(tmp_path: Path) -> None:
    async with served(tmp_path, settings=GatewaySettings(mode="deployment")) as gateway:
        with pytest.raises(UsageError, match="--mode training"):
            Episodes(gateway, cache_dir=tmp_path)
        assert Episodes(gateway, cache_dir=tmp_path, orchestration=True).gateway is gateway


# -- what is written


async def test_records_carry_the_episode_and_the_step(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        await session.reset(ResetRequest(episode_id="mine"))
        await session.step(ListTools())
        await session.step(call("echo", text="x"))
    lines = [
        json.loads(line)
        for file in (tmp_path / "state" / "audit").glob("*.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    calls = [line for line in lines if line.get("call_id")]
    assert [(line["episode"], line["step"], line["front"]) for line in calls] == [("mine", 2, "env")] * 2


async def test_a_trajectory_has_a_line_per_step(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        await session.reset(FIX_README)
        await session.step(call("echo", text="x"))
        end = await session.step(Submit("done"))
    lines = trajectory(tmp_path)
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0]["action"] == {"type": "call_tool", "tool_name": "echo", "arguments": {"text": "x"}}
    assert lines[1]["reward"] == end.reward == 0.25
    assert lines[1]["metadata"]["done_reason"] == "submitted"
    assert {line["task"] for line in lines} == {"fix-readme"}
    lock = parse_lock((PACKS / "echo" / "tools.lock.json").read_text(), "tools.lock.json")
    assert {line["lock_sha256"] for line in lines} == {lock_sha256(lock)}
    (file,) = (tmp_path / "trajectories").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


async def test_a_clients_episode_id_names_no_file(tmp_path: Path) -> None:
    async with playing(tmp_path) as session:
        await session.reset(ResetRequest(episode_id="../../escaped"))
        await session.step(ListTools())
    (file,) = (tmp_path / "trajectories").iterdir()
    assert "escaped" not in file.name
    assert not list(tmp_path.parent.glob("**/escaped*"))


async def test_a_trajectory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "trajectories").write_text("in the way", encoding="utf-8")
    async with playing(tmp_path) as session:
        with pytest.raises(LedgerError, match="trajectory cannot be written"):
            await session.step(ListTools())


async def test_time_that_is_over_leaves_an_action_undone(tmp_path: Path) -> None:
    edit_manifest(tmp_path, "max_steps: 8", "max_steps: 8, time_limit: 1ms")
    async with playing(tmp_path) as session:
        await session.reset(FIX_README)
        await anyio.sleep(0.01)  # ten times what the episode may last
        late = await session.step(Submit("done"))
        assert (late.done, metadata(late)["done_reason"]) == (True, "time_limit")
        assert observed(late) == {
            "error": {"error_type": "timeout", "message": "the episode's time is over; nothing was done"}
        }
        assert late.reward == 0.0


async def test_same_seed_and_actions_give_the_same_observations(tmp_path: Path) -> None:
    seen: list[Any] = []
    async with playing(tmp_path) as session:
        for _ in range(2):
            start = await session.reset(replace(FIX_README, seed=5, episode_id="e"))
            steps = [await session.step(call("read", path="README.md")), await session.step(Submit("done"))]
            results: list[Any] = [{**observed(result), "reward": result.reward} for result in steps]
            for result in results:
                if "result" in result:
                    del result["result"]["meta"]  # holds the call's own id
            seen.append((metadata(start)["workspace_digest"], results))
    assert seen[0] == seen[1]
