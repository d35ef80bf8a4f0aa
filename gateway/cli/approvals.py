"""`sandgate approvals`: what waits for a yes at a running gateway, and the answers. Talks HTTP to it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import IO, Annotated, Any
from urllib.parse import quote

import typer

from gateway.cli.files import read_text
from gateway.cli.options import FormatOption
from gateway.cli.output import Format, say, show
from gateway.errors import UsageError

__all__ = ["app"]

app = typer.Typer(
    help="Calls that wait for somebody's yes: list, approve, deny.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_SECONDS = 30.0

UrlOption = Annotated[str, typer.Option("--url", metavar="URL", help="Where the gateway is served.")]
TokenOption = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="File with your bearer token."),
]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="As `approvals list` shows it.")]
_LOCAL = "http://127.0.0.1:8000"


@app.command("list")
def list_(url: UrlOption = _LOCAL, token_file: TokenOption = None, form: FormatOption = Format.TEXT) -> None:
    """Show what waits: who calls which tool, with which arguments, and which rule asks."""
    waiting: list[dict[str, Any]] = _Gateway(url, token_file).ask("/api/approvals")
    show(form, waiting, "\n".join(map(_shown, waiting)) or "nothing waits for an approval")


@app.command()
def approve(
    approval: IdArgument,
    url: UrlOption = _LOCAL,
    token_file: TokenOption = None,
    form: FormatOption = Format.TEXT,
) -> None:
    """Let one call run, once, with exactly the arguments that are shown."""
    _answer(approval, "approve", _Gateway(url, token_file), form)


@app.command()
def deny(
    approval: IdArgument,
    url: UrlOption = _LOCAL,
    token_file: TokenOption = None,
    form: FormatOption = Format.TEXT,
) -> None:
    """Refuse one call."""
    _answer(approval, "deny", _Gateway(url, token_file), form)


def _answer(approval: str, decision: str, gateway: _Gateway, form: Format) -> None:
    answered = gateway.ask(f"/api/approvals/{quote(approval, safe='')}", {"decision": decision})
    show(form, answered, f"{answered['state']}: {_shown(answered)}")


def _shown(approval: dict[str, Any]) -> str:
    until = datetime.fromtimestamp(approval["expires"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    what = f"{approval['principal']} calls {approval['pack']} {approval['tool']}"
    arguments = json.dumps(approval["arguments"], ensure_ascii=False)
    head = f"{approval['id']}  {what}, rule {approval['rule']}, until {until}"
    return "\n    ".join((head, approval["reason"], arguments))


class _Gateway:
    """A running gateway and who we are to it."""

    def __init__(self, url: str, token_file: Path | None) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"--url {url}: an address like {_LOCAL}")
        self._url = url.rstrip("/")
        self._token = None if token_file is None else read_text(token_file).strip()
        # No proxy and no redirect: the token goes to the address that was given.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)

    def ask(self, path: str, body: dict[str, str] | None = None) -> Any:
        """Return the gateway's answer.

        Exits with 1 where it refuses this answer; raises `UsageError` where it does not answer or knows no
        such token.
        """
        try:
            with self._opener.open(self._request(path, body), timeout=_SECONDS) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                message = _message(error)
            if error.code in (401, 405, 501):
                raise UsageError(f"{self._url}: {message}: give --token-file") from None
            say(message)
            raise typer.Exit(1) from None
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise UsageError(f"{self._url}: no gateway answers here ({reason}): check --url") from None

    def _request(self, path: str, body: dict[str, str] | None) -> urllib.request.Request:
        headers = {"Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if body is None:
            return urllib.request.Request(self._url + path, headers=headers)  # noqa: S310 - checked above
        headers["Content-Type"] = "application/json"
        data = json.dumps(body).encode()
        return urllib.request.Request(self._url + path, data, headers, method="POST")  # noqa: S310 - likewise


def _message(error: urllib.error.HTTPError) -> str:
    try:
        said = json.loads(error.read(10_000))
        return str(said["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.code} {error.reason}"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A gateway does not send its callers elsewhere."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        """Follow nothing: the answer is an error."""
        return
