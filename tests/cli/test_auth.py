"""`sandgate auth hash`."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.support.terminal import sandgate

TOKEN = "a-token-of-some-length"
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()


def test_a_token_in_a_file_becomes_its_hash_and_its_line_end_does_not_count(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    assert sandgate("auth", "hash", str(file)).out == DIGEST + "\n"
    assert sandgate("auth", "hash", str(file), "--format", "json").document == {"sha256": DIGEST}


def test_the_token_itself_is_never_printed(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("short")
    ran = sandgate("auth", "hash", str(file))
    assert ran.code == 0
    assert "can be guessed" in ran.err
    assert "short" not in ran.out + ran.err


def test_an_empty_token_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("\n")
    assert sandgate("auth", "hash", str(file)).code == 2
