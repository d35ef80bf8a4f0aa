"""`learn`: the least that recorded calls need, as a file that loads and allows them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.calls import LOCAL
from gateway.core.json_types import JsonObject
from gateway.core.policy import PackFacts, check, compile_policy, load_policy
from gateway.core.policy.learning import Proposal, learn, split_sessions
from gateway.core.policy.recorded import RecordedCall, Recording
from gateway.core.policy.rejudging import rejudge
from gateway.core.policy.roots import common_roots

FACTS = PackFacts(
    kinds={"fs": {"path": "path", "paths": "path"}, "web": {"url": "url"}, "db": {"query": "sql"}},
    tools={"fs": {"read": {"properties": {"path": {}, "follow": {}}}}},
)


def recorded(name: str, session: str = "s0", *, ran: bool = True, **arguments: Any) -> RecordedCall:
    server, _, tool = name.partition(".")
    return RecordedCall(
        f"c{id(arguments)}", session, "pack", server, tool, arguments, LOCAL, "deployment", ran, 0.0
    )


def proposed(*calls: RecordedCall) -> Proposal:
    return learn(Recording(calls), FACTS)


def rules_of(proposal: Proposal) -> Any:
    return {rule["id"]: rule for rule in yaml.safe_load(proposal.text)["rules"]}


def test_a_path_argument_gets_the_folders_it_was_used_in() -> None:
    paths = ["/workspace/src/a.py", "/workspace/src/b.py", "/workspace/docs/guide/x.md"]
    rule = rules_of(proposed(*(recorded("fs.list", path=path) for path in paths)))["fs.list"]
    assert rule["args"]["path"] == {"under": ["/workspace/docs/guide", "/workspace/src"]}


@pytest.mark.parametrize(
    ("paths", "roots"),
    [
        (["/workspace/a.py"], ["/workspace"]),
        (["/workspace"], ["/workspace"]),
        (["/workspace/src", "/workspace/src/a.py"], ["/workspace/src"]),
        ([f"/workspace/pkg/{name}/m.py" for name in "abc"], ["/workspace/pkg"]),
        ([f"/workspace/{name}/m.py" for name in "abcdefg"], ["/workspace"]),
        ([f"/{name}/x.conf" for name in "abcdefg"], [f"/{name}" for name in "abcdefg"]),
        ([f"/srv/data/{name}/x.csv" for name in "abcdefg"], ["/srv/data"]),
        (["/etc/passwd.txt", "/workspace/a.py"], ["/etc", "/workspace"]),
        (["/workspace/.env"], ["/workspace/.env"]),
    ],
)
def test_roots_are_folders_and_never_collapse_to_the_whole_file_system(
    paths: list[str], roots: list[str]
) -> None:
    assert [root for root, _ in common_roots(paths, "/workspace")] == roots


def test_a_url_argument_gets_its_scheme_and_hosts() -> None:
    urls = ["https://docs.python.org/3/", "https://docs.python.org/3/library/", "https://peps.python.org/"]
    rule = rules_of(proposed(*(recorded("web.get", url=url) for url in urls)))["web.get"]
    assert rule["args"]["url"] == {
        "scheme": ["https"],
        "host": ["docs.python.org", "peps.python.org"],
        "max_len": 64,
    }


def test_sql_that_only_read_may_only_read() -> None:
    rule = rules_of(proposed(recorded("db.query", query="SELECT 1"), recorded("db.query", query="select 2")))
    assert rule["db.query"]["args"]["query"] == {"sql": {"read_only": True}}


def test_a_small_set_of_values_is_an_enum_and_anything_else_has_type_and_bound() -> None:
    calls = [
        recorded("x.t", level=level, text=f"text {n}", n=n) for n, level in enumerate(["low", "high"] * 5)
    ]
    assert rules_of(proposed(*calls))["x.t"]["args"] == {
        "level": {"in": ["high", "low"]},
        "n": {"type": "integer", "min": 0, "max": 16},
        "text": {"type": "string", "max_len": 16},
    }


def test_an_argument_that_was_sometimes_left_out_may_be_left_out_and_no_more() -> None:
    calls = [recorded("x.t", a="x"), recorded("x.t", a="y", mode="fast"), recorded("x.t", a="z", mode="fast")]
    policy = compile_policy(load_policy(proposed(*calls, recorded("x.t", a="k", mode="fast")).text, "p.yaml"))
    judged = [
        decision.allowed
        for decision in rejudge(
            policy,
            Recording(
                (
                    recorded("x.t", a="q"),
                    recorded("x.t", a="q", mode="fast"),
                    recorded("x.t", a="q", mode="slow"),
                )
            ),
            FACTS,
        )
    ]
    assert judged == [True, True, False]


def test_an_argument_that_was_never_seen_must_stay_away() -> None:
    rule = rules_of(proposed(recorded("fs.read", path="/workspace/a.py")))["fs.read"]
    assert rule["args"]["follow"] == {"absent": True}


def test_every_line_says_how_often_it_was_seen() -> None:
    text = proposed(*(recorded("fs.list", path=f"/workspace/src/{n}.py") for n in range(3))).text
    assert "    allow: fs.list  # 3 calls in 1 session" in text
    assert "      path:  # 3 calls" in text
    assert "          - /workspace/src  # seen 3 times" in text


def sent(arguments: dict[str, Any]) -> RecordedCall:
    return recorded("mail.send", **arguments)


def decisions(proposal: Proposal, *calls: RecordedCall) -> list[str]:
    policy = compile_policy(load_policy(proposal.text, "p.yaml"), FACTS)
    return [decision.effect.value for decision in rejudge(policy, Recording(calls), FACTS)]


@pytest.mark.parametrize(
    ("argument", "seen", "new"),
    [
        ("recipients", [["ann@example.com"], ["bob@example.com", "ann@example.com"]], ["eve@example.net"]),
        ("payTo", ["DE89370400440532013000", "GB29NWBK60161331926819"], "FR7630006000011234567890189"),
        ("page", ["https://example.com/a", "www.example.org/b"], "https://example.net/c"),
        ("cc", ["ann", "bob"], "eve"),
    ],
)
def test_whom_and_where_it_has_not_seen_it_has_looked_at(argument: str, seen: list[Any], new: Any) -> None:
    proposal = proposed(*(sent({argument: value, "body": "x"}) for value in seen))
    again = [sent({argument: value, "body": "y"}) for value in (*seen, new)]
    assert decisions(proposal, *again) == ["allow", "allow", "ask"]


def test_of_a_list_one_stranger_is_enough_to_ask() -> None:
    proposal = proposed(recorded("mail.send", to=["ann@example.com", "bob@example.com"]))
    assert decisions(proposal, recorded("mail.send", to=["ann@example.com", "eve@example.net"])) == ["ask"]


@pytest.mark.parametrize("argument", ["body", "query", "title"])
def test_free_text_is_no_address(argument: str) -> None:
    proposal = proposed(*(sent({argument: text}) for text in ("hello", "a@b is not one")))
    assert decisions(proposal, sent({argument: "other"})) == ["allow"]


def test_credentials_are_asked_for_and_never_written_down() -> None:
    token = "ghp_" + "a1B2" * 9
    calls = [recorded("user.set", new_password="hunter2hunter2", note=token) for _ in range(5)]
    proposal = proposed(*calls)
    assert "hunter2" not in proposal.text
    assert token not in proposal.text
    assert decisions(proposal, calls[0]) == ["ask"]


def test_calls_that_did_not_run_teach_nothing() -> None:
    proposal = proposed(recorded("fs.list", path="/workspace"), recorded("fs.rm", path="/", ran=False))
    assert list(rules_of(proposal)) == ["fs.list"]
    assert "1 calls were refused" in proposal.summary()[-1]


def test_a_fifth_of_the_sessions_is_held_out_and_always_the_same_ones() -> None:
    calls = [recorded("fs.list", f"s{n}", path="/workspace/a.py") for n in range(10)]
    seen, held = split_sessions(Recording(tuple(calls)))
    assert (len(seen), len(held)) == (8, 2)
    _, again = split_sessions(Recording(tuple(reversed(calls))))
    assert {call.session for call in again} == {call.session for call in held}


def test_it_says_how_many_calls_of_the_sessions_held_out_it_would_allow() -> None:
    calls = [recorded("fs.list", f"s{n}", path="/workspace/src/a.py") for n in range(10)]
    odd_one = split_sessions(Recording(tuple(calls)))[1][0].session
    proposal = proposed(*calls, recorded("fs.list", odd_one, path="/etc/a.py"))
    assert proposal.wire()["held_out"] == {"sessions": 2, "calls": 3, "allowed": 2}
    assert proposal.wire()["seen"] == 8
    assert "of 3 calls in 2 sessions held out, it would allow 2" in proposal.summary()


def test_one_session_is_enough_and_it_says_what_that_lacks() -> None:
    proposal = proposed(recorded("fs.list", path="/workspace"))
    assert proposal.wire()["held_out"] == {"sessions": 0, "calls": 0, "allowed": 0}
    assert "nothing was held out" in proposal.summary()[1]


def test_nothing_that_ran_is_an_empty_policy_that_loads() -> None:
    assert load_policy(proposed(recorded("fs.rm", path="/", ran=False)).text, "p.yaml").model.rules == ()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6) | st.text(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1, max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(
    st.sampled_from(["a", "b", "mode"]) | st.text("xyz.@-_${}:#'\"\\ \n", min_size=1, max_size=6),
    VALUES,
    max_size=4,
)
TOOL_NAMES = st.sampled_from(["fs.read", "x.t"]) | st.text("abc*?[]{}\\${}# :-", min_size=1, max_size=6).map(
    lambda tool: f"x.{tool}"
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(TOOL_NAMES, ARGUMENTS), min_size=1, max_size=12))
def test_a_proposal_loads_without_a_warning_and_allows_all_that_it_was_made_from(
    seen: list[tuple[str, JsonObject]],
) -> None:
    calls = Recording(
        tuple(
            replace(recorded(name), call_id=f"c{number}", arguments=arguments)
            for number, (name, arguments) in enumerate(seen)
        )
    )
    policy = load_policy(learn(calls, PackFacts()).text, "p.yaml")
    assert [str(problem) for problem in check(policy)] == []
    denied = [
        (call.name, call.arguments, decision.sentence())
        for call, decision in zip(
            calls.calls, rejudge(compile_policy(policy), calls, PackFacts()), strict=True
        )
        if not decision.allowed
    ]
    assert denied == []
