"""What belongs to one hop and what travels on; names on a shared endpoint."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gateway.core.json_types import JsonObject
from gateway.serve.mcp.directory import Directory
from gateway.serve.mcp.envelope import end_to_end_meta, is_modern, names_modern_era, result_envelope

ME: JsonObject = {"name": "sandgate", "version": "0"}
LEGACY, MODERN = "2025-11-25", "2026-07-28"


def directory(**packs: list[str]) -> Directory:
    """Return a directory of packs with these tools; only what it reads is there."""
    served: Any = {
        pack: SimpleNamespace(
            catalog=SimpleNamespace(
                tools={tool: SimpleNamespace(definition={"inputSchema": {"of": tool}}) for tool in tools}
            )
        )
        for pack, tools in packs.items()
    }
    return Directory(served)


@pytest.mark.parametrize(
    ("header", "modern"),
    [(None, False), ("2025-03-26", False), (LEGACY, False), (MODERN, True), ("2099-01-01", True), ("", True)],
)
def test_only_a_known_handshake_version_or_none_leads_to_the_legacy_era(
    header: str | None, modern: bool
) -> None:
    assert names_modern_era(header) is modern


def test_only_agreed_versions_without_sessions_are_modern() -> None:
    assert (is_modern(MODERN), is_modern(LEGACY), is_modern("2099-01-01")) == (True, False, False)


def test_hop_by_hop_keys_stay_behind_and_unknown_ones_travel() -> None:
    prefix = "io.modelcontextprotocol/"
    own: JsonObject = {
        prefix + "protocolVersion": MODERN,
        prefix + "clientCapabilities": {},
        prefix + "clientInfo": {},
        prefix + "logLevel": "debug",
        prefix + "subscriptionId": "1",
        prefix + "serverInfo": {},
        "progressToken": 1,
        "sandgate/decision": {"effect": "allow"},
        "sandgate/other": 1,
    }
    others: JsonObject = {"traceparent": "00-x", prefix + "related-task": {"taskId": "1"}, "a/b": [1]}
    assert end_to_end_meta(own | others) == others


def test_a_legacy_result_is_sent_as_it_is() -> None:
    result: JsonObject = {"content": [], "unknown": {"a": None}, "_meta": {"x": 1}}
    assert result_envelope(result, version=LEGACY, server_info=ME) == result


def test_what_a_server_says_of_itself_or_of_the_result_is_ours_to_say() -> None:
    result: JsonObject = {
        "content": [],
        "resultType": "input_required",
        "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "forged"}, "x": 1},
    }
    modern = result_envelope(result, version=MODERN, server_info=ME)
    assert modern == {
        "content": [],
        "resultType": "complete",
        "_meta": {"x": 1, "io.modelcontextprotocol/serverInfo": ME},
    }
    assert result_envelope(result, version=LEGACY, server_info=ME)["_meta"] == {"x": 1}


def test_a_modern_listing_may_be_kept_for_a_while_by_its_reader_alone() -> None:
    listing = result_envelope({"tools": []}, version=MODERN, server_info=ME, listing=True)
    assert (listing["cacheScope"], listing["ttlMs"]) == ("private", 60_000)


def test_one_pack_keeps_its_names() -> None:
    one = directory(files=["read", "a__b"])
    assert one.shown("files", "a__b") == "a__b"
    assert one.find("a__b") == ("files", "a__b")
    assert one.find("nope") == ("files", "nope")


def test_several_packs_are_told_apart_by_a_prefix_that_leads_back() -> None:
    several = directory(files=["read"], git=["read"], files__x=["read"])
    for pack in ("files", "git", "files__x"):
        assert several.find(several.shown(pack, "read")) == (pack, "read")


def test_a_name_of_no_pack_is_a_tool_that_the_pack_it_is_told_to_does_not_have() -> None:
    several = directory(files=["read"], git=["log"])
    assert several.find("write") == ("files", "write")
    assert several.find("read") == ("files", "?read")
    assert several.find("other__read") == ("files", "other__read")


def test_schemas_are_found_by_shown_name() -> None:
    several = directory(files=["read"], git=["log"])
    assert several.input_schema("git__log") == {"of": "log"}
    assert several.input_schema("log") is None
