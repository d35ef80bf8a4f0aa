"""Arguments that say to whom or where something goes, or hold a credential: told by name and shape. Pure.

For these a bound of type and length would allow anybody. A proposal names whom it has seen and has
others looked at; a credential it never names, and has looked at each time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gateway.core.json_types import JsonValue

__all__ = ["identities_in", "names_credential"]

_MOST = 64
"""Most that a proposal names one by one; an argument with more is no short list of acquaintances."""
_LONGEST = 256
_SHAPES = re.compile(
    r"[^@\s]{1,64}@[^@\s]{1,250}\.[A-Za-z]{2,24}"  # mail addresses
    r"|[A-Z]{2}[0-9]{2}[A-Z0-9]{8,30}"  # bank accounts
    r"|(?:https?://|www\.)[^\s]{3,200}"  # places on the web
    r"|\+[0-9][0-9 ()/-]{6,20}"  # telephone numbers
)
_PEOPLE = frozenset(
    {*("recipient", "to", "cc", "bcc", "email", "mail", "participant", "attendee", "invitee")}
    | {*("payee", "beneficiary", "iban", "phone", "webhook")}
)
_CREDENTIALS = frozenset({"password", "passwd", "passphrase", "pin", "secret", "credential", "token"})


def identities_in(argument: str, values: Sequence[JsonValue]) -> tuple[tuple[str, ...], bool]:
    """Return the identities that an argument's values are, each as often as seen, and whether they are lists.

    They are that if it is named so, or if most of them look so. Nothing where one cannot be, or where
    they are too many.
    """
    lists = [value for value in values if isinstance(value, list)]
    found = [item for value in lists for item in value] if lists else list(values)
    texts = tuple(item for item in found if isinstance(item, str) and _plain(item))
    mixed = bool(lists) and len(lists) < len(values)
    if mixed or not texts or len(texts) < len(found) or len(set(texts)) > _MOST:
        return (), False
    alike = sum(_SHAPES.fullmatch(text) is not None for text in texts)
    meant = _last_word(argument) in _PEOPLE or 2 * alike > len(texts)
    return (texts, bool(lists)) if meant else ((), False)


def names_credential(argument: str) -> bool:
    """Whether an argument is named like a password or the like."""
    return _last_word(argument) in _CREDENTIALS


def _plain(text: str) -> bool:
    return 0 < len(text) <= _LONGEST and text.isprintable()


def _last_word(argument: str) -> str:
    """Return the last word of a name in snake_case, kebab-case or camelCase: lower case, singular."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", argument)
    return words[-1].lower().removesuffix("s") if words else ""
