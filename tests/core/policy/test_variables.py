"""`${vars}`: where they go, and that positions survive them."""

from __future__ import annotations

import pytest

from gateway.core.policy import load_policy
from gateway.errors import ConfigError
from tests.support.policies import compiled, effect_of

RULE = "rules:\n  - {id: a, allow: fs.x, args: {p: {in: %s}}}\n"


def values_of(variables: str, operand: str) -> tuple[object, ...]:
    text = f"version: 1\nvars: {variables}\n{RULE % operand}"
    return load_policy(text, "p.yaml").model.rules[0].args["p"].in_


@pytest.mark.parametrize(
    ("variables", "operand", "expected"),
    [
        ("{a: x}", '["${a}"]', ("x",)),
        ("{a: x}", '["${a}/y"]', ("x/y",)),
        ("{a: 3}", '["${a}", "v${a}"]', (3, "v3")),
        ("{a: [x, y]}", '"${a}"', ("x", "y")),
        ("{a: [x, y]}", '[w, "${a}", z]', ("w", "x", "y", "z")),
        ('{a: x, b: "${a}/y"}', '["${b}"]', ("x/y",)),
        ("{a: x}", '["$${a}", "$a", "{a}"]', ("${a}", "$a", "{a}")),
        ("{a: true}", '["${a}"]', (True,)),
    ],
)
def test_a_variable_is_put_in(variables: str, operand: str, expected: tuple[object, ...]) -> None:
    assert values_of(variables, operand) == expected


@pytest.mark.parametrize(
    ("variables", "operand", "message"),
    [
        ("{a: x}", '["${b}"]', "p.yaml:4:42: unknown variable 'b'"),
        ("{a: [x]}", '["y${a}"]', "p.yaml:4:42: variable 'a' stands inside a string"),
        ("{a: true}", '["y${a}"]', "p.yaml:4:42: variable 'a' stands inside a string"),
        ('{b: "${a}", a: x}', "[x]", "p.yaml:2:8: unknown variable 'a'"),
        ("{a: {b: c}}", "[x]", "p.yaml:2:8: variable 'a' is a scalar or a list of scalars"),
        ("{a: [[x]]}", "[x]", "p.yaml:2:8: variable 'a' is a scalar or a list of scalars"),
    ],
)
def test_a_variable_that_cannot_be_put_in_is_told_with_its_place(
    variables: str, operand: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        values_of(variables, operand)
    assert str(caught.value.problems[0]).startswith(message)


def test_positions_behind_a_spliced_list_still_point_into_the_file() -> None:
    text = (
        "version: 1\nvars: {a: [x, y]}\nrules:\n  - id: r\n    allow: fs.x\n    args:\n      p:\n"
        '        glob:\n          - "${a}"\n          - "["\n'
    )
    with pytest.raises(ConfigError) as caught:
        load_policy(text, "p.yaml")
    assert (caught.value.problems[0].line, caught.value.problems[0].column) == (10, 13)


def test_tests_are_data_and_not_expanded() -> None:
    policy = compiled(
        'version: 1\nvars: {a: x}\nrules:\n  - {id: r, allow: fs.x, args: {p: {equals: "$${a}"}}}\n'
        'tests:\n  - {call: fs.x, args: {p: "${a}"}, expect: allow}\n'
    )
    assert effect_of(policy, "fs.x", {"p": "x"}) == "deny"


def test_principals_may_use_variables() -> None:
    policy = load_policy(
        'version: 1\nvars: {d: example.com}\nprincipals: {p: {user: "*@${d}"}}\nrules: []\n', "p.yaml"
    )
    assert policy.model.principals["p"].user == ("*@example.com",)
