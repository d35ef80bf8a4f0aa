"""What a session's servers offer beside tools: resources, templates and prompts, listed live.

All servers are asked at once and each has a deadline of its own, so that one which is slow, broken
or hostile delays and hides nothing of the others. What is shown is what the policy could grant.
Whose a resource or prompt is follows one rule: the first server, in the order of the manifest, that
lists it, else the first whose template makes it; a pack's only candidate is asked in any case.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio

from gateway.core.calls import Target
from gateway.core.json_types import JsonObject
from gateway.core.screening import screen
from gateway.core.session import SessionMachine
from gateway.core.templates import made_by
from gateway.runtime.leases import Lease
from gateway.runtime.served_pack import ServedPack
from gateway.runtime.upstream import UpstreamFailure
from gateway.runtime.upstream.listings import Listing

__all__ = ["Offered", "Offerings"]

logger = logging.getLogger(__name__)

_LISTING_SECONDS = 10.0
_LATE_SECONDS = 1.0
"""For a server that did not list in time before: it must not delay the others again and again."""
_CAPABILITY = {
    Listing.PROMPTS: "prompts",
    Listing.RESOURCES: "resources",
    Listing.TEMPLATES: "resources",
}
_OPTIONAL = Listing.TEMPLATES
_METHOD_NOT_FOUND = -32601


@dataclass(frozen=True, slots=True)
class Offered:
    """What all servers of a session list of a kind, by server; `failed` are those that did not answer."""

    items: Mapping[str, list[JsonObject]]
    failed: tuple[str, ...] = ()


@dataclass(slots=True)
class Offerings:
    """The listings of one session. Whose a name is is remembered from the last one, shown or not:

    what the policy hides is denied, and not said to be missing.
    """

    pack: ServedPack
    machine: SessionMachine
    lease: Lease
    _late: set[str] = field(default_factory=set[str])
    _owners: dict[Listing, dict[str, str]] = field(default_factory=dict[Listing, dict[str, str]])

    async def list(self, what: Listing) -> Offered:
        """Ask every server that has any, all at once, and return what the policy shows of it."""
        found: dict[str, list[JsonObject]] = {}
        failed: set[str] = set()
        servers = self.pack.offering(_CAPABILITY[what])

        async def ask(server: str) -> None:
            try:
                with anyio.fail_after(_LATE_SECONDS if server in self._late else _LISTING_SECONDS):
                    found[server] = await self._ask(server, what)
                self._late.discard(server)
            except (UpstreamFailure, TimeoutError) as failure:
                if isinstance(failure, TimeoutError):
                    self._late.add(server)
                failed.add(server)
                why = str(failure) or "it did not answer in time"
                logger.warning("%s of server %r are not listed: %s", what.key, server, why)

        async with anyio.create_task_group() as tasks:
            for server in servers:
                tasks.start_soon(ask, server)
        owners = self._owners[what] = dict[str, str]()
        for server in servers:
            for item in found.get(server, ()):
                owners.setdefault(self._name(server, what, item), server)
        items = {server: self._shown(server, what, found[server]) for server in servers if server in found}
        return Offered(items, tuple(sorted(failed)))

    async def owner_of_resource(self, uri: str, *, alone: bool) -> str | None:
        """Return the server to be asked for a resource, or for what completes a template.

        `alone`: there is no other pack that could have it.
        """
        servers = self.pack.offering("resources")
        if not servers or (alone and len(servers) == 1):
            return servers[0] if servers else None
        for what in (Listing.RESOURCES, Listing.TEMPLATES):
            owners = await self._recent(what, uri)
            if uri in owners:
                return owners[uri]
        templates = self._owners[Listing.TEMPLATES]
        return next((server for template, server in templates.items() if made_by(template, uri)), None)

    async def owner_of_prompt(self, name: str) -> tuple[str, str] | None:
        """Return the server of a prompt that the pack shows by this name, and the server's own name."""
        servers = self.pack.offering("prompts")
        if len(servers) == 1:
            own = self._own_name(servers[0], name)
            return None if own is None else (servers[0], own)
        server = (await self._recent(Listing.PROMPTS, name)).get(name) if servers else None
        own = None if server is None else self._own_name(server, name)
        return None if server is None or own is None else (server, own)

    def _own_name(self, server: str, name: str) -> str | None:
        prefix = self.pack.prefix_of(server)
        return name.removeprefix(prefix) if name.startswith(prefix) else None

    async def _recent(self, what: Listing, name: str) -> dict[str, str]:
        """Return the owners by the last listing, or by a new one if the last does not know the name."""
        if name not in self._owners.get(what, ()):
            await self.list(what)
        return self._owners[what]

    def _name(self, server: str, what: Listing, item: JsonObject) -> str:
        """Return the name under which the pack shows an item."""
        own = str(item.get(_KEYS[what]))
        return self.pack.prefix_of(server) + own if what is Listing.PROMPTS else own

    async def _ask(self, server: str, what: Listing) -> list[JsonObject]:
        upstream = await self.lease.server(server)
        try:
            return await upstream.list_all(what)
        except UpstreamFailure as failure:
            # Templates have no capability of their own: a server may do without them.
            if what is _OPTIONAL and failure.error is not None and failure.error.code == _METHOD_NOT_FOUND:
                return []
            raise

    def _shown(self, server: str, what: Listing, items: list[JsonObject]) -> list[JsonObject]:
        shown: list[JsonObject] = []
        for item in items:
            name = item.get(_KEYS[what])
            if not isinstance(name, str) or not self.machine.shows(_TARGETS[what], server, name):
                continue
            screened, _ = screen(item)
            # The URI is what the client has to send: it is judged as it is.
            screened[_KEYS[what]] = self._name(server, what, item)
            shown.append(self.machine.masked(screened))
        return shown


_KEYS = {Listing.PROMPTS: "name", Listing.RESOURCES: "uri", Listing.TEMPLATES: "uriTemplate"}
_TARGETS: dict[Listing, Target | None] = {
    Listing.PROMPTS: "prompt",
    Listing.RESOURCES: "resource",
    Listing.TEMPLATES: None,
}
