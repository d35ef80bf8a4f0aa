"""Result rules: secrets blotted out, results beyond the cap kept back, failures treated alike."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.calls import ServerError
from gateway.core.policy.secret_shapes import SHAPES, redactor, secret_finder
from tests.support.policies import Life, with_rules

# Put together here, so that nobody takes this file for a leak.
SAMPLES = {
    "aws_key": "AKIA" + "IOSFODNN7EXAMPLE",
    "aws_secret": "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY",
    "github_token": "ghp_" + "a1B2" * 9,
    "gitlab_token": "glpat-" + "abcdefghij0123456789",
    "private_key": "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE\n-----END RSA " + "PRIVATE KEY-----",
    "slack": "xoxb-" + "123456789012-abcdefghijkl",
    "jwt": "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N",
    "google_api_key": "AIza" + "B" * 35,
    "anthropic_key": "sk-ant-" + "api03-" + "c" * 40,
    "openai_key": "sk-" + "proj-" + "d" * 48,
    "stripe_key": "sk_" + "live_" + "e" * 24,
    "npm_token": "npm_" + "f" * 36,
    "pypi_token": "pypi-" + "g" * 60,
    "url_password": "postgres://" + "bob:hunter2@" + "db.example/x",
}
INNOCENT = [
    *("AKIA", "AKIAshort", "ghp_short", "an eyJ.eyJ.x", "PRIVATE KEY", "xoxo-love", "sk-learn", "AIza"),
    *("https://example.com/a@b", "http://example.com:8080/@me", "npm_config_cache", "pypi-simple"),
    "risk-assessment-of-things",
]


def test_there_is_a_sample_of_every_shape() -> None:
    assert set(SAMPLES) == {shape.name for shape in SHAPES}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_secret_of_a_shape_is_found_wherever_it_stands_and_taken_out(name: str) -> None:
    found, clean = secret_finder(), redactor([name])
    secret = SAMPLES[name]
    for text in (secret, f"key: {secret} and more", f"({secret})", f'"{secret}"'):
        assert found(text)
        assert found({"a": [{"b": text}]})
        cleaned: Any = clean({"a": [{"b": text}], "n": 1})
        assert secret not in str(cleaned)
        assert f"[redacted:{name}]" in cleaned["a"][0]["b"]
        assert cleaned["n"] == 1
    assert found({secret: 1})
    assert secret not in str(clean({secret: 1}))


@pytest.mark.parametrize("text", INNOCENT)
def test_what_only_looks_a_little_like_a_secret_is_left_alone(text: str) -> None:
    assert not secret_finder()(text)
    assert redactor(list(SAMPLES))({"a": text}) == {"a": text}


def test_a_key_cut_off_before_its_end_is_still_taken_out() -> None:
    text = "see -----BEGIN " + "PRIVATE KEY-----\nMIIEabc"
    assert redactor(["private_key"])({"a": text}) == {"a": "see [redacted:private_key]"}


def test_a_result_is_cleaned_before_anybody_sees_it_and_error_results_too() -> None:
    life = Life(with_rules({"allow": "*"}, results=[{"tool": "fs.*", "redact": ["aws_key", "jwt"]}]))
    secret = SAMPLES["aws_key"]
    life.call("fs.read", result=f"id={secret}")
    assert life.shown["content"][0]["text"] == "id=[redacted:aws_key]"
    held: dict[str, Any] = {"structuredContent": {"k": {secret: [secret]}}, "isError": True, "x": secret}
    life.call("fs.read", result=held)
    assert secret not in str(life.shown)
    life.call("git.log", result=f"id={secret}")
    assert secret in str(life.shown)


def test_all_rules_about_a_tool_add_up() -> None:
    rules = [
        {"tool": "*", "redact": "aws_key", "max_bytes": "1KB"},
        {"tool": "fs.read", "redact": ["jwt"], "max_bytes": 300},
    ]
    life = Life(with_rules({"allow": "*"}, results=rules))
    life.call("fs.read", result=f"{SAMPLES['aws_key']} {SAMPLES['jwt']}")
    assert "[redacted:aws_key] [redacted:jwt]" in str(life.shown)
    life.call("fs.read", result="x" * 400)
    assert life.shown.startswith("the result has ")
    assert "300 (p.yaml:" in life.shown
    life.call("git.log", result="x" * 400)
    assert isinstance(life.shown, dict)


def test_a_servers_error_is_cleaned_and_cut_as_a_result_is() -> None:
    life = Life(with_rules({"allow": "*"}, results=[{"tool": "*", "redact": ["aws_key"], "max_bytes": 60}]))
    call_id, _ = life.start("fs.read")
    secret = SAMPLES["aws_key"]
    message, error = life.state.failed(call_id, f"died with {secret}", ServerError(-1, secret, {"k": secret}))
    assert (message, error) == (
        "died with [redacted:aws_key]",
        ServerError(-1, "[redacted:aws_key]", {"k": "[redacted:aws_key]"}),
    )
    _, error = life.state.failed(call_id, "x", ServerError(-1, "y" * 100, "z" * 100))
    assert error == ServerError(-1, "y" * 60, None)
