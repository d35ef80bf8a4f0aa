"""Tool names as one endpoint shows them, and the pack and tool each of them stands for. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.core.json_types import JsonObject
from gateway.runtime.served_pack import ServedPack

__all__ = ["Directory"]

_SEPARATOR = "__"
_UNKNOWN = "?"


class Directory:
    """The packs of one endpoint. One pack: its own tool names; several: `<pack>__<tool>`."""

    def __init__(self, packs: Mapping[str, ServedPack]) -> None:
        self.packs = packs
        # The longest name first: pack `a__b` before pack `a`.
        self._by_length = sorted(packs, key=len, reverse=True)

    def shown(self, pack: str, tool: str) -> str:
        """Return the name under which the endpoint lists a pack's tool."""
        return tool if len(self.packs) == 1 else f"{pack}{_SEPARATOR}{tool}"

    def find(self, name: str) -> tuple[str, str]:
        """Return the pack and the pack's tool of a name; for one of no pack, a pack that has no such tool."""
        if len(self.packs) == 1:
            return self._by_length[0], name
        for pack in self._by_length:
            if name.startswith(pack + _SEPARATOR):
                return pack, name.removeprefix(pack + _SEPARATOR)
        # An unknown tool is a call like any other: it is judged and recorded, so some pack has to take it.
        pack = next(iter(self.packs))
        return pack, name if name not in self.packs[pack].catalog.tools else _UNKNOWN + name

    def input_schema(self, name: str) -> JsonObject | None:
        """Return a tool's input schema, `None` where there is none to compare headers with."""
        pack, tool = self.find(name)
        known = self.packs[pack].catalog.tools.get(tool)
        schema = None if known is None else known.definition.get("inputSchema")
        return schema if isinstance(schema, dict) else None
