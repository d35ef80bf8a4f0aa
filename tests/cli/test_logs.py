"""What `serve` logs: a line for each call, JSON where it is asked for, never an argument or a secret."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.cli.logs import NeverWaits, configure, hide, teller
from gateway.config import LogSettings
from tests.support.gateways import copy_pack
from tests.support.mcp_http import LEGACY, RawMcp
from tests.support.processes import serving


@pytest.fixture
def own_logging() -> Generator[None]:
    """Let a test configure the root logger, and put it back."""
    root, ours = logging.getLogger(), logging.getLogger("gateway")
    before = [*root.handlers], root.level, ours.level
    yield
    root.handlers = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


async def test_each_call_is_a_line_of_json_with_its_ids_and_without_its_arguments(tmp_path: Path) -> None:
    folder = str(copy_pack("echo", tmp_path).folder)
    options = ("--state", str(tmp_path / "state"), "--log-format", "json", "--log-level", "info")
    with serving(folder, *options) as served:
        async with httpx2.AsyncClient(timeout=10) as http:
            mcp = RawMcp(http, served.url + "/mcp")
            await mcp.initialize()
            await mcp.call(LEGACY, "echo", text="s3cret-argument")
            await mcp.call(LEGACY, "read", path="/workspace/.env-s3cret")
            await mcp.call(LEGACY, "no\x1b[2J\u202etool")
        served.process.send_signal(signal.SIGTERM)
        assert served.process.stderr is not None
        text = served.said + served.process.stderr.read()
    lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    calls = [line for line in lines if line["logger"] == "gateway.calls"]
    assert [(call["tool"], call["outcome"], call["code"], call["rule"]) for call in calls] == [
        ("echo", "answered", "rule_allow", "talk"),
        ("read", "denied", "rule_deny", "no-secret-files"),
        ("no\x1b[2J\u202etool", "denied", "unknown_tool", None),
    ]
    assert all(call["session"] == mcp.session_id and call["principal"] == "local" for call in calls)
    assert 0 < calls[0]["server_ms"] < calls[0]["ms"]
    assert any(line["message"].startswith("ready on http://127.0.0.1:") for line in lines)
    assert "s3cret" not in text
    assert text.isascii()
    assert "\x1b" not in text


@pytest.mark.usefixtures("own_logging")
def test_text_cannot_move_the_cursor_and_secrets_are_masked(capsys: pytest.CaptureFixture[str]) -> None:
    configure(LogSettings(level="info"))
    hide(["hunter2", ""])
    logging.getLogger("gateway.runtime.upstream").warning(
        "it said \x1b]0;hi\x07\x1b[31m %s\r\nsandgate: forged", "hunter2"
    )
    logging.getLogger("gateway.calls").info("a call")
    logging.getLogger("somebody.else").info("chatter")
    said = capsys.readouterr().err
    assert said.splitlines() == [
        "sandgate: WARNING gateway.runtime.upstream: it said \\u{1b}]0;hi\\u{7}\\u{1b}[31m [secret]\\u{d}",
        "    sandgate: forged",
        "sandgate: INFO gateway.calls: a call",
    ]


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_are_masked_in_tracebacks_too(capsys: pytest.CaptureFixture[str], form: Any) -> None:
    configure(LogSettings(format=form))
    hide(["hunter2"])
    try:
        raise ValueError("hunter2 is wrong")
    except ValueError:
        logging.getLogger("gateway").exception("it failed")
    said = capsys.readouterr().err
    assert ("ValueError: [secret] is wrong" in said, "hunter2" in said) == (True, False)


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("level", ["warning", "error"])
def test_that_it_is_ready_is_said_at_any_level(capsys: pytest.CaptureFixture[str], level: Any) -> None:
    settings = LogSettings(format="json", level=level)
    configure(settings)
    teller(settings)("ready on http://127.0.0.1:1")
    assert json.loads(capsys.readouterr().err)["message"] == "ready on http://127.0.0.1:1"


@pytest.mark.usefixtures("own_logging")
def test_a_servers_last_words_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    configure(LogSettings())
    logging.getLogger("gateway").warning("x" * 100_000)
    assert len(capsys.readouterr().err) < 17_000


def test_a_log_that_nobody_reads_holds_nobody_up_and_tells_what_was_dropped() -> None:
    reader, writer = os.pipe()
    try:
        handler = NeverWaits(writer)
        lines = [f"line {number} {'x' * 500}" for number in range(1_000)]
        for line in lines:  # far more than a pipe holds
            handler.handle(record_of(line))
        os.set_blocking(reader, False)
        read = drained(reader)
        handler.handle(record_of("the last"))
        after = drained(reader).splitlines()
    finally:
        os.close(reader)
        os.close(writer)
    kept = [line for line in read.splitlines() if line in lines]
    assert 0 < len(kept) < len(lines)
    assert kept == lines[: len(kept)]
    assert after[-2:] == [f"{len(lines) - len(kept)} lines were dropped", "the last"]


def record_of(message: str) -> logging.LogRecord:
    return logging.LogRecord("gateway", logging.INFO, "", 0, message, None, None)


def drained(descriptor: int) -> str:
    data = b""
    with contextlib.suppress(BlockingIOError):
        while part := os.read(descriptor, 65_536):
            data += part
    return data.decode()
