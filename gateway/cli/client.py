"""`sandgate client`: the configuration of known MCP clients, printed or put where they look for it.

A file is changed in one place only, whole or not at all, after a copy was made; what does not parse is not
touched.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from gateway.cli import jsonc
from gateway.cli.files import read_text
from gateway.cli.mcp_clients import CLIENTS, FORM_KEYS, ClientFormat, Target, entry_of
from gateway.cli.options import FormatOption
from gateway.cli.output import Format, say, show
from gateway.cli.toml_tables import TomlError, set_table, table_text
from gateway.errors import ConfigError, Problem, UsageError

__all__ = ["app", "program"]

app = typer.Typer(
    help=f"Point an MCP client at the gateway: {', '.join(CLIENTS)}.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ClientArgument = Annotated[str, typer.Argument(metavar="CLIENT", help=", ".join(CLIENTS))]
UrlOption = Annotated[str, typer.Option("--url", metavar="URL", help="The gateway's MCP endpoint.")]
StdioOption = Annotated[
    str | None,
    typer.Option("--stdio", metavar="PACK", help="The client starts `sandgate stdio PACK` itself."),
]
NameOption = Annotated[str, typer.Option("--name", help="What the server is called in the client.")]
TokenEnvOption = Annotated[
    str | None,
    typer.Option("--token-env", metavar="VARIABLE", help="Variable that holds your bearer token."),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="Write the token in this file into the configuration."),
]
_URL = "http://127.0.0.1:8000/mcp"


@app.command("print")
def print_(
    client: ClientArgument,
    url: UrlOption = _URL,
    stdio: StdioOption = None,
    name: NameOption = "sandgate",
    token_env: TokenEnvOption = None,
    token_file: TokenFileOption = None,
    form: FormatOption = Format.TEXT,
) -> None:
    """Print the client's configuration, and where it belongs; changes nothing."""
    known, entry = _format(client), _entry(client, url, stdio, token_env, token_file)
    file = _usual_file(known)
    say(f"for {file}")
    if known.syntax == "toml":
        text = table_text(known.section, name, entry).rstrip()
    else:
        text = json.dumps({known.section: {name: entry}}, indent=2, ensure_ascii=False)
    show(form, {"file": str(file), "section": known.section, "name": name, "entry": entry}, text)


@app.command()
def connect(
    client: ClientArgument,
    url: UrlOption = _URL,
    stdio: StdioOption = None,
    name: NameOption = "sandgate",
    token_env: TokenEnvOption = None,
    token_file: TokenFileOption = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Its file, where it is not the usual one.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the server out again.")] = False,
    form: FormatOption = Format.TEXT,
) -> None:
    """Put the gateway into the client's own configuration; keeps a backup, comments and unknown keys."""
    known = _format(client)
    entry = None if remove else _entry(client, url, stdio, token_env, token_file)
    # Through a link to the file itself: a replaced link would leave the client with two files.
    path = (file or _usual_file(known)).absolute().resolve()
    before = read_text(path) if path.exists() else None
    after = _changed(known, path, before or "", name, entry)
    backup = None
    changed = after != (before or "")
    if changed:
        backup = None if before is None else _back_up(path)
        _replace(path, after)
    told = {
        "file": str(path),
        "name": name,
        "changed": changed,
        "backup": None if backup is None else str(backup),
    }
    undo = ["sandgate", "client", "connect", known.name, "--name", name]
    undo += ["--remove"] if file is None else ["--file", str(path), "--remove"]
    after_it = f"\nnext: {known.name}: {known.after}" + ("" if remove else f"\nundo: {shlex.join(undo)}")
    show(form, told, _told(path, name, changed=changed, backup=backup, remove=remove, after_it=after_it))


def _told(path: Path, name: str, *, changed: bool, backup: Path | None, remove: bool, after_it: str) -> str:
    if not changed:
        return f"{path}: nothing to do, {name!r} is {'not there' if remove else 'there as it should be'}"
    verb = "took out" if remove else "put in"
    kept = f"; the file as it was: {backup}" if backup else ""
    return f"{path}: {verb} {name!r}{kept}{after_it}"


def _usual_file(known: ClientFormat) -> Path:
    from gateway.config import user_folders

    return known.file(user_folders())


def _format(client: str) -> ClientFormat:
    known = CLIENTS.get(client)
    if known is None:
        raise UsageError(f"client {client!r} is not known; there are: {', '.join(CLIENTS)}")
    return known


def _entry(
    client: str, url: str, stdio: str | None, token_env: str | None, token_file: Path | None
) -> dict[str, Any]:
    if token_env is not None and token_file is not None:
        raise UsageError("give one of --token-env and --token-file")
    if stdio is not None:
        return entry_of(_format(client), Target(command=(program(), "stdio", stdio)))
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--url {url}: an address like {_URL}")
    token = None if token_file is None else read_text(token_file).strip()
    return entry_of(_format(client), Target(url, token=token, token_env=token_env))


def program() -> str:
    """Return this command with its whole path: a client that a desktop starts has another PATH."""
    found = shutil.which(sys.argv[0]) or shutil.which("sandgate")
    return str(Path(found).absolute()) if found else "sandgate"


def _changed(known: ClientFormat, path: Path, text: str, name: str, entry: dict[str, Any] | None) -> str:
    """Return the file's text with `entry` in its place; raises `ConfigError` or `UsageError`."""
    if known.syntax == "toml":
        return _changed_toml(known, path, text, name, entry)
    try:
        text = text if text.strip() else "{}\n" if entry else text
        before: Any = jsonc.parse(text) if text.strip() else {}
        kept = _others(before, known.section, name)
        if entry is None:
            after, wanted = jsonc.remove_member(text, [known.section, name]) if kept else text, None
        elif kept is not None and kept[1] == entry:
            return text
        else:
            wanted = {**entry, **(kept[0] if kept else {})}
            after = jsonc.set_member(text, [known.section, name], wanted)
    except jsonc.JsoncError as error:
        problem = Problem(str(path), error.line, error.column, "json", f"{error}: nothing was changed")
        raise ConfigError([problem]) from None
    if after != text and jsonc.parse(after) != _meant(before, known.section, name, wanted):
        raise UsageError(f"{path}: cannot be changed without a doubt, and was not: change it by hand")
    return after


def _meant(before: Any, section: str, name: str, entry: dict[str, Any] | None) -> dict[str, Any]:
    """Return what the file has to say once it was changed."""
    document = cast("dict[str, Any]", before)
    servers = {key: value for key, value in document.get(section, {}).items() if key != name}
    return {**document, section: servers if entry is None else {**servers, name: entry}}


def _changed_toml(known: ClientFormat, path: Path, text: str, name: str, entry: dict[str, Any] | None) -> str:
    import tomllib

    try:
        kept = None if entry is None else _others(tomllib.loads(text), known.section, name)
        if kept is not None and kept[1] == entry:
            return text
        wanted = None if entry is None else {**entry, **(kept[0] if kept else {})}
        return set_table(text, known.section, name, wanted)
    except TomlError as error:
        raise UsageError(f"{path}: {error}; nothing was changed") from None
    except tomllib.TOMLDecodeError as error:
        said, _, place = str(error).rpartition(" (at ")
        line, _, column = place.removeprefix("line ").rstrip(")").partition(", column ")
        # The end of the document has no numbers.
        where = (int(line), int(column)) if column.isdecimal() else (text.count("\n") + 1, 1)
        raise ConfigError([Problem(str(path), *where, "toml", f"{said}: nothing was changed")]) from None


def _others(document: Any, section: str, name: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return what the client's user added to the entry that is there, and its part that is ours."""
    entry: Any = document
    for key in (section, name):
        entry = cast("dict[str, Any]", entry).get(key) if isinstance(entry, dict) else None
    if not isinstance(entry, dict):
        return None
    parts = cast("dict[str, Any]", entry)
    ours = {key: value for key, value in parts.items() if key in FORM_KEYS}
    return {key: value for key, value in parts.items() if key not in FORM_KEYS}, ours


def _back_up(path: Path) -> Path:
    """Copy the file beside itself, under a name that is free."""
    number = 1
    while True:
        backup = path.with_name(f"{path.name}.backup-{number}")
        try:
            with backup.open("xb") as copy:
                backup.chmod(path.stat().st_mode & 0o777)
                copy.write(path.read_bytes())
        except FileExistsError:
            number += 1
            continue
        return backup


def _replace(path: Path, text: str) -> None:
    """Write the file whole or not at all, with the rights it had; a new one is its owner's alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.sandgate")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            draft.chmod(path.stat().st_mode & 0o777)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
