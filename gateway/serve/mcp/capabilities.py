"""What an endpoint says of itself when it is opened: what the servers behind it offer together. Pure.

Texts of servers are shown screened. A capability is announced if any server has it; what of it a
principal may use is the policy's to say.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.core.json_types import JsonObject
from gateway.core.screening import screen
from gateway.runtime.served_pack import ServedPack
from gateway.runtime.upstream.opening import Offers
from gateway.serve.mcp.directory import Directory

__all__ = ["described", "offers_of", "serves"]

_NEEDS = {
    "prompts/list": "prompts",
    "prompts/get": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resources",
    "resources/read": "resources",
    "resources/subscribe": "resources",
    "resources/unsubscribe": "resources",
    "completion/complete": "completions",
    "logging/setLevel": "logging",
}


def serves(directory: Directory, method: str) -> bool:
    """Whether some server behind the endpoint has what a method is about."""
    capability = _NEEDS.get(method)
    return capability is None or any(offers.has(capability) for offers in _all(directory))


def offers_of(directory: Directory) -> JsonObject:
    """Return the endpoint's capabilities."""
    offers = list(_all(directory))

    def changes(kind: str) -> JsonObject:
        return {"listChanged": any(each.has(kind, "listChanged") for each in offers)}

    found: JsonObject = {"tools": changes("tools")}
    if any(each.has("prompts") for each in offers):
        found["prompts"] = changes("prompts")
    if any(each.has("resources") for each in offers):
        subscribe = any(each.has("resources", "subscribe") for each in offers)
        found["resources"] = {**changes("resources"), "subscribe": subscribe}
    found |= {kind: {} for kind in ("completions", "logging") if any(each.has(kind) for each in offers)}
    return found


def described(directory: Directory, result: JsonObject) -> JsonObject:
    """Return an opening's result with the endpoint's capabilities, and its servers' instructions."""
    instructions = _instructions(directory.packs.values())
    more: JsonObject = {"instructions": instructions} if instructions else {}
    return {**result, "capabilities": offers_of(directory), **more}


def _all(directory: Directory) -> Iterable[Offers]:
    for pack in directory.packs.values():
        yield from pack.offers.values()


def _instructions(packs: Iterable[ServedPack]) -> str:
    texts = [
        (f"{pack.name}.{server}", offers.instructions)
        for pack in packs
        for server, offers in pack.offers.items()
        if offers.instructions
    ]
    screened = [(name, str(screen({"instructions": text})[0]["instructions"])) for name, text in texts]
    if len(screened) == 1:
        return screened[0][1]
    return "\n\n".join(f"{name}: {text}" for name, text in screened)
