"""A policy to begin with, for a pack that nobody has used: it allows nothing, and proposes in comments. Pure.

What a server says of its own tools may stand in a comment. It decides nothing: no annotation is proof.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.lock import lockable
from gateway.core.policy.learning import rule_identifier
from gateway.core.policy.samples import Learned, Noted
from gateway.core.policy.writing import write_policy
from gateway.core.screening import screen

__all__ = ["draft_policy"]

_HINTS = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
_MOST_ARGUMENTS, _LONGEST = 12, 100
_HOW = """\
# To allow tools, write 'rules:' alone in place of 'rules: []' and take the '# ' off their rules; then narrow
# what they may be called with ('args'). What stands behind 'says of itself' is the server's own word.
"""


def draft_policy(
    listings: Mapping[str, Sequence[JsonObject]], heading: str, grants: Mapping[str, JsonObject] | None = None
) -> str:
    """Return the text of a policy that denies every call, with a commented rule for each tool that is listed.

    `grants`, by server, are proposed in a comment as well.
    """
    lines = write_policy([], heading).splitlines()
    ids: set[str] = set()
    rules = [rule for server, listed in listings.items() for rule in _rules(server, listed, ids)]
    if rules:
        lines += [*_HOW.splitlines(), *(f"# {line[2:]}" for line in _sequence(rules))]
    if grants:
        lines.append("# A server elsewhere is reached, by 'toolpack lock' too, once this is granted:")
        lines += [f"# {line}" for line in ("grants:", *(f"  {_grant(*item)}" for item in grants.items()))]
    return "\n".join(lines) + "\n"


def _sequence(rules: Sequence[Learned]) -> list[str]:
    return write_policy(rules, "").splitlines()[3:]


def _rules(server: str, listed: Sequence[JsonObject], ids: set[str]) -> Iterator[Learned]:
    usable = lockable(listed)
    for definition in listed:
        name = definition.get("name")
        if not isinstance(name, str) or name not in usable:
            continue
        shown, _ = screen(definition)
        yield {
            "id": Noted(rule_identifier(f"{server}.{name}", ids), _line(shown.get("description"))),
            "allow": Noted(
                f"{server}.{name}", f"takes: {_arguments(shown)}; says of itself: {_hints(shown)}"
            ),
        }


def _arguments(definition: JsonObject) -> str:
    schema = definition.get("inputSchema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    names = sorted(map(_line, properties)) if isinstance(properties, dict) else []
    more = ["…"] if len(names) > _MOST_ARGUMENTS else []
    return ", ".join([*names[:_MOST_ARGUMENTS], *more]) or "nothing"


def _hints(definition: JsonObject) -> str:
    annotations = definition.get("annotations")
    said = annotations if isinstance(annotations, dict) else {}
    found = [f"{hint}: {str(said[hint]).lower()}" for hint in _HINTS if isinstance(said.get(hint), bool)]
    return ", ".join(found) or "nothing"


def _line(value: JsonValue) -> str:
    """Return text for a comment: one line, nothing that ends it or hides."""
    text = " ".join(value.split()) if isinstance(value, str) else ""
    text = re.sub(r"[^\x20-\x7e]", _escaped, text)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    return char if char.isprintable() and ord(char) < 0x10000 else f"\\u{{{ord(char):x}}}"


def _grant(server: str, grant: JsonObject) -> str:
    parts = [f"{key}: {json.dumps(items)}" for key, items in grant.items() if items]
    return f"{server}: {{{', '.join(parts)}}}"
