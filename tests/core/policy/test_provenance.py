"""`from`: values that were seen before, in the prompt, the policy's vars or results of trusted tools."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.policy.finding import Effort, appears
from gateway.core.policy.provenance import MAX_KEPT, MAX_TEXT, Seen
from tests.support.policies import Life, with_rules

PROMPT = "Send the report to ann@example.com, 250 EUR to GB29NWBK. See src/a.py and https://docs.example"


def life_with(sources: Any, prompt: str = PROMPT, **parts: Any) -> Life:
    rule = {"allow": "mail.*", "args": {"to": {"from": sources}}}
    return Life(with_rules(rule, {"allow": ["fs.*", "web.*"]}, **parts), prompt=prompt)


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("ann@example.com", True),
        ("ann@example.org", False),
        ("GB29NWBK", True),
        ("GB29NWB", False),
        ("B29NWBK", False),
        ("report to ann", True),
        ("ANN@example.com", False),
        ("250 EUR", True),
        (250, True),
        (250.0, True),
        (25, False),
        (50, False),
        (["ann@example.com", "GB29NWBK"], True),
        (["ann@example.com", "eve@evil.example"], False),
        ([], True),
        (["ann@example.com", None], False),
        ("", False),
        ("   ", False),
        (None, False),
        (True, False),
        ({"to": "ann@example.com"}, False),
        ("x" * 10_000, False),
    ],
)
def test_a_value_has_to_stand_in_the_prompt_word_for_word(value: Any, seen: bool) -> None:
    assert (life_with("prompt").call("mail.send", {"to": value}) == "rule_allow") is seen


def test_a_missing_argument_was_not_seen() -> None:
    assert life_with("prompt").call("mail.send", {}) == "no_match"


def test_paths_and_urls_are_found_as_people_write_them() -> None:
    rules = [
        {"allow": "fs.*", "args": {"path": {"from": "prompt"}}},
        {"allow": "web.*", "args": {"url": {"from": "prompt"}}},
    ]
    life = Life(with_rules(*rules), prompt=PROMPT)
    assert life.call("fs.read", {"path": "./src/x/../a.py"}) == "rule_allow"
    assert life.call("fs.read", {"path": "src/b.py"}) == "no_match"
    assert life.call("fs.read", {"path": "/etc/src/a.py"}) == "no_match"
    assert life.call("web.get", {"url": "HTTPS://docs.example/"}) == "rule_allow"
    assert life.call("web.get", {"url": "https://docs.example/steal"}) == "no_match"


def test_the_policys_own_variables_are_a_source() -> None:
    life = life_with(["policy"], vars={"people": ["bob@example.com", "eve@example.com"], "n": 42})
    assert life.call("mail.send", {"to": "bob@example.com"}) == "rule_allow"
    assert life.call("mail.send", {"to": 42}) == "rule_allow"
    assert life.call("mail.send", {"to": "ann@example.com"}) == "no_match"


def test_results_of_named_tools_are_sources_and_those_of_others_are_not() -> None:
    life = life_with(["prompt", "tool:fs.read*"])
    call = {"to": "carl@example.com"}
    assert life.call("mail.send", call) == "no_match"
    life.call("web.get", result="carl@example.com")
    assert life.call("mail.send", call) == "no_match"
    life.call("fs.read_file", result="contacts: carl@example.com")
    assert life.call("mail.send", call) == "rule_allow"


def test_structured_results_and_numbers_are_read_and_error_results_are_not() -> None:
    life = life_with("tool:fs.read")
    life.call("fs.read", result="a text")
    assert life.call("mail.send", {"to": "type"}) == "no_match"
    life.call("fs.read", result={"structuredContent": {"iban": "DE89", "n": [1234]}})
    life.call("fs.read", result={"content": [{"type": "text", "text": "FR76"}], "isError": True})
    assert life.call("mail.send", {"to": "DE89"}) == "rule_allow"
    assert life.call("mail.send", {"to": 1234}) == "rule_allow"
    assert life.call("mail.send", {"to": "FR76"}) == "no_match"


def test_what_was_redacted_was_not_seen() -> None:
    secret = "AKIA" + "IOSFODNN7EXAMPLE"
    life = life_with("tool:fs.read", results=[{"tool": "*", "redact": "aws_key"}])
    life.call("fs.read", result=f"key {secret}")
    assert life.call("mail.send", {"to": secret}) == "no_match"


def test_each_session_has_seen_its_own_results_only() -> None:
    one = life_with("tool:fs.read")
    one.call("fs.read", result="carl@example.com")
    two = life_with("tool:fs.read")
    assert two.call("mail.send", {"to": "carl@example.com"}) == "no_match"


def test_the_idiom_seen_before_passes_and_the_rest_asks() -> None:
    rules = [
        {"allow": "mail.*", "args": {"to": {"from": ["prompt"]}}},
        {"ask": "mail.*", "args": {"to": {"not": {"from": ["prompt"]}}}},
    ]
    life = Life(with_rules(*rules), prompt=PROMPT)
    assert life.call("mail.send", {"to": "ann@example.com"}) == "rule_allow"
    assert life.call("mail.send", {"to": "eve@evil.example"}) == "approval_pending"


def test_in_a_deny_a_value_that_cannot_be_looked_for_counts() -> None:
    rules = [{"allow": "mail.*"}, {"deny": "mail.*", "args": {"to": {"not": {"from": "prompt"}}}}]
    life = Life(with_rules(*rules), prompt=PROMPT)
    assert life.call("mail.send", {"to": "ann@example.com"}) == "rule_allow"
    assert life.call("mail.send", {"to": {"a": 1}}) == "rule_deny"


def test_items_of_a_list_may_be_judged_one_by_one_too() -> None:
    rule = {"allow": "mail.*", "args": {"to": {"items": {"all": {"from": "prompt"}, "max": 2}}}}
    life = Life(with_rules(rule), prompt=PROMPT)
    assert life.call("mail.send", {"to": ["ann@example.com"]}) == "rule_allow"
    assert life.call("mail.send", {"to": ["eve@evil.example"]}) == "no_match"


def test_what_is_kept_is_bounded_and_the_oldest_goes_first() -> None:
    seen = Seen()
    for number in range(MAX_KEPT // MAX_TEXT + 2):
        text = f"value{number} " + "x" * MAX_TEXT
        seen.keep(frozenset({"tool:a.b"}), {"content": [{"type": "text", "text": text}]})
    appeared = seen.finder()
    assert appeared("value0", ["tool:a.b"], []) is False
    assert appeared("value5", ["tool:a.b"], []) is True
    assert appeared("value5", ["tool:a.c", "prompt"], []) is False


def test_a_text_full_of_near_misses_is_given_up_on() -> None:
    assert appears("ab", "xab" * 1_000_000, Effort()) is None
    assert appears("ab", "xab " * 10 + " ab", Effort()) is True


def test_a_call_that_searches_too_much_is_a_doubt_in_an_allow_and_in_a_deny() -> None:
    rules = [{"allow": "mail.*"}, {"deny": "mail.*", "args": {"to": {"items": {"any": {"from": "prompt"}}}}}]
    life = Life(with_rules(*rules), prompt="a" * MAX_TEXT)
    assert life.call("mail.send", {"to": ["b"]}) == "rule_allow"
    assert life.call("mail.send", {"to": ["b"] * 100}) == "rule_deny"


def test_a_list_that_is_too_long_to_be_judged_is_a_doubt() -> None:
    life = life_with("prompt", prompt="a b")
    assert life.call("mail.send", {"to": ["a"] * 1_000}) == "rule_allow"
    assert life.call("mail.send", {"to": ["a"] * 1_001}) == "no_match"


def test_many_values_that_stand_in_a_task_of_usual_size_are_all_found() -> None:
    people = [f"person{number}@example.com" for number in range(200)]
    assert life_with("prompt", prompt="\n".join(people)).call("mail.send", {"to": people}) == "rule_allow"
