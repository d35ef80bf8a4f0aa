"""What a server lists: tools, prompts, resources and templates, over all pages and within limits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum

from gateway.core.calls import FailureKind
from gateway.core.json_types import JsonObject
from gateway.core.strict_json import dumps
from gateway.runtime.upstream.exchange import UpstreamFailure

__all__ = ["Listing", "every_page"]

_MAX_PAGES = 100
_MAX_ITEMS = 2_000
_MAX_BYTES = 8_000_000


class Listing(Enum):
    """A kind of thing that servers list; the value is its method and its key in the result."""

    TOOLS = ("tools/list", "tools")
    PROMPTS = ("prompts/list", "prompts")
    RESOURCES = ("resources/list", "resources")
    TEMPLATES = ("resources/templates/list", "resourceTemplates")

    @property
    def method(self) -> str:
        """The request that lists it."""
        return self.value[0]

    @property
    def key(self) -> str:
        """Where it stands in the result."""
        return self.value[1]


async def every_page(
    server: str, what: Listing, page: Callable[[JsonObject], Awaitable[JsonObject]]
) -> list[JsonObject]:
    """Return all that `page` returns, asked with a cursor again and again; raises `UpstreamFailure`."""
    found: list[JsonObject] = []
    params: JsonObject = {}
    size = 0
    for _ in range(_MAX_PAGES):
        result = await page(params)
        items = result.get(what.key)
        found += [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
        size += len(dumps(items))
        cursor = result.get("nextCursor")
        if size > _MAX_BYTES or len(found) > _MAX_ITEMS:
            break
        if not isinstance(cursor, str):
            return found
        params = {"cursor": cursor}
    limits = f"{_MAX_PAGES} pages, {_MAX_ITEMS} {what.key} or {_MAX_BYTES} bytes"
    raise UpstreamFailure(FailureKind.PROTOCOL, f"server {server!r} lists more than {limits}")
