"""Secrets, whole: they reach the server that names them, by every driver, and are shown nowhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.wiring import make_plan, open_plan
from gateway.core.calls import LOCAL, Answered, Front, ToolCall
from gateway.errors import UsageError
from gateway.runtime.gateway import Gateway
from gateway.runtime.sessions import Session, new_call_id
from gateway.sandbox.contract import SandboxDriver
from gateway.sandbox.drivers import DRIVERS, make_driver
from tests.support.docker_engine import provide_engine
from tests.support.gateways import copy_pack, served
from tests.support.terminal import sandgate

SECRET = "hush-86397-and-more"
TELLS = "version: 1\nrules: [{id: all, allow: 'echo.*'}]\n"
LENGTH = 'return text(str(len(os.environ.get(arguments["name"], ""))))'


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> SandboxDriver:
    provide_engine(request)
    return make_driver(request.param, cache_dir=tmp_path / "cache")


def with_secret(tmp_path: Path, *, code: tuple[str, str] | None = None) -> Path:
    """Copy the echo pack with a server that names a secret, and perhaps one line of it changed."""
    folder = copy_pack("echo", tmp_path).folder
    manifest = folder / "toolpack.yaml"
    manifest.write_text(manifest.read_text().replace("    kinds:", "    secrets: [TOKEN]\n    kinds:"))
    if code:
        server = folder / "servers" / "echo.py"
        assert code[0] in server.read_text()
        server.write_text(server.read_text().replace(*code))
    return folder


async def call(gateway: Gateway, session: Session, tool: str, **arguments: Any) -> Any:
    return await gateway.call(session, ToolCall(new_call_id(), tool, arguments, Front.CLI))


def shown_by_processes(secret: str) -> list[str]:
    """Return the command lines, and the environments of others than servers, that hold the secret."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if secret.encode() in path.read_bytes():
                found.append(str(path))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


async def test_a_secret_reaches_its_server_and_nothing_that_is_shown_or_kept(
    driver: SandboxDriver, tmp_path: Path
) -> None:
    with_secret(tmp_path, code=('return text(os.environ.get(arguments["name"], ""))', LENGTH))
    async with served(tmp_path, policy=TELLS, secrets={"TOKEN": SECRET}, sandbox=driver) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        outcome = await call(gateway, session, "env", name="TOKEN")
        assert isinstance(outcome, Answered)
        assert str(len(SECRET)) in str(outcome.result), "it has arrived"
        assert shown_by_processes(SECRET) == []
    assert SECRET not in kept_in(tmp_path / "state")


async def test_a_server_that_tells_its_secret_is_masked_in_results_errors_and_the_ledger(
    tmp_path: Path,
) -> None:
    with_secret(tmp_path)
    async with served(tmp_path, policy=TELLS, secrets={"TOKEN": SECRET}) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        told = await call(gateway, session, "env", name="TOKEN")
        echoed = await call(gateway, session, "echo", text=f"before {SECRET} after")
        failed = await call(gateway, session, "fail", message=SECRET)
    assert "[secret]" in str(told)
    assert "before [secret] after" in str(echoed)
    assert SECRET not in str((told, echoed, failed))
    assert SECRET not in kept_in(tmp_path / "state")


KEY = '-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0"BAQ\\EFAAS\nCBKcwggSjAgEAAoIBAQDé\n-----END KEY-----'
"""As keys are: of several lines. With what JSON and URLs write otherwise."""
AS = {
    "as it is": "value",
    "in JSON": "json.dumps(value)",
    "in JSON of any text": "json.dumps(value, ensure_ascii=False)",
    "in a URL": "__import__('urllib.parse').parse.quote(value, safe='')",
    "one of its lines": "value.splitlines()[1]",
}


@pytest.mark.parametrize("spelt", AS.values(), ids=AS)
async def test_a_secret_is_masked_however_a_text_spells_it(spelt: str, tmp_path: Path) -> None:
    tells = f'value = os.environ[arguments["name"]]; return text("<" + {spelt} + ">")'
    with_secret(tmp_path, code=('return text(os.environ.get(arguments["name"], ""))', tells))
    async with served(tmp_path, policy=TELLS, secrets={"TOKEN": KEY}) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        told = str(await call(gateway, session, "env", name="TOKEN"))
    assert "[secret]" in told
    assert "MIIEv" not in told
    assert "MIIEv" not in kept_in(tmp_path / "state")


def kept_in(folder: Path) -> str:
    return "".join(file.read_text(errors="replace") for file in folder.rglob("*") if file.is_file())


def test_a_command_that_fails_is_told_by_its_exit_code_and_not_by_what_it_wrote(tmp_path: Path) -> None:
    folder = with_secret(tmp_path)
    config = tmp_path / "gateway.yaml"
    config.write_text("secrets: {TOKEN: {command: [sh, -c, 'echo half-a-secret; exit 3']}}\n")
    done = sandgate("call", str(folder), "env", "--config", str(config), "--state", str(tmp_path / "state"))
    assert done.code == 2
    assert done.err.strip().endswith(
        "secret TOKEN: its command failed: it ended with exit code 3; run it by hand"
    )


@pytest.mark.parametrize("source", ["{env: ELSEWHERE}", "{file: gone.txt}", "{command: ['false']}", None])
async def test_a_missing_secret_starts_nothing_and_is_named(
    source: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_secret(tmp_path)
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "gateway.yaml"
    config.write_text(f"secrets: {{TOKEN: {source}}}\n" if source else "mode: deployment\n")
    plan = make_plan([str(folder)], {"state": tmp_path / "state"}, config_file=config)
    with pytest.raises(UsageError, match="secret TOKEN"):
        async with open_plan(plan, lambda _: None):
            pytest.fail("it opened")


async def test_a_secret_by_command_reaches_a_server_through_the_command_line_s_own_wiring(
    tmp_path: Path,
) -> None:
    folder = with_secret(tmp_path, code=('return text(os.environ.get(arguments["name"], ""))', LENGTH))
    config = tmp_path / "gateway.yaml"
    config.write_text(f"secrets: {{TOKEN: {{command: [{sys.executable}, -c, 'print(\"s3cret\")']}}}}\n")
    (tmp_path / "policy.yaml").write_text(TELLS)
    flags = {"state": tmp_path / "state", "policy": tmp_path / "policy.yaml"}
    plan = make_plan([str(folder)], flags, config_file=config)
    async with open_plan(plan, lambda _: None) as gateway:
        session = await gateway.open_session("echo", LOCAL)
        assert "'6'" in str(await call(gateway, session, "env", name="TOKEN"))
