"""`hours`: judged on the mode's clock, in the zone the file names."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.core.policy.hours import compile_hours
from gateway.core.policy.situation import VIRTUAL_START, Situation
from gateway.errors import ConfigError
from tests.support.policies import Life, code_of, compiled, with_rules


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("hours", "moment", "within"),
    [
        ("Mon-Fri 08:00-19:00 Europe/Paris", "2026-07-06T06:00:00", True),  # summer: 08:00 in Paris
        ("Mon-Fri 08:00-19:00 Europe/Paris", "2026-07-06T05:59:59", False),
        ("Mon-Fri 08:00-19:00 Europe/Paris", "2026-01-05T06:30:00", False),  # winter: 07:30 in Paris
        ("Mon-Fri 08:00-19:00 Europe/Paris", "2026-01-05T17:59:59", True),
        ("Mon-Fri 08:00-19:00 Europe/Paris", "2026-01-05T18:00:00", False),
        ("Mon-Fri 08:00-19:00 Europe/Paris", "2026-07-05T12:00:00", False),  # a Sunday
        ("08:00-19:00", "2026-07-05T08:00:00", True),
        ("Sat,Sun 00:00-24:00", "2026-07-05T23:59:59", True),
        ("Sat,Sun 00:00-24:00", "2026-07-06T00:00:00", False),
        ("Fri-Mon 10:00-11:00", "2026-07-06T10:30:00", True),
        ("Fri-Mon 10:00-11:00", "2026-07-07T10:30:00", False),
        ("Fri 22:00-06:00", "2026-07-04T05:59:00", True),  # Saturday morning belongs to Friday night
        ("Fri 22:00-06:00", "2026-07-03T05:59:00", False),
        ("Fri 22:00-06:00", "2026-07-03T23:00:00", True),
    ],
)
def test_a_span_covers_its_days_and_hours(hours: str, moment: str, within: bool) -> None:
    assert compile_hours([hours])(at(moment)) is within


def test_a_rule_holds_in_its_hours_only_and_says_so() -> None:
    here = Situation(now=at("2026-07-06T12:00:00"))
    night = Situation(now=at("2026-07-06T23:00:00"))
    allowed = with_rules({"allow": "fs.*", "hours": ["08:00-12:00", "12:00-20:00"]})
    assert code_of(allowed, "fs.read", situation=here) == "rule_allow"
    assert code_of(allowed, "fs.read", situation=night) == "no_match"
    denied = with_rules({"allow": "*"}, {"deny": "fs.*", "hours": "20:00-06:00 UTC"})
    assert code_of(denied, "fs.read", situation=here) == "rule_allow"
    assert code_of(denied, "fs.read", situation=night) == "rule_deny"


def test_training_is_judged_on_the_virtual_clock_and_deployment_on_the_wall() -> None:
    policy = with_rules(
        {"allow": "fs.*", "hours": "Sat 00:00-00:02 UTC"},
        modes={"training": {"clock": {"virtual": {"step": "1m"}}}},
    )
    life = Life(policy, mode="training")  # 2000-01-01 was a Saturday
    assert [life.call("fs.read") for _ in range(3)] == ["rule_allow", "no_match", "no_match"]
    assert policy.clock_time(5.0, 2, "training") == VIRTUAL_START + 120
    deployed = Life(policy)
    deployed.wall = at("2026-07-04T00:01:00")
    assert deployed.call("fs.read") == "rule_allow"
    deployed.now += 60.0
    assert deployed.call("fs.read") == "no_match"


@pytest.mark.parametrize(
    "hours",
    [
        "",
        "Mon-Fri",
        "25:00-26:00",
        "08:00-08:00",
        "Mon-Wed-Fri 08:00-09:00",
        "08:00-09:00 Mars/Olympus",
        "8-9",
    ],
)
def test_hours_that_say_nothing_are_refused_at_their_place(hours: str) -> None:
    text = f"version: 1\nrules:\n  - id: a\n    allow: fs.x\n    hours: '{hours}'\n"
    with pytest.raises(ConfigError) as caught:
        compiled(text)
    assert (caught.value.problems[0].line, caught.value.problems[0].column) == (5, 5)
