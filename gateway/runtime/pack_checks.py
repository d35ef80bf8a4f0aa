"""What is checked of a pack once its servers have listed their tools: stand-ins, and names in tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.core.catalog import Catalog
from gateway.core.json_types import JsonObject
from gateway.core.lock import compare
from gateway.core.rubric import checks_of
from gateway.core.tasks import Task, ToolCalled
from gateway.errors import UsageError
from gateway.runtime.packs import Pack

__all__ = ["check_lock_for_stand_ins", "check_stand_ins", "unknown_tools"]


def check_lock_for_stand_ins(pack: Pack) -> None:
    """Refuse a pack whose stand-ins there is nothing to compare with; raises `UsageError`."""
    names = [name for name, server in pack.manifest.servers.items() if server.stands_in]
    if names and (pack.lock is None or any(name not in pack.lock.servers for name in names)):
        message = f"pack {pack.name!r}: server {names[0]!r} has a stand-in and no lock to hold it against"
        raise UsageError(
            f"{message}: run 'sandgate toolpack lock {pack.folder}', which starts the server itself"
        )


def check_stand_ins(pack: Pack, listings: Mapping[str, list[JsonObject]]) -> None:
    """Refuse a stand-in whose tools are not exactly the locked ones; raises `UsageError` that names them."""
    for name, server in pack.manifest.servers.items():
        if not server.stands_in:
            continue
        found = compare(pack.lock, name, listings[name])
        told = [
            f"{how} {', '.join(tools)}"
            for how, tools in (
                ("defines otherwise", found.changed),
                ("lacks", found.removed),
                ("adds", found.added),
            )
            if tools
        ]
        if told:
            whose = f"pack {pack.name!r}: the stand-in of server {name!r} is not what is locked"
            raise UsageError(
                f"{whose}: it {'; it '.join(told)}: an agent could tell training from deployment"
            )


def unknown_tools(pack: Pack, catalog: Catalog) -> Iterator[str]:
    """Yield a finding for each tool that a task names and no server has."""
    for task in pack.tasks.values():
        for tool in dict.fromkeys(_named(task)):
            if tool not in catalog.tools:
                yield f"task {task.id!r} names the tool {tool!r}, which no server has"


def _named(task: Task) -> Iterator[str]:
    yield from (check.tool for check in checks_of(task.rubric) if isinstance(check, ToolCalled))
    yield from (event.after_tool for event in task.events if event.after_tool is not None)
