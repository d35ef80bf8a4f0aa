"""What is written of a call, and what is not."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.calls import Answered, Denied, Failed, FailureKind, Front, Outcome, ToolCall
from gateway.core.chain import GENESIS, Chain
from gateway.core.decisions import Effect
from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.record_forms import CALL_FIELDS, DECISION_FIELDS, record_forms
from gateway.core.records import (
    CallIds,
    ToolIds,
    arguments_shape,
    decision_record,
    hmac_sha256,
    outcome_record,
    recovered_record,
    unknown_outcome,
)
from gateway.core.strict_json import dumps, loads
from tests.support.ledgers import KEY, decided, record_pair

FIELDS = [
    *("seq", "ts", "boot_id", "event", "call_id", "session", "episode", "step", "front", "principal", "pack"),
    *("server", "tool", "definition_sha256", "arguments", "decision", "outcome", "sandbox", "prev", "hash"),
]
IDS = CallIds("s-1", "e-1", 3, "alice", "git")
TOOL = ToolIds("git", "git_log", "d" * 64, "sb-1")
SECRET: JsonObject = {"path": "a-secret-value", "limit": 4711}
CALL = ToolCall("c-1", "git_log", SECRET, Front.ENV)


def decision(plain: bool = False) -> JsonObject:
    return decision_record(
        call=CALL,
        decision=decided("c-1", Effect.DENY),
        ids=IDS,
        tool=TOOL,
        arguments=SECRET,
        plain=SECRET if plain else None,
        key=KEY,
    )


def outcome(of: Outcome) -> Any:
    return outcome_record(call=CALL, outcome=of, ids=IDS, tool=TOOL, ms=12.34567, key=KEY)["outcome"]


odd_texts = st.none() | st.text() | st.sampled_from(["%s", "%", "100%d", '"', "é\n"])
small_values: st.SearchStrategy[Any] = st.recursive(
    odd_texts | st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(dict.fromkeys(DECISION_FIELDS, odd_texts) | {"line": st.none() | st.integers()}),
    st.fixed_dictionaries(
        dict.fromkeys(CALL_FIELDS, odd_texts)
        | dict.fromkeys(("arguments", "decision", "outcome"), small_values)
        | {"step": st.none() | st.integers() | st.booleans()}
    ),
    st.booleans(),
    small_values,
)
def test_both_forms_of_a_record_are_plain_json_of_its_fields(
    decision: JsonObject, body: JsonObject, decided_: bool, other: JsonValue
) -> None:
    if decided_:
        body["decision"] = decision
    for record in (body, {"event": "egress", "egress": other}):
        whole: JsonObject = {"seq": 7, "ts": 1.5, "boot_id": "b", **record}
        own, ordered = record_forms(7, 1.5, "b", record)
        assert own == json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
        assert ordered == json.dumps(whole, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def test_a_number_is_never_written_as_another_that_is_equal_to_it() -> None:
    body, _ = record_pair("c")
    for session in (1, 1.0, True):
        own, _ = record_forms(1, 1.0, "b", body | {"session": session})
        assert type(json.loads(own)["session"]) is type(session)


def test_the_records_of_calls_are_of_the_one_shape() -> None:
    body, ended = record_pair("c")
    assert tuple(body) == tuple(ended) == CALL_FIELDS
    assert tuple(decided("c", Effect.DENY).wire()) == DECISION_FIELDS


def test_every_record_has_exactly_the_fields_of_the_contract_in_its_order() -> None:
    chain = Chain()
    for body in (*record_pair("c"), unknown_outcome(decision())):
        assert list(json.loads(chain.seal(body, 1.0, "boot"))) == FIELDS
    assert set(json.loads(chain.seal(recovered_record({}), 1.0, "boot"))) == {*FIELDS, "void_after"}


def test_a_decision_record_tells_who_asked_for_what_and_why_it_was_decided() -> None:
    record = decision()
    assert record["event"] == "decision"
    assert record["decision"] == decided("c-1", Effect.DENY).wire()
    assert record["outcome"] is None
    told = ("session", "episode", "step", "front", "principal", "pack", "server", "tool", "sandbox")
    assert [record[name] for name in told] == [
        "s-1",
        "e-1",
        3,
        "env",
        "alice",
        "git",
        "git",
        "git_log",
        "sb-1",
    ]


def test_argument_values_are_not_written_unless_asked_for() -> None:
    text = dumps(decision()).decode()
    assert "a-secret-value" not in text
    assert "4711" not in text
    plain: Any = decision(plain=True)["arguments"]
    assert plain["plain"] == SECRET


def test_the_owner_of_the_key_can_recognise_the_arguments() -> None:
    arguments: Any = decision()["arguments"]
    canonical = json.dumps(SECRET, sort_keys=True, separators=(",", ":")).encode()
    assert arguments["hmac"] == hmac.new(KEY, canonical, hashlib.sha256).hexdigest()


def test_an_outcome_tells_kind_time_and_size_but_no_content() -> None:
    result: JsonObject = {"content": [{"type": "text", "text": "a-secret-answer"}]}
    told = outcome(Answered(decided("c-1"), result))
    assert {**told, "hmac": None} == {
        "kind": "answered",
        "ms": 12.346,
        "bytes": len(dumps(result)),
        "hmac": None,
    }
    assert "a-secret-answer" not in json.dumps(told)
    assert len(told["hmac"]) == 64


def test_a_denied_and_a_failed_call_have_an_outcome_too() -> None:
    nothing = {"ms": 12.346, "bytes": 0, "hmac": None}
    assert outcome(Denied(decided("c-1", Effect.DENY))) == {"kind": "denied", **nothing}
    failed = Failed(decided("c-1"), FailureKind.TIMEOUT, "a message that may quote the server")
    assert outcome(failed) == {"kind": "failed", "failure": "timeout", **nothing}


def test_a_decision_left_open_is_closed_as_unknown() -> None:
    opened = json.loads(Chain().seal(decision(), 1.0, "boot"))
    closed: Any = unknown_outcome(opened)
    assert closed["event"] == "outcome"
    assert closed["outcome"]["kind"] == "unknown"
    assert closed["arguments"] is closed["decision"] is None
    assert [closed[name] for name in ("call_id", "session", "tool")] == ["c-1", "s-1", "git_log"]


def test_the_shape_has_names_types_and_lengths() -> None:
    shape = arguments_shape(
        {"path": "hello", "n": 1, "f": 1.5, "on": True, "none": None, "list": ["ab", {"x": []}], "o": {}}
    )
    assert shape == {
        "path": "string(5)",
        "n": "integer",
        "f": "number",
        "on": "boolean",
        "none": "null",
        "list": ["string(2)", {"x": []}],
        "o": {},
    }


def test_the_shape_of_huge_arguments_is_small_and_says_what_is_left_out() -> None:
    assert arguments_shape({"a": list(range(1000))}) == {"a": [*["integer"] * 16, "+984 items"]}
    wide: Any = arguments_shape({f"k{i}": i for i in range(1000)})
    assert wide[1] == "+984 names"
    assert arguments_shape({"n" * 65: 1, "a": 2}) == [{"a": "integer"}, "+1 names"]
    nested: JsonValue = {f"k{i}": i for i in range(20)}
    for _ in range(50):
        many: list[JsonValue] = [nested] * 9
        nested = {"a": nested, "b": many}
    assert len(dumps(arguments_shape({"nested": nested}))) < 4096


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_a_shape_is_bounded_and_never_makes_a_line_unreadable(value: Any) -> None:
    try:
        arguments = loads(json.dumps({"a": value}))
    except ValueError:
        return
    assert isinstance(arguments, dict)
    line = Chain().seal(record_pair("c", arguments=arguments)[0], 1.0, "boot")
    assert Chain().check(line)["seq"] == 1


def test_a_hash_can_be_recomputed_with_nothing_but_the_standard_library() -> None:
    chain = Chain()
    prev = GENESIS
    for number, body in enumerate([*record_pair("grüße"), *record_pair("c-2")], 1):
        record = json.loads(chain.seal(body, 1_700_000_000.123456789, "boot"))
        stated, before = record.pop("hash"), record.pop("prev")
        rest = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert (record["seq"], before) == (number, prev)
        assert stated == hashlib.sha256((before + rest).encode()).hexdigest()
        prev = stated


def test_a_record_that_is_not_json_leaves_the_chain_where_it_was() -> None:
    chain = Chain()
    for bad in ({"event": float("nan")}, {"event": "\ud800"}, {"event": object()}):
        with pytest.raises((ValueError, TypeError)):
            chain.seal(bad, 1.0, "boot")  # type: ignore[arg-type]
    assert (chain.seq, chain.prev) == (1, GENESIS)


@given(key=st.binary(max_size=200), data=st.binary(max_size=300))
def test_the_keyed_hash_is_the_standards(key: bytes, data: bytes) -> None:
    assert hmac_sha256(key, data) == hmac.digest(key, data, "sha256").hex()
