"""`sandgate toolpack import`: a toolpack from another program's description of MCP servers."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.options import ConfigOption, FormatOption, NotIsolatedOption, SandboxOption
from gateway.cli.output import Format, show
from gateway.errors import ConfigError, Problem, UsageError

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.core.importing import Foreign, ForeignServer
    from gateway.core.json_types import JsonObject
    from gateway.runtime.packs import Pack
    from gateway.runtime.served_pack import Listings

__all__ = ["import_file"]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_CLIENT_FOLDERS = frozenset({".vscode", ".cursor", ".claude", ".gemini", ".zed"})
_PRIVATE = re.compile(r"\.git|\.env(?:\..*)?")
"""What a folder may hold of its owner's, and no bundle needs."""
_MOST_FILES, _MOST_BYTES, _MOST_CODE = 50_000, 500_000_000, 4_000_000
_README = """\
# {name}

{description}

Imported by sandgate. Its policy, `policy.yaml`, allows nothing yet.

    sandgate toolpack lock {name}
    sandgate policy check {name}/policy.yaml
    sandgate serve {name}
"""


def import_file(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="mcpServers or VS Code JSON, a Registry server.json, an MCPB manifest.json."
        ),
    ],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="A new folder [named after what is imported].")
    ] = None,
    server: Annotated[
        list[str] | None,
        typer.Option("--server", metavar="NAME", help="Only this server of FILE; may be repeated [all]."),
    ] = None,
    no_lock: Annotated[
        bool, typer.Option("--no-lock", help="Install and start nothing; 'toolpack lock' does it later.")
    ] = False,
    sandbox: SandboxOption = None,
    not_isolated: NotIsolatedOption = False,
    config: ConfigOption = None,
    form: FormatOption = Format.TEXT,
) -> None:
    """Write a toolpack from FILE: locked where its servers can start, with a policy that allows nothing."""
    from gateway.cli.files import read_text
    from gateway.cli.wiring import check_driver
    from gateway.config import load_config
    from gateway.core.importing import read_foreign

    foreign = read_foreign(read_text(file), str(file), server or ())
    folder = folder or Path(foreign.name)
    name = folder.resolve().name
    if _NAME.fullmatch(name) is None:
        raise UsageError(f"a pack is named in small letters, digits and '-', up to 32 of them: not {name!r}")
    settings = load_config({"sandbox": sandbox}, file=config)
    if not no_lock:
        check_driver(settings, not_isolated=not_isolated)
    try:
        if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
            raise UsageError(f"{folder} is there already and not empty: name a new folder behind {file}")
        beside = next(parent for parent in folder.resolve().parents if parent.is_dir())
        # Made aside and moved when it is whole: of a failed import nothing is left.
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=beside) as made:
            draft = Path(made) / name
            unlocked = _write(foreign, file, draft, None if no_lock else settings)
            folder.parent.mkdir(parents=True, exist_ok=True)
            draft.rename(folder)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from None
    _tell(form, foreign, folder, unlocked)


def _tell(form: Format, foreign: Foreign, folder: Path, unlocked: str | None) -> None:
    notes = [*foreign.notes, *(f"server {one.id!r}: {note}" for one in foreign.servers for note in one.notes)]
    notes += [f"not locked: {unlocked}"] if unlocked else []
    next_steps = [f"sandgate toolpack lock {folder}"] if unlocked else []
    next_steps += [f"sandgate toolpack show {folder}", f"sandgate policy check {folder / 'policy.yaml'}"]
    document = {
        "pack": folder.resolve().name,
        "folder": str(folder),
        "servers": [one.id for one in foreign.servers],
        "locked": unlocked is None,
        "notes": notes,
        "next": next_steps,
    }
    state = "not locked" if unlocked else "locked"
    summary = f"{folder}: {len(foreign.servers)} servers, {state}; its policy allows nothing yet"
    lines = [summary, *(f"note: {note}" for note in notes), *(f"next: {step}" for step in next_steps)]
    show(form, document, "\n".join(lines))


def _write(foreign: Foreign, file: Path, folder: Path, settings: Config | None) -> str | None:
    """Write the pack, and lock it with `settings`; returns why it is not locked. Raises `ConfigError`."""
    from gateway.runtime.packs import MANIFEST_FILE, load_pack

    folder.mkdir()
    _copy_code(foreign, file, folder)
    manifest = foreign.manifest(folder.name)
    (folder / MANIFEST_FILE).write_text(_yaml(manifest), encoding="utf-8")
    readme = _README.format(name=folder.name, description=foreign.description)
    (folder / "README.md").write_text(readme, encoding="utf-8")
    (folder / "policy.yaml").write_text("version: 1\nrules: []\n", encoding="utf-8")
    try:
        pack = load_pack(str(folder), to_serve=False)
    except ConfigError as error:
        problems = [Problem(str(file), 0, 0, fault.code, fault.message) for fault in error.problems]
        raise ConfigError(problems) from None
    unlocked = "as --no-lock says" if settings is None else _hindrance(pack, settings)
    listings: Listings = {} if settings is None or unlocked else _lock(pack, settings)
    (folder / "policy.yaml").write_text(_policy(pack, file, listings), encoding="utf-8")
    load_pack(str(folder), to_serve=not unlocked)
    return unlocked


def _yaml(manifest: JsonObject) -> str:
    import yaml

    return yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=110)


def _hindrance(pack: Pack, settings: Config) -> str | None:
    """Return why the servers cannot be started yet, in words that name the next step."""
    from gateway.cli.wiring import secrets_of

    for name, server in pack.manifest.servers.items():
        if server.url is not None:
            return (
                f"server {name!r} is elsewhere: look at its url and take the '# ' off 'grants' of policy.yaml"
            )
    try:
        secrets_of(settings, [pack])
    except UsageError as error:
        return str(error)
    return None


def _lock(pack: Pack, settings: Config) -> Listings:
    import anyio

    from gateway.cli.locking import lock_pack

    try:
        listings = anyio.run(lock_pack, pack, settings)
    except UsageError as error:
        message = f"{error}. Nothing was written: --no-lock writes the pack without starting its servers"
        raise UsageError(message) from None
    _refuse_clashes(listings)
    return listings


def _refuse_clashes(listings: Listings) -> None:
    whose: dict[object, str] = {}
    for server, listed in listings.items():
        for definition in listed:
            other = whose.setdefault(definition.get("name"), server)
            if other != server:
                raise UsageError(
                    f"servers {other!r} and {server!r} both have a tool {definition.get('name')!r}: import "
                    "them into packs of their own, each with --server NAME"
                )


def _policy(pack: Pack, file: Path, listings: Listings) -> str:
    from gateway.core.policy.drafting import draft_policy
    from gateway.runtime.served_pack import server_needs

    servers = pack.manifest.servers
    elsewhere = any(server.url is not None for server in servers.values())
    grants: dict[str, JsonObject] = {}
    for name, server in servers.items() if elsewhere else ():
        needs = server_needs(pack.manifest, server)
        if needs.egress or needs.secrets:
            grants[name] = {"egress": [*needs.egress], "secrets": [*needs.secrets]}
    source = "".join(char if char.isprintable() else "?" for char in file.name)
    return draft_policy(listings, f"Drafted from {source}: it allows nothing.", grants)


# -- code that comes along


def _copy_code(foreign: Foreign, file: Path, folder: Path) -> None:
    from gateway.core.importing import CODE

    if foreign.whole:
        _copy_bundle(file.resolve(), folder / CODE)
    for server in foreign.servers:
        if server.code is not None and server.place is not None:
            target = folder / server.place
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(_code(server, server.code, file))


def _code(server: ForeignServer, word: str, file: Path) -> bytes:
    """Return the text of the file that a server is; raises `ConfigError` for one outside of the project."""
    from gateway.core.importing import WORKSPACE
    from gateway.core.policy.secret_shapes import secret_finder

    project = file.resolve().parent
    project = project.parent if project.name in _CLIENT_FOLDERS else project
    inside = PurePosixPath(word)
    path = project / (inside.relative_to(WORKSPACE) if inside.is_relative_to(WORKSPACE) else inside)
    path = path.resolve()
    if not path.is_relative_to(project):
        message = (
            f"names {word!r}, which is outside of the project {project}: copy it there, or use its package"
        )
        raise _fault(file, server, "mount", message)
    if not path.is_file():
        raise _fault(file, server, "source", f"names {word!r}, and there is no file {path}")
    if path.stat().st_size > _MOST_CODE:
        raise _fault(file, server, "source", f"names {word!r}, which is larger than {_MOST_CODE} bytes")
    code = path.read_bytes()
    if secret_finder()(code.decode(errors="replace")):
        message = f"names {word!r}, which holds what looks like a secret: have it read a variable of 'env'"
        raise _fault(file, server, "secret", message)
    return code


def _fault(file: Path, server: ForeignServer, code: str, message: str) -> ConfigError:
    return ConfigError([Problem(str(file), 0, 0, code, f"server {server.id!r} {message}")])


def _copy_bundle(file: Path, target: Path) -> None:
    """Copy an unpacked bundle but its manifest, which may hold values of its owner.

    Raises `UsageError` for one with links out of it, or too large a one.
    """
    source = file.parent
    made = target.parent.parent  # where the pack is being made, which may be in the bundle's own folder
    count = size = 0
    for path in source.rglob("*"):
        if path.is_relative_to(made):
            continue
        if path.is_symlink():
            if not path.resolve().is_relative_to(source) or path.readlink().is_absolute():
                raise UsageError(f"{path} is a link out of the bundle, which would be a file of this machine")
        elif path.is_file():
            size += path.stat().st_size
        elif not path.is_dir():
            raise UsageError(f"{path} is neither a file nor a folder")
        count += 1
        if count > _MOST_FILES or size > _MOST_BYTES:
            raise UsageError(
                f"{source} has more than {_MOST_FILES} files or {_MOST_BYTES} bytes: a manifest.json stands "
                "in its own unpacked bundle"
            )

    def left_out(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(folder, name) in (made, file) or _PRIVATE.fullmatch(name)]

    shutil.copytree(source, target, symlinks=True, ignore=left_out)
