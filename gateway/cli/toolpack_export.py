"""`sandgate toolpack export`: a toolpack in the forms that others take."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.options import FormatOption, PackArgument
from gateway.cli.output import Format, say, show
from gateway.errors import UsageError

if TYPE_CHECKING:
    from gateway.runtime.packs import Pack

__all__ = ["export"]


class Form(StrEnum):
    """What a toolpack is exported to."""

    OPENENV = "openenv"
    MCP_SERVERS = "mcp-servers"
    SERVER_JSON = "server-json"


def export(
    pack: PackArgument,
    to: Annotated[
        Form,
        typer.Option(
            "--to",
            help="openenv: a complete environment folder. mcp-servers: an MCP client's configuration. "
            "server-json: the MCP Registry's description of one server.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="openenv: the new folder.")
    ] = None,
    wheel: Annotated[
        Path | None,
        typer.Option(
            "--wheel", metavar="FILE", help="openenv: sandgate's wheel, to install that in the image."
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="mcp-servers: a gateway that runs, instead of a command."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="server-json: the registry's name, io.github.USER/NAME."),
    ] = None,
    server: Annotated[
        str | None, typer.Option("--server", metavar="ID", help="server-json: which of several servers.")
    ] = None,
    form: FormatOption = Format.TEXT,
) -> None:
    """Write a toolpack as an OpenEnv environment, or print it for MCP clients or the MCP Registry."""
    from gateway.runtime.packs import load_pack

    _only(to, Form.OPENENV, {"--out": out, "--wheel": wheel})
    _only(to, Form.MCP_SERVERS, {"--url": url})
    _only(to, Form.SERVER_JSON, {"--name": name, "--server": server})
    loaded = load_pack(pack)
    match to:
        case Form.OPENENV:
            _openenv(loaded, out, wheel, form)
        case Form.MCP_SERVERS:
            _print(_mcp_servers(loaded, url))
        case Form.SERVER_JSON:
            _print(_server_json(loaded, name, server))


def _only(to: Form, form: Form, options: Mapping[str, object]) -> None:
    for option, value in options.items():
        if value is not None and to is not form:
            raise UsageError(f"{option} is for --to {form}, and this is --to {to}")


def _print(document: Any) -> None:
    show(Format.JSON, document, "")


def _mcp_servers(pack: Pack, url: str | None) -> dict[str, Any]:
    from gateway.cli.client import program
    from gateway.cli.mcp_clients import CLIENTS, Target, entry_of
    from gateway.runtime.packs import bundled_packs

    if url is not None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"--url {url}: an address like http://127.0.0.1:8000/packs/{pack.name}/mcp")
        entry = entry_of(CLIENTS["claude-code"], Target(url))
    else:
        # A client starts it in a folder of its own: only a bundled pack is found there by its name.
        bundled = bundled_packs().get(pack.name) == pack.folder
        named = pack.name if bundled else str(pack.folder.resolve())
        entry = entry_of(CLIENTS["claude-desktop"], Target(command=(program(), "stdio", named)))
    return {"mcpServers": {pack.name: entry}}


def _server_json(pack: Pack, name: str | None, server: str | None) -> Any:
    from gateway.core.server_json import server_json

    if name is None:
        raise UsageError(f"--to server-json needs --name, as in --name io.github.USER/{pack.name}")
    document = server_json(pack.manifest, pack.lock, name=name, server=server)
    say("this describes the server alone: policy, sandbox and tasks stay with the toolpack")
    return document


def _openenv(pack: Pack, out: Path | None, wheel: Path | None, form: Format) -> None:
    from gateway import __version__
    from gateway.core.openenv_folder import PACK_FOLDER, Environment, environment_files
    from gateway.runtime.pack_files import pack_files

    if out is None:
        raise UsageError(f"--to openenv needs --out FOLDER, as in --out {pack.name}_env")
    if pack.lock is None:
        raise UsageError(f"an environment is of locked servers: run 'sandgate toolpack lock {pack.folder}'")
    if wheel is not None and not (wheel.is_file() and wheel.name.endswith(".whl")):
        raise UsageError(f"--wheel {wheel} is no wheel of sandgate: 'python -m build --wheel' makes one")
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} is there already: name a new folder")
    copied = pack_files(pack)
    hidden = tuple(name for name in copied if _left_behind(name))
    try:
        data = {name: file.read_bytes() for name, file in copied.items()}
        environment = Environment(
            pack.manifest,
            pack.tasks,
            pack.lock,
            {name: hashlib.sha256(content).hexdigest() for name, content in data.items()},
            __version__,
            wheel.name if wheel else None,
            hidden,
        )
        files = {name: text.encode() for name, text in environment_files(environment).items()}
        files |= {f"{PACK_FOLDER}/{name}": content for name, content in data.items()}
        if wheel is not None:
            files[wheel.name] = wheel.read_bytes()
        modes = {f"{PACK_FOLDER}/{name}": file.stat().st_mode for name, file in copied.items()}
        _write(out, files, modes)
    except OSError as error:
        raise UsageError(f"{error.filename or out}: {error.strerror}") from None
    if hidden:
        say(f"'openenv push' leaves {len(hidden)} files of the pack behind ({hidden[0]}): use 'hf upload'")
    if wheel is None:
        say(f"its image installs sandgate=={__version__} by pip: --wheel FILE takes a wheel of yours along")
    next_steps = [f"openenv validate {out}", f"python {out}/server/app.py"]
    text = "\n".join([f"{out}: an OpenEnv environment", *(f"next: {step}" for step in next_steps)])
    told = {"pack": pack.name, "folder": str(out), "files": sorted(files), "next": next_steps}
    show(form, told, text)


def _left_behind(name: str) -> bool:
    """Whether `openenv push` leaves a file with such a name out."""
    parts = PurePosixPath(name).parts
    return any(
        part.startswith(".")
        or part == "build"
        or part.endswith((".pyc", ".egg-info"))
        or part == "__pycache__"
        for part in parts
    )


def _write(out: Path, files: Mapping[str, bytes], modes: Mapping[str, int]) -> None:
    """Write the folder whole or not at all: it gets its name last."""
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        for name, content in files.items():
            file = draft / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            if modes.get(name, 0) & 0o100:
                file.chmod(0o755)
        draft.chmod(0o755)
        draft.rename(out)
    except BaseException:
        shutil.rmtree(draft)
        raise
