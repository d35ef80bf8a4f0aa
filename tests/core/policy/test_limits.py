"""Limits: reserved before a call and settled after it; what is spent no longer allows."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.calls import Principal
from gateway.core.policy.explain import explain
from gateway.core.policy.limits import Counters
from gateway.core.policy.request import Request
from gateway.core.policy.situation import Charge, Situation
from tests.support.policies import Life, with_rules

SPENT = "limit_exceeded"


def limited(**limit: Any) -> dict[str, Any]:
    return {"allow": "fs.*", "limit": limit}


def test_a_spent_rule_does_not_hold_and_the_denial_names_it() -> None:
    life = Life(with_rules(limited(calls=2)))
    assert [life.call("fs.read") for _ in range(3)] == ["rule_allow", "rule_allow", SPENT]
    _, decision = life.start("fs.read")
    assert (decision.rule, decision.line) == ("r0", 3)
    assert "2 calls per session" in decision.reason


def test_another_rule_that_allows_still_does() -> None:
    life = Life(with_rules(limited(calls=1), {"allow": "fs.read"}))
    assert [life.call("fs.read") for _ in range(3)] == ["rule_allow"] * 3
    assert life.call("fs.write") == SPENT


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_every_rule_that_holds_is_charged_so_that_order_never_matters(order: tuple[int, ...]) -> None:
    rules = [limited(calls=1), {"allow": "fs.read", "limit": {"calls": 3}}]
    life = Life(with_rules(*(rules[index] for index in order)))
    assert [life.call("fs.read") for _ in range(4)] == ["rule_allow"] * 3 + [SPENT]


def test_a_call_in_flight_is_counted() -> None:
    life = Life(with_rules(limited(calls=1)))
    first = life.start("fs.read")
    assert life.call("fs.read") == SPENT
    life.end(*first)
    assert life.call("fs.read") == SPENT


def test_a_denied_call_costs_nothing() -> None:
    life = Life(with_rules(limited(calls=1), {"deny": "fs.rm"}))
    assert life.call("fs.rm") == "rule_deny"
    assert life.call("fs.read") == "rule_allow"


def test_a_call_that_never_reached_its_server_is_given_back() -> None:
    life = Life(with_rules(limited(calls=1, rate="1/h")))
    assert life.call("fs.read", result=None) == "rule_allow"
    assert life.call("fs.read") == "rule_allow"
    assert life.call("fs.read") == SPENT


def test_a_rate_is_a_bucket_that_fills_with_time() -> None:
    life = Life(with_rules(limited(rate="2/min")))
    assert [life.call("fs.read") for _ in range(3)] == ["rule_allow", "rule_allow", SPENT]
    life.now += 29.0
    assert life.call("fs.read") == SPENT
    life.now += 1.0
    assert life.call("fs.read") == "rule_allow"
    assert life.call("fs.read") == SPENT
    life.now += 10_000.0
    assert [life.call("fs.read") for _ in range(3)] == ["rule_allow", "rule_allow", SPENT]


def test_a_rate_does_not_notice_that_the_wall_clock_jumps() -> None:
    life = Life(with_rules(limited(rate="1/h")))
    assert life.call("fs.read") == "rule_allow"
    life.wall += 1_000_000.0
    assert life.call("fs.read") == SPENT


def test_in_training_a_rate_runs_on_the_virtual_clock() -> None:
    policy = with_rules(limited(rate="1/min"), {"allow": "git.*"})
    life = Life(policy, mode="training")
    assert life.call("fs.read") == "rule_allow"
    life.now += 1_000_000.0
    assert life.call("fs.read") == SPENT
    for _ in range(60):
        life.call("git.log")
    assert life.call("fs.read") == "rule_allow"


def test_bytes_count_arguments_before_and_results_after() -> None:
    life = Life(with_rules(limited(bytes=1000)))
    assert life.call("fs.write", {"content": "x" * 2000}) == SPENT
    assert life.call("fs.write", {"content": "x" * 300}) == "rule_allow"
    assert life.call("fs.read", result="y" * 500) == "rule_allow"
    assert life.call("fs.write", {"content": "x" * 300}) == SPENT
    assert life.call("fs.read", {}) == "rule_allow"


@pytest.mark.parametrize(
    ("per", "apart"),
    [
        ("session", {"other session", "other principal"}),
        ("principal", {"other principal"}),
        ("tool", {"other tool", "other server"}),
        ("server", {"other server"}),
    ],
)
def test_what_is_counted_apart(per: str, apart: set[str]) -> None:
    policy = with_rules({"allow": "*", "limit": {"calls": 1, "per": per}})
    shared = Counters()
    first = Life(policy, shared=shared)
    assert first.call("fs.read") == "rule_allow"
    assert first.call("fs.read") == SPENT
    mallory = Principal("mallory", user="mallory")
    tries = {
        "other session": Life(policy, shared=shared).start("fs.read"),
        "other principal": Life(policy, shared=shared, principal=mallory).start("fs.read"),
    }
    codes = {what: decision.allowed for what, (_, decision) in tries.items()}
    codes["other tool"] = first.start("fs.write")[1].allowed
    codes["other server"] = first.start("git.log")[1].allowed
    assert {what for what, allowed in codes.items() if allowed} == apart


def test_counters_live_on_by_rule_id_when_the_policy_is_reloaded() -> None:
    life = Life(with_rules({"allow": "git.*"}, limited(calls=2)))
    life.call("fs.read")
    life.policy = with_rules({"deny": "git.rm"}, {"id": "r1", "allow": "fs.read", "limit": {"calls": 2}})
    assert [life.call("fs.read") for _ in range(2)] == ["rule_allow", SPENT]
    life.policy = with_rules({"id": "new", "allow": "fs.read", "limit": {"calls": 1}})
    assert life.call("fs.read") == "rule_allow"


def test_a_spent_ask_denies_rather_than_letting_a_weaker_rule_through() -> None:
    policy = with_rules({"ask": "git.push", "limit": {"calls": 0}}, {"allow": "git.*"})
    assert Life(policy).call("git.push") == SPENT


def test_an_ask_is_charged_while_it_waits_and_given_back_when_it_is_refused() -> None:
    life = Life(with_rules({"ask": "git.push", "limit": {"calls": 1}}))
    waiting = life.start("git.push")
    assert life.start("git.push")[1].code.value == SPENT
    life.end(*waiting)
    assert life.start("git.push")[1].code.value == "approval_pending"


def test_a_call_judged_again_is_charged_once() -> None:
    life = Life(with_rules(limited(calls=1)))
    call_id, decision = life.start("fs.read")
    life._count -= 1  # pyright: ignore[reportPrivateUsage]  # the same call, as after an approval
    again = life.start("fs.read")
    assert again == (call_id, decision)


def test_explain_shows_a_spent_limit_as_what_failed() -> None:
    policy = with_rules(limited(calls=5, rate="1/s"))

    def no_room(charge: Charge) -> bool:
        return True

    spent = Situation(spent=no_room)
    wire: Any = explain(policy, Request("fs", "read", {}, situation=spent)).wire()
    (miss,) = wire["near_misses"]
    assert miss["failed"] == {
        "argument": "@limit",
        "matcher": "limit",
        "expected": {"calls": 5, "rate": [1, 1.0], "per": "session"},
        "actual": "spent",
    }
    assert wire["decision"]["code"] == SPENT
