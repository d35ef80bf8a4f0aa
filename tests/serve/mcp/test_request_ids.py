"""Request ids of a session: one request at a time has one, and it is free again once that is answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from gateway.core.calls import LOCAL
from gateway.errors import ClientError
from gateway.serve.mcp.sessions import Binding
from tests.serve.mcp.test_http import serving


async def test_a_client_that_uses_one_id_again_and_again_is_answered_each_time(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mcp, _):
        await mcp.initialize()
        for method in ("tools/list", "ping") * 20:
            body = json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": {}}).encode()
            answer = await mcp.post(body, mcp.legacy_headers())
            assert answer.json()["id"] == 7
            assert "result" in answer.json(), (method, answer.text)


async def test_an_id_whose_request_is_about_to_be_over_is_waited_for() -> None:
    binding = Binding(LOCAL, cast("Any", None), place=0)
    order: list[str] = []

    async def second() -> None:
        async with binding.answering("7"):
            order.append("second")

    async with anyio.create_task_group() as tasks, binding.answering("7"):
        tasks.start_soon(second)
        await anyio.sleep(0.02)  # the answer is out, its client was quicker than this request's end
        order.append("first")
    assert order == ["first", "second"]
    assert not binding.in_flight


async def test_an_id_that_stays_in_use_is_refused() -> None:
    binding = Binding(LOCAL, cast("Any", None), place=0)
    async with binding.answering("7"):
        with pytest.raises(ClientError, match="already waiting for its answer"):
            async with binding.answering("7"):
                raise AssertionError("two requests have one id")
        assert list(binding.in_flight) == ["7"]
