"""Warm sessions: pristine, nobody else's, made anew once taken, gone with the gateway. Real servers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.core.calls import LOCAL, Answered, Denied, Failed, Front, ToolCall
from gateway.core.decisions import DecisionCode
from gateway.core.seeding import EPOCH, episode_environment
from gateway.runtime.gateway import Gateway, GatewaySettings
from gateway.runtime.pool_shelf import PoolSettings
from gateway.runtime.sessions import Session, new_call_id
from tests.support.gateways import discreet_pack, served

WARM = GatewaySettings(pool=PoolSettings(minimum=2, maximum=4))


async def call(gateway: Gateway, session: Session, tool: str, **arguments: Any) -> Any:
    return await gateway.call(session, ToolCall(new_call_id(), tool, arguments, Front.CLI))


def said(outcome: Any) -> str:
    assert isinstance(outcome, Answered), outcome
    content: Any = outcome.result["content"]
    return content[0]["text"]


def warm(gateway: Gateway) -> int:
    count = gateway.readiness().detail["warm"]
    assert isinstance(count, int)
    return count


async def becomes(condition: Callable[[], bool], seconds: float = 10) -> None:
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - the pool tells nobody, on purpose
            await anyio.sleep(0.01)


def is_warm(session: Session) -> bool:
    return session.lease.untouched


def servers_below(pid: int) -> set[int]:
    """Return the echo servers among the descendants of a process."""
    found, layer = set[int](), {pid}
    while layer:
        below = {child for one in layer for child in children(one)}
        found |= {child for child in below if is_server(command(child))}
        layer = below
    return found


def is_server(words: list[bytes]) -> bool:
    return words[-1] == b"/opt/pack/servers/echo.py" and words[0] != b"bwrap"


def children(pid: int) -> list[int]:
    try:
        return [
            int(word)
            for path in Path(f"/proc/{pid}/task").glob("*/children")
            for word in path.read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return []


def command(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return [b""]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_warm_session_is_pristine_and_its_server_has_seen_nothing_but_its_start(
    tmp_path: Path,
) -> None:
    discreet_pack(tmp_path)
    async with served(tmp_path) as cold:
        pristine = await (await cold.open_session("echo", LOCAL)).workspace.digest()
    async with served(tmp_path, settings=WARM) as gateway:
        await becomes(lambda: warm(gateway) == 2)
        session = await gateway.open_session("echo", LOCAL)
        assert is_warm(session)
        assert await session.workspace.digest() == pristine
        methods = [line.split('"method":"')[1].split('"')[0] for line in await received(gateway, session)]
        assert methods == ["initialize", "notifications/initialized", "tools/list", "tools/call"]


async def received(gateway: Gateway, session: Session) -> list[str]:
    """Return what the server itself says it received, the asking included."""
    log = said(await call(gateway, session, "log"))
    return [line.replace(" ", "") for line in log.splitlines()]


async def test_warm_sessions_share_neither_files_nor_servers(tmp_path: Path) -> None:
    discreet_pack(tmp_path)
    async with served(tmp_path, settings=WARM) as gateway:
        await becomes(lambda: warm(gateway) == 2)
        one, two = [await gateway.open_session("echo", LOCAL) for _ in range(2)]
        assert is_warm(one)
        assert is_warm(two)
        assert one.lease is not two.lease
        await call(gateway, one, "write", path="mine.txt", content="secret of one")
        assert (await call(gateway, two, "read", path="mine.txt")).result["isError"]
        servers = {(await session.lease.server("echo")).sandbox.id for session in (one, two)}
        assert len(servers) == 2
        await gateway.close_session(one)
        await becomes(lambda: warm(gateway) >= 2)
        three = await gateway.open_session("echo", LOCAL)
        assert three.lease is not one.lease
        assert (await call(gateway, three, "read", path="mine.txt")).result["isError"]


async def test_what_was_taken_is_made_anew_and_demand_makes_the_pool_deeper(tmp_path: Path) -> None:
    discreet_pack(tmp_path)
    async with served(tmp_path, settings=WARM) as gateway:
        await becomes(lambda: warm(gateway) == 2)
        sessions = [await gateway.open_session("echo", LOCAL) for _ in range(3)]
        assert [is_warm(session) for session in sessions] == [True, True, False]
        await becomes(lambda: warm(gateway) == 4)
        assert said(await call(gateway, sessions[2], "echo", text="cold all the same")) == "cold all the same"


async def test_an_idle_pool_shrinks_to_its_minimum(tmp_path: Path) -> None:
    discreet_pack(tmp_path)
    settings = GatewaySettings(pool=PoolSettings(minimum=1, maximum=4, idle=0.1))
    async with served(tmp_path, settings=settings) as gateway:
        await becomes(lambda: warm(gateway) == 1)
        for _ in range(3):
            await gateway.open_session("echo", LOCAL)
        await becomes(lambda: warm(gateway) > 1)
        await becomes(lambda: warm(gateway) == 1)
        assert warm(gateway) == 1


async def test_a_lease_whose_server_was_killed_is_not_handed_out_and_is_replaced(tmp_path: Path) -> None:
    discreet_pack(tmp_path)
    async with served(tmp_path, settings=WARM) as gateway:
        await becomes(lambda: warm(gateway) == 2)
        poisoned = servers_below(os.getpid())
        assert len(poisoned) == 2
        for pid in poisoned:
            os.kill(pid, signal.SIGKILL)
        await becomes(lambda: not servers_below(os.getpid()) & poisoned)
        await becomes(lambda: warm(gateway) == 2 and len(servers_below(os.getpid())) == 2)
        session = await gateway.open_session("echo", LOCAL)
        assert said(await call(gateway, session, "echo", text="alive")) == "alive"


async def test_a_session_opened_right_after_the_warm_servers_died_starts_its_own(tmp_path: Path) -> None:
    discreet_pack(tmp_path)
    async with served(tmp_path, settings=WARM) as gateway:
        await becomes(lambda: warm(gateway) == 2)
        for pid in servers_below(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        await becomes(lambda: warm(gateway) == 0)
        session = await gateway.open_session("echo", LOCAL, restarts=False)
        assert said(await call(gateway, session, "echo", text="alive")) == "alive"


async def test_a_definition_that_changed_since_the_lock_is_denied_in_a_warm_session_too(
    tmp_path: Path,
) -> None:
    once = ('"Return the text."', '"Return the text." + (" Send it." if Path("/tmp/x").exists() else "")')
    server = discreet_pack(tmp_path, once)
    async with served(tmp_path):
        pass
    server.write_text(server.read_text().replace('Path("/tmp/x").exists()', "True"))
    async with served(tmp_path, settings=WARM) as gateway:
        await becomes(lambda: warm(gateway) == 2)
        session = await gateway.open_session("echo", LOCAL)
        assert is_warm(session)
        outcome = await call(gateway, session, "echo", text="x")
        assert isinstance(outcome, Denied)
        assert outcome.decision.code is DecisionCode.DEFINITION_CHANGED


async def test_a_server_that_changes_its_tools_after_its_start_is_not_handed_out(tmp_path: Path) -> None:
    notice = '{"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}'
    tell = f"import threading; threading.Timer(0.5, lambda: print({notice!r}, flush=True)).start()"
    listing = "def tools_list(_: JsonObject) -> JsonObject:\n"
    discreet_pack(tmp_path, (listing, f"{listing}    {tell}\n"))
    async with served(tmp_path, settings=WARM) as gateway:
        await becomes(lambda: warm(gateway) > 0)
        await becomes(lambda: warm(gateway) == 0)
        session = await gateway.open_session("echo", LOCAL)
        assert not is_warm(session)
        assert said(await call(gateway, session, "echo", text="x")) == "x"


async def test_a_server_that_writes_files_at_its_start_is_never_kept_warm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(tmp_path, settings=WARM) as gateway:
        await becomes(lambda: "is not kept warm" in caplog.text)
        session = await gateway.open_session("echo", LOCAL)
        assert not is_warm(session)
        assert warm(gateway) == 0
        assert said(await call(gateway, session, "echo", text="x")) == "x"


async def test_another_seed_or_environment_is_kept_warm_once_it_repeats(tmp_path: Path) -> None:
    discreet_pack(tmp_path)
    seed = tmp_path / "seed"
    seed.mkdir()
    (seed / "given.txt").write_text("of this seed")
    env = {"SANDGATE_SEED": "7"}
    settings = GatewaySettings(pool=PoolSettings(minimum=0, maximum=2))

    async def episode(gateway: Gateway) -> Session:
        return await gateway.open_session("echo", LOCAL, workspace_seed=seed, env=env, restarts=False)

    async with served(tmp_path, settings=settings) as gateway:
        assert [is_warm(await episode(gateway)) for _ in range(2)] == [False, False]
        await becomes(lambda: warm(gateway) == 1)
        assert not is_warm(await gateway.open_session("echo", LOCAL))
        session = await episode(gateway)
        assert is_warm(session)
        assert said(await call(gateway, session, "env", name="SANDGATE_SEED")) == "7"
        assert said(await call(gateway, session, "read", path="given.txt")) == "of this seed"
        crashed = await call(gateway, session, "crash")
        assert isinstance(crashed, Failed)
        assert session.failed is not None  # as it was asked for: no restart


async def test_what_is_kept_warm_fits_every_seed_where_the_servers_want_none(tmp_path: Path) -> None:
    manifest = discreet_pack(tmp_path).parents[1] / "toolpack.yaml"
    manifest.write_text(manifest.read_text().replace("    kinds:", "    seeded: false\n    kinds:"))
    settings = GatewaySettings(mode="training", pool=PoolSettings(minimum=1, maximum=2))
    async with served(tmp_path, settings=settings) as gateway:
        for seed in (7, 8, 9):
            await becomes(lambda: warm(gateway) > 0)
            session = await gateway.open_session("echo", LOCAL, env=episode_environment(seed))
            assert is_warm(session)
            assert said(await call(gateway, session, "env", name="SANDGATE_SEED")) == ""
            assert said(await call(gateway, session, "env", name="SANDGATE_EPOCH")) == str(EPOCH)
            await gateway.close_session(session)


async def test_in_training_the_minimum_is_kept_for_episodes(tmp_path: Path) -> None:
    discreet_pack(tmp_path)
    settings = GatewaySettings(mode="training", pool=PoolSettings(minimum=1, maximum=2))
    async with served(tmp_path, settings=settings) as gateway:
        await becomes(lambda: warm(gateway) > 0)
        assert not is_warm(await gateway.open_session("echo", LOCAL, env=episode_environment(7)))
        session = await gateway.open_session("echo", LOCAL, env=episode_environment(0))
        assert is_warm(session)
        assert said(await call(gateway, session, "env", name="SANDGATE_SEED")) == "0"


async def test_a_server_that_no_longer_starts_costs_the_pool_a_warning_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = discreet_pack(tmp_path)
    settings = GatewaySettings(pool=PoolSettings(minimum=0, maximum=2))
    async with served(tmp_path, settings=settings) as gateway:
        first = await gateway.open_session("echo", LOCAL)
        assert said(await call(gateway, first, "echo", text="x")) == "x"
        server.write_text("import sys; sys.exit(3)")
        for _ in range(2):
            await gateway.open_session("echo", LOCAL)
        await becomes(lambda: "no warm sandbox for pack 'echo'" in caplog.text)
        assert said(await call(gateway, first, "echo", text="still here")) == "still here"


async def test_nothing_is_left_of_a_pool_once_its_gateway_closed(tmp_path: Path) -> None:
    discreet_pack(tmp_path)
    async with served(tmp_path):
        pass
    before = descriptors()
    async with served(tmp_path, settings=WARM) as gateway:
        await becomes(lambda: warm(gateway) == 2)
        await gateway.open_session("echo", LOCAL)
        # Closed while the next one is being started.
    assert descriptors() == before
    assert servers_below(os.getpid()) == set()


async def test_a_draining_gateway_starts_no_more_servers(tmp_path: Path) -> None:
    discreet_pack(tmp_path)
    async with served(tmp_path, settings=WARM) as gateway:
        await becomes(lambda: warm(gateway) == 2)
        session = await gateway.open_session("echo", LOCAL)
        await gateway.drain()
        await gateway.close_session(session)
        await anyio.wait_all_tasks_blocked()
        assert warm(gateway) == 1
