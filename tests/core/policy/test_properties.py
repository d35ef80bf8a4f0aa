"""Properties over generated policies and calls, against a small evaluator written from the spec alone."""

from __future__ import annotations

import posixpath
from typing import Any, TypeAlias, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.calls import LOCAL
from gateway.core.policy.situation import Situation
from gateway.core.policy.verdicts import Verdict
from tests.support.policies import Life, effect_of, judged, with_rules

KINDS = {"path": "path", "paths": "path"}
Mapping: TypeAlias = dict[str, Any]
Strategy: TypeAlias = st.SearchStrategy[Mapping]


def one(matcher: str, operands: st.SearchStrategy[Any]) -> Strategy:
    return st.builds(dict[str, Any], **{matcher: operands})


def either(*strategies: Strategy) -> Strategy:
    return st.one_of(*strategies)


def merged(left: Mapping, right: Mapping) -> Mapping:
    return {**left, **right}


def negated(inner: Mapping) -> Mapping:
    return {"not": inner}


def of_items(how: str, inner: Mapping) -> Mapping:
    return {"items": {how: inner}}


def rule(effect: str, tool: str, args: Mapping, labels: Mapping) -> Mapping:
    return {effect: tool, "args": args, **({"if_labels": labels} if labels else {})}


def limited(rule: Mapping, calls: int | None) -> Mapping:
    return rule if calls is None or "deny" in rule else {**rule, "limit": {"calls": calls}}


PATHS = st.sampled_from(
    ["a", "/workspace/a", "../etc/x", "/etc/x", "sub/../b", ".env", "/workspace/sub/.env", "."]
)
SCALARS: st.SearchStrategy[Any] = st.one_of(
    PATHS, st.sampled_from([0, 1, 1.0, 2, True, False, None, "", "1", {}, {"k": 1}])
)
VALUES: st.SearchStrategy[Any] = st.one_of(SCALARS, st.lists(SCALARS, max_size=3))
ARGUMENTS: Strategy = st.dictionaries(st.sampled_from(["path", "paths", "n", "o"]), VALUES, max_size=4)

PATH_MATCHERS = either(
    one("under", st.sampled_from(["/workspace", "/etc", "sub"])),
    one("not_under", st.sampled_from(["/workspace/sub", "/etc"])),
    one("glob", st.sampled_from(["**/.env", "/workspace/**", "/workspace/*"])),
)
PLAIN_MATCHERS = either(
    one("equals", st.sampled_from([1, True, None, "1"])),
    one("in", st.lists(st.sampled_from([0, 1, "1", None]), max_size=2)),
    one("min", st.integers(0, 2)),
    one("max_len", st.integers(0, 3)),
    one("type", st.sampled_from(["string", "integer", "array", "null"])),
)
NESTED = either(
    PLAIN_MATCHERS,
    st.builds(negated, PLAIN_MATCHERS),
    st.builds(of_items, st.sampled_from(["all", "any", "none"]), PLAIN_MATCHERS),
    st.builds(merged, PLAIN_MATCHERS, PLAIN_MATCHERS),
)
ABSENT = one("absent", st.just(True))
ARGS: Strategy = st.fixed_dictionaries(
    {}, optional={"@path": PATH_MATCHERS, "path": PATH_MATCHERS, "n": NESTED, "o": either(NESTED, ABSENT)}
)
LABELS = st.sets(st.sampled_from(["a", "b"]))
NAMES = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=2)
IF_LABELS: Strategy = st.fixed_dictionaries({}, optional={"all": NAMES, "any": NAMES, "none": NAMES})
RULE = st.builds(
    rule,
    st.sampled_from(["allow", "allow", "ask", "deny"]),
    st.sampled_from(["fs.read", "fs.*", "*", "git.log"]),
    ARGS,
    IF_LABELS,
)
LIMITED = st.lists(st.builds(limited, RULE, st.none() | st.integers(0, 2)), max_size=5)
RULES = st.lists(RULE, max_size=5)
STRICTNESS = {"allow": 0, "ask": 1, "deny": 2}


@settings(deadline=None)
@given(RULES, ARGUMENTS, LABELS)
def test_decisions_agree_with_the_reference(
    rules: list[dict[str, Any]], arguments: dict[str, Any], labels: set[str]
) -> None:
    here = Situation(labels=frozenset(labels))
    decided = effect_of(with_rules(*rules), "fs.read", arguments, kinds=KINDS, situation=here)
    assert decided == reference(rules, arguments, labels, [0] * len(rules))


@settings(deadline=None)
@given(LIMITED, st.lists(ARGUMENTS, max_size=5))
def test_calls_one_after_the_other_agree_with_the_reference(
    rules: list[dict[str, Any]], calls: list[dict[str, Any]]
) -> None:
    life = Life(with_rules(*rules), kinds=KINDS)
    spent = [0] * len(rules)
    for arguments in calls:
        call_id, decision = life.start("fs.read", arguments)
        assert decision.effect.value == reference(rules, arguments, set(), spent)
        if decision.allowed:
            life.end(call_id, decision)
        else:
            life.state.release(call_id)


@settings(deadline=None)
@given(RULES, ARGUMENTS, st.randoms(use_true_random=False))
def test_the_order_of_rules_never_matters(
    rules: list[dict[str, Any]], arguments: dict[str, Any], random: Any
) -> None:
    shuffled = random.sample(rules, len(rules))
    before = effect_of(with_rules(*rules), "fs.read", arguments, kinds=KINDS)
    assert effect_of(with_rules(*shuffled), "fs.read", arguments, kinds=KINDS) == before


@settings(deadline=None)
@given(RULES, ARGUMENTS, ARGS)
def test_another_deny_never_allows_more(
    rules: list[dict[str, Any]], arguments: dict[str, Any], args: dict[str, Any]
) -> None:
    before = judged(with_rules(*rules), "fs.read", arguments, kinds=KINDS)
    after = judged(with_rules(*rules, {"deny": "fs.*", "args": args}), "fs.read", arguments, kinds=KINDS)
    assert STRICTNESS[after.decision.effect.value] >= STRICTNESS[before.decision.effect.value]


@settings(deadline=None)
@given(RULES, RULES, ARGUMENTS, st.sampled_from(["training", "deployment"]))
def test_an_overlay_never_allows_more_and_leaves_the_other_mode_alone(
    rules: list[dict[str, Any]], more: list[dict[str, Any]], arguments: dict[str, Any], mode: Any
) -> None:
    overlay = [{"id": f"m{n}", **rule} for n, rule in enumerate(more) if "allow" not in rule]
    layered = with_rules(*rules, modes={mode: {"rules": overlay}})
    for judge_in in ("training", "deployment"):
        before, after = (
            effect_of(policy, "fs.read", arguments, kinds=KINDS, mode=judge_in)
            for policy in (with_rules(*rules), layered)
        )
        assert after != "allow" or before == "allow"
        assert judge_in == mode or after == before


@settings(deadline=None)
@given(RULES, ARGUMENTS, LABELS)
def test_what_could_not_be_listed_is_never_allowed(
    rules: list[dict[str, Any]], arguments: dict[str, Any], labels: set[str]
) -> None:
    policy = with_rules(*rules)
    effect = effect_of(
        policy, "fs.read", arguments, kinds=KINDS, situation=Situation(labels=frozenset(labels))
    )
    assert effect == "deny" or policy.could_allow("fs", "read", LOCAL)


@settings(deadline=None)
@given(RULES, st.sampled_from(["allow", "ask", "deny"]), st.booleans(), ARGUMENTS, st.booleans())
def test_what_nobody_looked_at_is_never_allowed_sooner(
    rules: list[dict[str, Any]], effect: str, negated: bool, arguments: dict[str, Any], crosses: bool
) -> None:
    matcher: dict[str, Any] = {"symlinks": "deny"}
    args = {"path": {"not": matcher} if negated or effect == "deny" else matcher}
    policy = with_rules(*rules, {effect: "fs.*", "args": args})
    answers: list[Verdict] = [crosses, None]
    known, unknown = (
        effect_of(policy, "fs.read", arguments, kinds=KINDS, situation=_looked(answer)) for answer in answers
    )
    assert unknown != "allow" or known == "allow" or effect == "ask"


@settings(deadline=None)
@given(RULES, ARGUMENTS)
def test_what_is_forwarded_is_judged_alike_when_it_comes_in(
    rules: list[dict[str, Any]], arguments: dict[str, Any]
) -> None:
    policy = with_rules(*rules)
    first = judged(policy, "fs.read", arguments, kinds=KINDS)
    again = judged(policy, "fs.read", first.arguments, kinds=KINDS)
    assert again.arguments == first.arguments
    assert again.decision == first.decision


def _looked(answer: Verdict) -> Situation:
    def crosses_link(path: str) -> Verdict:
        return answer

    return Situation(crosses_link=crosses_link)


# --- the reference: written from the spec's sentences, slow and plain


def reference(
    rules: list[dict[str, Any]], arguments: dict[str, Any], labels: set[str], spent: list[int]
) -> str:
    """Return what is decided; `spent` counts the calls each rule has let through, this one included."""
    arguments = {name: _canonical(name, value) for name, value in arguments.items()}
    held = [
        (index, one)
        for index, one in enumerate(rules)
        for effect in ("allow", "ask", "deny")
        if effect in one and _holds(one, effect, arguments) and _labelled(one, labels)
    ]
    full = {index for index, one in held if spent[index] >= one.get("limit", {}).get("calls", 1 << 30)}
    if any("deny" in one or ("ask" in one and index in full) for index, one in held):
        return "deny"
    if any("ask" in one for _, one in held):
        return "ask"
    allows = [index for index, _ in held if index not in full]
    for index in allows:
        spent[index] += 1
    return "allow" if allows else "deny"


def _labelled(rule: dict[str, Any], labels: set[str]) -> bool:
    wanted = rule.get("if_labels", {})
    return (
        set(wanted.get("all", [])) <= labels
        and ("any" not in wanted or bool(set(wanted["any"]) & labels))
        and not set(wanted.get("none", [])) & labels
    )


def _canonical(name: str, value: Any) -> Any:
    if name not in KINDS:
        return value
    return [_path(item) for item in _as_list(value)] if isinstance(value, list) else _path(value)


def _as_list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else [value]


def _path(value: Any) -> Any:
    return posixpath.normpath(posixpath.join("/workspace", value)) if isinstance(value, str) else value


def _holds(rule: dict[str, Any], effect: str, arguments: dict[str, Any]) -> bool:
    if rule[effect] not in ("fs.read", "fs.*", "*"):
        return False
    return all(_argument_holds(name, matchers, effect, arguments) for name, matchers in rule["args"].items())


def _argument_holds(name: str, matchers: dict[str, Any], effect: str, arguments: dict[str, Any]) -> bool:
    if matchers == {"absent": True}:
        return name not in arguments
    if name == "@path":
        values = [item for kind in KINDS if kind in arguments for item in _as_list(arguments[kind])]
    else:
        values = [arguments[name]] if name in arguments else []
    verdicts = [_all(_verdict(key, operand, value) for key, operand in matchers.items()) for value in values]
    if effect == "deny":
        return any(verdict in ("yes", "unclear") for verdict in verdicts)
    return bool(verdicts) and all(verdict == "yes" for verdict in verdicts)


def _verdict(matcher: str, operand: Any, value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match matcher:
        case "equals":
            return _yes(_same(value, operand))
        case "in":
            return _yes(any(_same(value, one) for one in operand))
        case "min":
            return _yes(value >= operand) if number else "unclear"
        case "max_len":
            return _yes(len(value) <= operand) if isinstance(value, str) else "unclear"
        case "type":
            types = {"string": str, "array": list, "null": type(None)}
            return _yes(
                number and value == int(value) if operand == "integer" else isinstance(value, types[operand])
            )
        case "not":
            inner = _all(_verdict(key, one, value) for key, one in operand.items())
            return {"yes": "no", "no": "yes"}.get(inner, inner)
        case "items":
            return _items(operand, value)
        case _:
            return _path_verdict(matcher, operand, value)


def _path_verdict(matcher: str, operand: str, value: Any) -> str:
    if not isinstance(value, str):
        return "unclear"
    inside = f"{value}/".startswith(f"{posixpath.join('/workspace', operand)}/")
    match matcher, operand:
        case "under", _:
            return _yes(inside)
        case "not_under", _:
            return _yes(not inside)
        case _, "**/.env":
            return _yes(posixpath.basename(value) == ".env")
        case _, "/workspace/**":
            return _yes(f"{value}/".startswith("/workspace/"))
        case _:
            return _yes(posixpath.dirname(value) == "/workspace")


def _items(operand: dict[str, Any], value: Any) -> str:
    if not isinstance(value, list):
        return "unclear"
    ((how, matchers),) = operand.items()
    verdicts = [_all(_verdict(key, one, item) for key, one in matchers.items()) for item in _as_list(value)]
    if how == "all":
        return _all(verdicts)
    found = "yes" if "yes" in verdicts else "unclear" if "unclear" in verdicts else "no"
    return found if how == "any" else {"yes": "no", "no": "yes"}.get(found, found)


def _all(verdicts: Any) -> str:
    kinds = set(verdicts)
    return "no" if "no" in kinds else "unclear" if "unclear" in kinds else "yes"


def _same(left: Any, right: Any) -> bool:
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"
