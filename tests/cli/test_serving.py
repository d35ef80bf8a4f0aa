"""`sandgate serve` as a process: when it is ready, what it says, how it ends."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.gateways import copy_pack
from tests.support.processes import run_sandgate, sandgate_argv, serving
from tests.support.terminal import sandgate


def get(url: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_ready_means_that_calls_would_be_answered_and_sigterm_ends_it_with_zero(tmp_path: Path) -> None:
    folder = str(copy_pack("echo", tmp_path).folder)
    with serving(folder, "--state", str(tmp_path / "state")) as served:
        assert get(f"{served.url}/health") == (200, '{"status":"healthy"}')
        status, detail = get(f"{served.url}/ready")
        assert (status, json.loads(detail)["mode"]) == (200, "deployment")
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(30) == 0


def test_the_environment_interface_is_there_in_training_mode_only(tmp_path: Path) -> None:
    folder = str(copy_pack("echo", tmp_path).folder)
    state = ("--state", str(tmp_path / "state"))
    with serving(folder, *state, "--mode", "training") as served:
        assert get(f"{served.url}/schema")[0] == 200
        assert get(f"{served.url}/packs/echo/schema")[0] == 200
        assert "/reset" in json.loads(get(f"{served.url}/openapi.json")[1])["paths"]
    with serving(folder, *state) as served:
        assert get(f"{served.url}/state")[0] == 404
        assert get(f"{served.url}/packs/echo/state")[0] == 404
        assert "/reset" not in json.loads(get(f"{served.url}/openapi.json")[1])["paths"]


def test_settings_come_from_the_file_and_the_environment(tmp_path: Path) -> None:
    pack = copy_pack("echo", tmp_path)
    file = tmp_path / "gateway.yaml"
    file.write_text(f"mode: training\nstate: {tmp_path / 'elsewhere'}\n")
    with serving(str(pack.folder), "--config", str(file)) as served:
        assert json.loads(get(f"{served.url}/ready")[1])["mode"] == "training"
    assert (tmp_path / "elsewhere" / "audit").is_dir()


def test_a_pack_without_a_policy_is_served_and_every_call_denied_and_it_says_so(tmp_path: Path) -> None:
    pack = copy_pack("echo", tmp_path)
    manifest = pack.folder / "toolpack.yaml"
    manifest.write_text(manifest.read_text().replace("policy: policy.yaml\n", ""))
    state = ("--state", str(tmp_path / "state"))
    with serving(str(pack.folder), *state) as served:
        assert "pack 'echo' has no policy: every call to it is denied; give one with --policy" in served.said
    ran = run_sandgate("call", str(pack.folder), "echo", "--args", '{"text": "hi"}', *state)
    assert (ran.returncode, "no policy was given" in ran.stdout) == (1, True)


def test_with_an_auth_file_a_stranger_is_told_to_say_who_they_are(tmp_path: Path) -> None:
    pack = copy_pack("echo", tmp_path)
    token = tmp_path / "token"
    token.write_text("a-token-of-some-length")
    digest = sandgate("auth", "hash", str(token)).out.strip()
    auth = tmp_path / "auth.yaml"
    known = f"{{sha256: {digest}, principal: trainer, roles: [orchestrator]}}"
    auth.write_text(f"version: 1\ntokens: [{known}]\n")
    options = ("--mode", "training", "--state", str(tmp_path / "state"), "--auth", str(auth))
    with serving(str(pack.folder), *options) as served:
        assert get(f"{served.url}/schema")[0] == 401
        assert get(f"{served.url}/schema", Authorization="Bearer a-token-of-some-length")[0] == 200


def test_a_busy_port_is_said_before_anything_is_started(tmp_path: Path) -> None:
    folder = str(copy_pack("echo", tmp_path).folder)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ran = run_sandgate("serve", folder, "--port", port, "--state", str(tmp_path / "state"))
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"sandgate: port {port} on 127.0.0.1 is in use: choose another with --port")
    assert not (tmp_path / "state").exists()


def test_a_state_folder_has_one_gateway(tmp_path: Path) -> None:
    folder = str(copy_pack("echo", tmp_path).folder)
    state = ("--state", str(tmp_path / "state"))
    with serving(folder, *state):
        second = run_sandgate("tools", folder, *state)
    assert second.returncode == 2
    assert "--state" in second.stderr
    assert "Traceback" not in second.stderr


def test_beside_a_gateway_on_the_default_state_folder_a_call_takes_another(tmp_path: Path) -> None:
    folder = str(copy_pack("echo", tmp_path).folder)
    env = {"XDG_STATE_HOME": str(tmp_path / "xdg")}
    state = tmp_path / "xdg" / "sandgate"
    with serving(folder, env=env):
        ran = run_sandgate("call", folder, "echo", "--args", '{"text": "hi"}', env=env)
    assert ran.returncode == 0, ran.stderr
    assert f"{state} is in use: the audit log of this one is in {state / 'beside' / '1'}" in ran.stderr
    assert sandgate("audit", "verify", str(state / "beside" / "1")).code == 0


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_starts_ends_it_in_order(tmp_path: Path, ending: signal.Signals) -> None:
    pack = copy_pack("echo", tmp_path)
    fifo = tmp_path / "started"
    os.mkfifo(fifo)
    # A server that never answers: the start waits for it. Without a sandbox it can say that it runs.
    script = f"import time\nheld = open({str(fifo)!r}, 'w')\nheld.write('x')\nheld.flush()\ntime.sleep(600)\n"
    (pack.folder / "servers" / "echo.py").write_text(script)
    options = ("--sandbox", "process", "--i-know-this-is-not-isolated", "--state", str(tmp_path / "state"))
    started = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with subprocess.Popen(
        sandgate_argv("serve", str(pack.folder), "--port", "0", *options), stderr=subprocess.PIPE, text=True
    ) as process:
        ready, _, _ = select.select([started], [], [], 30)
        process.send_signal(ending)
        assert ready, "the server was never started"
        assert process.wait(30) == 0
    os.close(started)
