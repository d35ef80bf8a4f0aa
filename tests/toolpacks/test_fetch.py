"""The bundled pack `fetch`: its server reads a page through the proxy, and a redirect leads nowhere."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path

from gateway.core.calls import LOCAL, Front, ToolCall
from gateway.core.policy import compile_policy, load_policy
from gateway.runtime.clock import SystemClock
from gateway.runtime.gateway import GatewaySettings, open_gateway
from gateway.runtime.ledger import open_ledger
from gateway.runtime.packs import Pack, bundled_packs, load_pack
from gateway.runtime.sessions import new_call_id
from gateway.sandbox.egress import EgressGate, EgressSettings
from tests.support.ledgers import records_of
from tests.support.packages import network_installer
from tests.support.sandboxes import bubblewrap
from tests.support.tls import authority, https_server

HOST = "docs.python.org"


async def lookup(host: str, port: int) -> Sequence[str]:
    """Stand in for DNS: every name is this machine."""
    return ["127.0.0.1"]


def pack_at(tmp_path: Path, port: int) -> tuple[Pack, str]:
    """Return a copy of the pack, and of its policy, whose internet is a server at `port` of this machine."""
    folder = tmp_path / "pack"
    manifest = folder / "toolpack.yaml"
    text = manifest.read_text().replace("*:443", f"*:{port}").replace("{path: /workspace}", "{seed: seed}")
    manifest.write_text(text.replace("env: {", "env: {SSL_CERT_FILE: /workspace/ca.pem, "))
    (folder / "tools.lock.json").unlink()  # it names how the server is started
    pack = load_pack(str(folder))
    assert pack.policy_file is not None
    policy = pack.policy_file.read_text().partition("tests:")[0]
    policy = policy.replace("port: 443", f"port: {port}")
    return pack, policy.replace('egress: "${docs}"', f'egress: ["{HOST}:{port}"]')


async def test_a_page_is_read_and_a_redirect_elsewhere_is_refused(tmp_path: Path) -> None:
    shutil.copytree(bundled_packs()["fetch"], tmp_path / "pack")
    (tmp_path / "pack" / "seed").mkdir()
    authority(tmp_path / "pack" / "seed", HOST)
    clock = SystemClock()
    with https_server(tmp_path / "pack" / "seed") as port:
        pack, policy = pack_at(tmp_path, port)
        async with (
            open_ledger(tmp_path / "state", clock) as ledger,
            bubblewrap(tmp_path) as driver,
            open_gateway(
                [(pack, compile_policy(load_policy(policy, "fetch.yaml")))],
                driver=driver,
                ledger=ledger,
                installer=network_installer(),
                clock=clock,
                settings=GatewaySettings(),
                gate=EgressGate(EgressSettings((ip_network("127.0.0.0/8"),)), resolver=lookup),
            ) as gateway,
        ):
            session = await gateway.open_session("fetch", LOCAL)

            async def fetch(path: str) -> str:
                call = ToolCall(new_call_id(), "fetch", {"url": f"https://{HOST}:{port}{path}"}, Front.CLI)
                return str(await gateway.call(session, call))

            assert "a page over TLS" in await fetch("/page")
            assert "Failed to fetch" in await fetch(f"/to/evil.example:{port}/page")
    asked = {
        (record["egress"]["protocol"], record["decision"]["effect"], record["egress"]["asked"])
        for record in records_of(tmp_path / "state")
        if record["event"] == "egress" and record["decision"]
    }
    assert {one for one in asked if one[0] == "connect"} == {
        ("connect", "allow", f"{HOST}:{port}"),
        ("connect", "deny", f"evil.example:{port}"),
    }
    # The server looks names up itself before it asks the proxy: that is refused, and seen.
    assert {("dns", "deny", f"dns {HOST}"), ("dns", "deny", "dns evil.example")} <= asked
