"""`sandgate auth`: making entries of an auth file. A token is read, hashed and forgotten."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.options import FormatOption
from gateway.cli.output import Format, say, show
from gateway.errors import UsageError

__all__ = ["app"]

app = typer.Typer(help="Entries of an auth file.", no_args_is_help=True, rich_markup_mode=None)

SHORT_TOKEN = 16
"""Tokens shorter than this many characters can be guessed from their hash, which has no salt."""


@app.command(name="hash")
def hash_token(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="File with the token; standard input without it.")
    ] = None,
    form: FormatOption = Format.TEXT,
) -> None:
    """Print the SHA-256 of a token, for `tokens: [{sha256: ...}]` in the auth file."""
    token = _read(file)
    if not token:
        raise UsageError("the token is empty")
    if len(token) < SHORT_TOKEN:
        say(f"a token of {len(token)} characters can be guessed: make one with 'openssl rand -hex 32'")
    digest = hashlib.sha256(token.encode()).hexdigest()
    show(form, {"sha256": digest}, digest)


def _read(file: Path | None) -> str:
    try:
        text = file.read_text(encoding="utf-8") if file else sys.stdin.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file or 'standard input'}: cannot be read: {error}") from None
    return text.strip("\r\n")
