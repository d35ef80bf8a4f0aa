"""Matchers that know what a value means: SQL, commands, public hosts, secrets."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gateway.core.policy.argv import compile_argv
from gateway.core.policy.public_hosts import is_public
from gateway.core.policy.sql import only_reads
from tests.support.policies import code_of, with_rules

READS = [
    "SELECT 1",
    "select a, b from t where a = 'x;y' -- DELETE\n",
    "SELECT count(*), max(a) FROM t GROUP BY b HAVING count(*) > 1;",
    "WITH x(a, b) AS (SELECT 1, 2) SELECT * FROM x",
    'SELECT "update" FROM "t"',
    "SELECT a FROM t WHERE b IN (1, 2) AND c LIKE 'it''s' LIMIT 5",
    "SELECT * FROM a JOIN b USING (id) WHERE x = ? AND y = $1 AND z = :name",
    "EXPLAIN SELECT 1",
    "VALUES (1), (2)",
    "SELECT (1 + 2) * 3, a::text, replace(a, 'x', 'y') FROM t",
]
WRITES = [
    *("INSERT INTO t VALUES (1)", "DELETE FROM t", "update t set a = 1", "DROP TABLE t", "VACUUM"),
    *("PRAGMA writable_schema=1", "COPY t TO PROGRAM 'x'", "CALL p()", "ATTACH 'x' AS y", "SET x = 1"),
]
DOUBTS = [
    "",
    ";",
    "SELECT 1; DROP TABLE t",
    "SELECT 1; SELECT 2",
    "SELECT * INTO t2 FROM t",
    "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x",
    "SELECT * FROM t FOR UPDATE",
    "SELECT pg_sleep(10)",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT my_function(1)",
    "SELECT public.count(1)",
    'SELECT "pg_sleep"(1)',
    "SELECT load_extension('x')",
    "SELECT 'a\\'; DROP TABLE t; --'",
    "SELECT E'a' FROM t",
    "SELECT $$ a $$",
    "SELECT /*! DROP */ 1",
    "SELECT 1 # comment",
    "SELECT 1 --comment without a space",
    "SELECT 'open",
    "SELECT @a := 1",
    "SELECT * FROM t INTO OUTFILE '/tmp/x'",
    "EXPLAIN ANALYZE DELETE FROM t",
    "SELECT \x00 1",
    "SELECT ｄｅｌｅｔｅ",
    "SELECT 1" + " " * 200_000,
]


@pytest.mark.parametrize("text", READS)
def test_a_plain_query_only_reads(text: str) -> None:
    assert only_reads(text) is True


@pytest.mark.parametrize("text", WRITES)
def test_a_statement_that_writes_does_not(text: str) -> None:
    assert only_reads(text) is not True


@pytest.mark.parametrize("text", DOUBTS)
def test_a_doubt_is_not_reading(text: str) -> None:
    assert only_reads(text) is None


@pytest.mark.parametrize("only_reading", ["read_only", {"read_only": True}])
def test_sql_in_rules_each_way(only_reading: Any) -> None:
    args = {"@sql": {"sql": only_reading}}
    allowed = with_rules({"allow": "db.*", "args": args})
    assert code_of(allowed, "db.run", {"query": "SELECT 1"}) == "rule_allow"
    assert code_of(allowed, "db.run", {"query": "DROP TABLE t"}) == "no_match"
    assert code_of(allowed, "db.run", {"query": 3}) == "no_match"
    denied = with_rules({"allow": "db.*"}, {"deny": "db.*", "args": {"query": {"not": args["@sql"]}}})
    assert code_of(denied, "db.run", {"query": "SELECT 1"}) == "rule_allow"
    assert code_of(denied, "db.run", {"query": "SELECT f(1)"}) == "rule_deny"


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        ("git status", True),
        ("git  status --short", True),
        (["git", "status"], True),
        ('git status "a b"', True),
        ("git 'status'", True),
        ("git diff HEAD", True),
        ("git push", False),
        ("gitx status", False),
        ("git", False),
        ("git status; rm -rf /", None),
        ("git status $(id)", None),
        ("git status `id`", None),
        ("git status && id", None),
        ("git status > x", None),
        ("git status\nid", None),
        ("git status *", None),
        ("git status 'open", None),
        ("git status a\\ b", None),
        ("", None),
        ([], None),
        (["git", 3], None),
        (["git", "st\0atus"], None),
        (3, None),
        ("git diff --output=x", False),
        ("git diff --outp=x", False),
        ("git diff --output x", False),
        ("git diff -o", False),
        ("git diff -xo", False),
        (["git", "diff", "--out"], False),
        ("git diff -- --output", False),
        ("git diff -x", True),
    ],
)
def test_a_command_is_judged_by_its_words(value: Any, verdict: bool | None) -> None:
    judge = compile_argv([["git", "status"], ["git", "diff"]], ["--output", "-o"])
    assert judge(value) is verdict


@pytest.mark.parametrize("prefix", ["git status", ["git", "status"], [["git", "status"], ["ls"]]])
def test_a_prefix_is_one_command_or_several(prefix: Any) -> None:
    policy = with_rules({"allow": "*", "args": {"@command": {"argv": {"prefix": prefix}}}})
    assert code_of(policy, "sh.run", {"command": "git status"}) == "rule_allow"
    assert code_of(policy, "sh.run", {"command": "git push"}) == "no_match"


@pytest.mark.parametrize(
    ("host", "public"),
    [
        ("example.com", True),
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("localhost", False),
        ("metadata", False),
        ("a.localhost", False),
        ("db.internal", False),
        ("printer.local", False),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("192.168.0.1", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("2002:7f00:1::1", False),  # 6to4 of 127.0.0.1
        ("64:ff9b::7f00:1", False),  # NAT64 of 127.0.0.1
        ("2002:5db8:d822::1", True),  # 6to4 of 93.184.216.34
    ],
)
def test_a_host_is_public_as_far_as_its_name_tells(host: str, public: bool) -> None:
    assert is_public(host) is public


def test_public_only_judges_urls_and_hosts_and_makes_an_argument_a_url() -> None:
    policy = with_rules(
        {"allow": "web.*", "args": {"target": {"public_only": True}}},
        {"allow": "net.*", "args": {"host": {"public_only": True}}},
    )
    assert code_of(policy, "web.get", {"target": "https://example.com/"}) == "rule_allow"
    assert code_of(policy, "web.get", {"target": "http://169.254.169.254/latest"}) == "no_match"
    assert code_of(policy, "web.get", {"target": "http://[::ffff:127.0.0.1]/"}) == "no_match"
    assert code_of(policy, "web.get", {"target": "http://0x7f000001/"}) == "invalid_arguments"
    assert code_of(policy, "net.ping", {"host": "example.com"}) == "rule_allow"
    assert code_of(policy, "net.ping", {"host": "localhost"}) == "no_match"


def test_no_secrets_looks_everywhere_in_a_value() -> None:
    policy = with_rules({"allow": "*", "args": {"content": {"no_secrets": True}}})
    secret = "ghp_" + "a1B2" * 9
    assert code_of(policy, "fs.write", {"content": "hello"}) == "rule_allow"
    assert code_of(policy, "fs.write", {"content": {"a": [1, None, "x"]}}) == "rule_allow"
    for held in (secret, f"token={secret}", [secret], {"a": {"b": [secret]}}, {secret: 1}):
        assert code_of(policy, "fs.write", {"content": held}) == "no_match"
    assert secret not in str(policy)


@pytest.mark.parametrize(
    "text", ["'" * 99_999, "(" * 99_999, "SELECT " * 14_000, "--" * 49_999, "a." * 49_000, '"' * 99_999]
)
def test_hostile_texts_are_judged_at_once(text: str) -> None:
    start = time.process_time()
    only_reads(text)
    compile_argv([["a"]], ["-x"])(text)
    assert time.process_time() - start < 0.5
