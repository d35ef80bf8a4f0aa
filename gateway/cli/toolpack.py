"""`sandgate toolpack`: look at a toolpack, check it, lock what its servers are and offer, hand it on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from gateway.cli.options import ConfigOption, FormatOption, NotIsolatedOption, PackArgument, SandboxOption
from gateway.cli.output import Format, show
from gateway.cli.toolpack_export import export
from gateway.cli.toolpack_import import import_file
from gateway.cli.toolpack_init import init

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.core.lock import Lock, ToolChanges
    from gateway.core.manifest import ServerSpec
    from gateway.runtime.packs import Pack

__all__ = ["app"]

app = typer.Typer(
    help="Toolpacks: begin, import, show, check, lock, export.", no_args_is_help=True, rich_markup_mode=None
)
app.command()(init)
app.command(name="import")(import_file)
app.command()(export)


@app.command(name="show")
def show_pack(pack: PackArgument, form: FormatOption = Format.TEXT) -> None:
    """Show what a toolpack holds: servers, tools as locked, needs, tasks, policy."""
    from gateway.runtime.packs import load_pack

    document = _document(load_pack(pack, to_serve=False))
    show(form, document, _text(document))


@app.command()
def validate(pack: PackArgument, form: FormatOption = Format.TEXT) -> None:
    """Check manifest, tasks, lock and policy; starts nothing. Faults are `file:line:col`, exit code 2."""
    from gateway.cli.policies import policies_of
    from gateway.runtime.packs import load_pack

    loaded = load_pack(pack)
    policies_of([loaded], None)
    notes = [] if loaded.lock else ["no tools.lock.json yet: run 'sandgate toolpack lock'"]
    notes += [] if loaded.policy_file else ["no policy: every call is denied unless --policy gives one"]
    counts = {"servers": len(loaded.manifest.servers), "tasks": len(loaded.tasks)}
    summary = (
        f"{loaded.name} {loaded.manifest.version}: ok, {counts['servers']} servers, {counts['tasks']} tasks"
    )
    show(form, {"pack": loaded.name, "valid": True, **counts, "notes": notes}, "\n".join([summary, *notes]))


@app.command()
def lock(
    pack: PackArgument,
    sandbox: SandboxOption = None,
    not_isolated: NotIsolatedOption = False,
    config: ConfigOption = None,
    form: FormatOption = Format.TEXT,
) -> None:
    """Install each server anew, start it once in a sandbox and write tools.lock.json; says what changed."""
    import anyio

    from gateway.cli.wiring import check_driver
    from gateway.config import load_config
    from gateway.runtime.packs import load_pack

    loaded = load_pack(pack, to_serve=False)
    settings = load_config({"sandbox": sandbox}, file=config)
    check_driver(settings, not_isolated=not_isolated)
    changes = anyio.run(_lock, loaded, settings)
    document = {server: change.model_dump() for server, change in changes.items()}
    show(
        form,
        {"pack": loaded.name, "file": str(loaded.folder / "tools.lock.json"), "changes": document},
        _changes(changes),
    )


async def _lock(pack: Pack, config: Config) -> dict[str, ToolChanges]:
    from gateway.cli.locking import lock_pack
    from gateway.core.lock import compare

    listings = await lock_pack(pack, config)
    return {server: compare(pack.lock, server, listed) for server, listed in listings.items()}


def _changes(changes: dict[str, ToolChanges]) -> str:
    lines: list[str] = []
    for server, change in changes.items():
        for what, names in (
            ("added", change.added),
            ("changed", change.changed),
            ("removed", change.removed),
        ):
            lines += [f"{server}.{name}: {what}" for name in names]
    return "\n".join(lines) or "no tool changed"


def _document(pack: Pack) -> dict[str, Any]:
    manifest = pack.manifest
    return {
        "name": pack.name,
        "version": manifest.version,
        "description": manifest.description,
        "folder": str(pack.folder),
        "policy": str(pack.policy_file) if pack.policy_file else None,
        "servers": {name: _server(server, name, pack.lock) for name, server in manifest.servers.items()},
        "sandbox": manifest.sandbox.model_dump(mode="json"),
        "workspace": manifest.workspace.model_dump(mode="json"),
        "tasks": [
            {"id": task.id, "split": task.split, "prompt": task.prompt} for task in pack.tasks.values()
        ],
        "locked": pack.lock is not None,
    }


def _server(server: ServerSpec, name: str, lock: Lock | None) -> dict[str, Any]:
    from gateway.core.lock import launch_of

    return {
        "launch": list(launch_of(server)),
        "secrets": list(server.secrets),
        "tools": sorted(lock.tools_of(name)) if lock else [],
    }


def _text(document: dict[str, Any]) -> str:
    lines = [
        f"{document['name']} {document['version']}: {document['description']}",
        f"folder   {document['folder']}",
    ]
    lines.append(f"policy   {document['policy'] or 'none: every call is denied unless --policy gives one'}")
    for name, server in document["servers"].items():
        lines.append(f"server   {name}: {' '.join(server['launch'])}")
        lines += [f"  tool   {name}.{tool}" for tool in server["tools"]]
    lines += [f"task     {task['id']} ({task['split']}): {task['prompt']}" for task in document["tasks"]]
    if not document["locked"]:
        lines.append("no tools.lock.json yet: run 'sandgate toolpack lock'")
    return "\n".join(lines)
