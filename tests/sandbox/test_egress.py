"""The door and the gate by themselves: real sockets, hostile clients, deadlines, and an early end."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream

from gateway.core.egress import EgressCode, Verdict
from gateway.core.policy.egress import parse_host_rule
from gateway.errors import LedgerError
from gateway.sandbox.contract import SandboxSpec
from gateway.sandbox.docker_owner import owner
from gateway.sandbox.egress import Account, Door, EgressGate, EgressRefused, EgressSettings, Way
from gateway.sandbox.egress.places import new_folder, sweep

LOOPBACK = (ip_network("127.0.0.0/8"),)


@dataclass
class Notes:
    """A recorder in memory, which fails when told to."""

    codes: list[EgressCode] = field(default_factory=list[EgressCode])
    ends: list[str] = field(default_factory=list[str])
    moved: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    fails: bool = False

    async def decided(self, verdict: Verdict) -> None:
        if self.fails:
            raise LedgerError("the disk is full")
        self.codes.append(verdict.code)

    async def closed(self, verdict: Verdict, kind: str, ms: float, sent: int, received: int) -> None:
        if self.fails:
            raise LedgerError("the disk is full")
        self.ends.append(kind)
        self.moved.append((sent, received))


async def lookup(host: str, port: int) -> Sequence[str]:
    return ["127.0.0.1"]


@dataclass
class Out:
    """A door that leads to one echoing server."""

    place: Path
    port: int
    notes: Notes
    door: Door

    async def open(self) -> SocketStream:
        return await anyio.connect_unix(self.place)

    async def ask(self, target: str) -> str:
        """Return the status of the proxy's answer, and hang up."""
        async with await self.open() as client:
            await client.send(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
            return (await client.receive()).split()[1].decode()

    async def granted(self) -> SocketStream:
        client = await self.open()
        await client.send(f"CONNECT a.example:{self.port} HTTP/1.1\r\n\r\n".encode())
        assert (await client.receive()).startswith(b"HTTP/1.1 200 ")
        return client


async def echo(client: SocketStream) -> None:
    # A gate that ends a connection may do so by a reset: then nobody is there any more, as at its end.
    with suppress(anyio.BrokenResourceError):
        async with client:
            async for data in client:
                await client.send(data)


@asynccontextmanager
async def out(account: Account | None = None, **settings: Any) -> AsyncGenerator[Out]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    notes = Notes()
    gate = EgressGate(EgressSettings(networks=LOOPBACK, **settings), resolver=lookup)
    async with listener, gate, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, echo)
        door = Door(gate, [parse_host_rule(f"a.example:{port}")], notes, account or Account(10**6))
        await tasks.start(door.serve)
        mounted = door.fit(SandboxSpec("s", ("/bin/true",))).egress
        assert mounted is not None
        with anyio.fail_after(20):
            yield Out(mounted, port, notes, door)
        await door.aclose()
        assert not mounted.exists()
        tasks.cancel_scope.cancel()


async def test_bytes_pass_both_ways_and_ends_are_passed_on() -> None:
    async with out() as here:
        client = await here.granted()
        await client.send(b"x" * 300_000)
        await client.send_eof()
        got = b"".join([data async for data in client])
        await client.aclose()
        assert got == b"x" * 300_000
        while not here.notes.ends:
            await anyio.lowlevel.checkpoint()
    assert (here.notes.codes, here.notes.ends) == ([EgressCode.GRANTED], ["closed"])


async def test_what_was_sent_with_the_request_is_not_lost() -> None:
    async with out() as here, await here.open() as client:
        await client.send(f"CONNECT a.example:{here.port} HTTP/1.1\r\nHost: x\r\n\r\nhello".encode())
        got = b""
        while not got.endswith(b"hello"):
            got += await client.receive()
    assert got.endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\r\n\r\n",
        b"CONNECT",
        b"\x16\x03\x01\x02",
        b"A" * 100_000,
        b"CONNECT evil.example:1 HTTP/1.1\r\n\r\n",
    ],
)
async def test_a_client_that_hangs_up_at_any_point_harms_nobody_else(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with out() as here:
        for _ in range(3):
            client = await here.open()
            try:
                await client.send(sent)
            except anyio.BrokenResourceError:
                assert len(sent) > 8192, "it was refused before all was sent"
            await client.aclose()
        await (await here.granted()).aclose()
    assert here.notes.codes[-1] is EgressCode.GRANTED
    assert caplog.records == []


async def test_a_client_that_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.sandbox.egress.door.HEAD_SECONDS", 0.05)
    async with out() as here, await here.open() as silent:
        with pytest.raises(anyio.EndOfStream):
            await silent.receive()
        async with await here.open() as slow:
            await slow.send(b"CONNECT a.exam")
            assert (await slow.receive()).startswith(b"HTTP/1.1 400")
    assert here.notes.codes == [EgressCode.BAD_REQUEST]


async def test_no_more_connections_are_taken_than_a_session_may_have() -> None:
    async with out(connections=2) as here:
        first, second = await here.granted(), await here.granted()
        third = await here.open()
        await third.send(f"CONNECT a.example:{here.port} HTTP/1.1\r\n\r\n".encode())
        with anyio.move_on_after(0.1) as waited:
            await third.receive()
        assert waited.cancelled_caught
        await first.aclose()
        assert (await third.receive()).startswith(b"HTTP/1.1 200")
        for client in (second, third):
            await client.aclose()


async def test_connections_of_all_of_a_session_s_servers_count_together() -> None:
    account = Account(10**6)
    async with out(account, connections=1) as one, out(account, connections=1) as two:
        client = await one.granted()
        assert await two.ask(f"a.example:{two.port}") == "429"
        await client.aclose()
    assert two.notes.codes == [EgressCode.TOO_MANY]


async def test_attempts_are_paced_so_that_the_ledger_is_not_flooded() -> None:
    account = Account(10**6)
    async with out(account) as here:
        account.tokens, account.at = 2, anyio.current_time()
        began = account.at
        for _ in range(5):
            assert await here.ask("evil.example:1") == "403"
        assert anyio.current_time() - began > 2 / 16
    assert len(here.notes.codes) == 5


async def test_a_connection_without_a_byte_and_one_that_lasts_too_long_are_ended() -> None:
    async with out(idle=0.1) as here, await here.granted() as client:
        with pytest.raises(anyio.EndOfStream):
            await client.receive()
    assert here.notes.ends == ["timed_out"]
    async with out(longest=0.1) as here, await here.granted() as client:
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await talk(client)
    assert here.notes.ends == ["timed_out"]


async def talk(client: SocketStream) -> None:
    while True:
        await client.send(b"x")
        await client.receive()


async def test_a_decision_that_cannot_be_recorded_is_a_refusal() -> None:
    async with out() as here:
        here.notes.fails = True
        for target in (f"a.example:{here.port}", "evil.example:1"):
            assert await here.ask(target) == "503"


async def test_a_session_whose_traffic_cannot_be_recorded_opens_nothing_more() -> None:
    account = Account(10**6)
    async with out(account) as here:
        client = await here.granted()
        here.notes.fails = True
        await client.aclose()
        with anyio.fail_after(5):
            while account.bytes_left:
                await anyio.lowlevel.checkpoint()
        here.notes.fails = False
        assert await here.ask(f"a.example:{here.port}") == "429"


async def test_closing_a_door_ends_its_connections_and_records_them() -> None:
    async with out() as here:
        client = await here.granted()
        await here.door.aclose()
        await here.door.aclose()
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await client.receive()
        await client.aclose()
        with pytest.raises(OSError, match=r"."):
            await here.open()
    assert here.notes.ends == ["cut"]


async def test_the_gateway_itself_connects_by_the_same_rules() -> None:
    async with out() as here:
        gate = EgressGate(EgressSettings(networks=LOOPBACK), resolver=lookup)
        account, rules = Account(10**6), [parse_host_rule(f"a.example:{here.port}")]
        way = Way(gate, rules, here.notes, account)
        async with await way.connect("a.example", here.port) as stream:
            await stream.send(b"hello")
            assert await stream.receive() == b"hello"
            assert account.open == 1
        assert (here.notes.ends, here.notes.moved) == (["closed"], [(5, 5)])
        assert (account.open, account.bytes_left) == (0, 10**6 - 10)
        with pytest.raises(EgressRefused, match="not_granted"):
            await way.connect("b.example", here.port)
        with pytest.raises(EgressRefused, match="address_refused"):
            await Way(EgressGate(resolver=lookup), rules, here.notes, account).connect("a.example", here.port)
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        nowhere = Way(gate, [parse_host_rule(f"a.example:{port}")], here.notes, account)
        with pytest.raises(EgressRefused, match="unreachable"):
            await nowhere.connect("a.example", port)
        assert here.notes.ends == ["closed", "unreachable"]
        assert account.open == 0


async def test_the_gateway_s_own_connections_draw_on_the_session_s_budget_and_end_with_it() -> None:
    async with out() as here:
        gate = EgressGate(EgressSettings(networks=LOOPBACK, connections=2), resolver=lookup)
        account = Account(150)
        way = Way(gate, [parse_host_rule(f"a.example:{here.port}")], here.notes, account)
        first, second = [await way.connect("a.example", here.port) for _ in range(2)]
        with pytest.raises(EgressRefused, match="too_many"):
            await way.connect("a.example", here.port)
        await first.send(b"x" * 100)
        with pytest.raises(anyio.BrokenResourceError, match="used up"):
            await first.receive()
        with pytest.raises(EgressRefused, match="budget_spent"):
            await way.connect("a.example", here.port)
        await way.aclose()
        await way.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await second.receive()
        assert here.notes.ends == ["budget_spent", "closed"]
        assert here.notes.moved == [(100, 100), (0, 0)]
        assert account.open == 0


async def test_a_connection_of_the_gateway_s_that_cannot_be_recorded_is_the_session_s_last() -> None:
    async with out() as here:
        account = Account(10**6)
        gate = EgressGate(EgressSettings(networks=LOOPBACK), resolver=lookup)
        way = Way(gate, [parse_host_rule(f"a.example:{here.port}")], here.notes, account)
        stream = await way.connect("a.example", here.port)
        here.notes.fails = True
        await stream.aclose()
        assert account.bytes_left == 0
        with pytest.raises(EgressRefused, match="audit_unavailable"):
            await way.connect("a.example", here.port)


def test_sockets_of_a_dead_gateway_are_swept_and_those_of_a_living_one_are_not(tmp_path: Path) -> None:
    living = new_folder(tmp_path)
    boot, namespace, pid, started = owner(1).split("-")
    dead, other = new_folder(tmp_path), tmp_path / "sandgate-egress-something"
    other.mkdir()
    (dead / "owner").write_text(f"{boot}-{namespace}-{pid}-{int(started) + 1}")
    (dead / "1").touch()
    sweep(tmp_path)
    assert living.is_dir()
    assert living.stat().st_mode & 0o777 == 0o700
    assert not dead.exists()
    assert other.is_dir()
