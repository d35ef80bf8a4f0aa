"""The one gate for foreign JSON. What passes is plain, unambiguous data; nothing is repaired.

Two parsers that read one text differently are a way around a policy, so the gate refuses every text
on which parsers are known to differ: anything but UTF-8, a byte order mark, duplicate keys, keys
of one object that are equal after case folding or Unicode normalisation, numbers that are not
finite, lone surrogates, control characters in keys, text after the value, and anything deeper or
larger than `JsonLimits`. What is forwarded is always `dumps(loads(text))`, never the text.

Fast because the C scanner parses, and each check that would walk the value is skipped where a scan of
the text at C speed shows that it cannot fail.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NoReturn, TypeAlias, cast

from gateway.core.json_encoding import canonical, dumps, encode
from gateway.core.json_types import JsonObject, JsonValue

__all__ = [
    "MAX_UNICODE_KEY",
    "JsonLimits",
    "StrictJsonError",
    "StrictJsonErrorCode",
    "canonical",
    "dumps",
    "loads",
]

StrictJsonErrorCode: TypeAlias = Literal["invalid", "too_large", "too_deep"]


@dataclass(frozen=True, slots=True)
class JsonLimits:
    """What one text may hold; each limit is at least 1.

    `max_bytes` of UTF-8, `max_depth` levels of arrays and objects (a scalar has none), `max_keys` over all
    objects of the text, `max_values` over all its arrays and objects, by their commas (a few million would
    keep everybody waiting), `max_digits` digits in a row of one number. Integers beyond the interpreter's
    own limit (4300 unless configured) are refused as well.
    """

    max_bytes: int = 4_000_000
    max_depth: int = 64
    max_keys: int = 100_000
    max_values: int = 1_000_000
    max_digits: int = 4_000


class StrictJsonError(ValueError):
    """The text is refused. `code` says why in one word; the message never quotes a value."""

    def __init__(self, message: str, code: StrictJsonErrorCode = "invalid") -> None:
        self.code: StrictJsonErrorCode = code
        super().__init__(message)


MAX_UNICODE_KEY = 256
"""Longest key, in characters, beyond ASCII: normalisation takes quadratic time for some keys."""

_DEFAULT = JsonLimits()


def loads(data: bytes | str, limits: JsonLimits = _DEFAULT) -> JsonValue:
    """Return the value of one JSON text. Raises `StrictJsonError` and nothing else.

    Integers keep every digit; a number with a fraction or an exponent is a float.
    """
    text = _text(data, limits)
    _check_number(text, limits)
    try:
        value = _decoder_for(text, limits)(text)
    except json.JSONDecodeError as error:
        raise StrictJsonError(f"not JSON: {error}") from None
    except StrictJsonError:
        raise
    except ValueError:  # the interpreter's own limit on digits, where it is below ours
        raise StrictJsonError("a number has too many digits", "too_large") from None
    except RecursionError:
        raise StrictJsonError("nested too deeply", "too_deep") from None
    if _has_more_openers(text, limits.max_depth):
        _check_depth(value, limits.max_depth)
    if "\\" in text and _SURROGATE_ESCAPE.search(text):
        _check_surrogates(value)
    return value


_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_DIGITS = frozenset("0123456789")
_LONG_TEXT = 2_000
"""From this many characters on, a decoder of its own pays."""


def _text(data: bytes | str, limits: JsonLimits) -> str:
    """Return the text, of proper size and encoding."""
    if len(data) > limits.max_bytes:
        raise _too_large(limits)
    if isinstance(data, str):
        text = data
        if not data.isascii() and len(_utf8(data)) > limits.max_bytes:
            raise _too_large(limits)
    else:
        try:
            text = str(data, "utf-8")
        except UnicodeDecodeError as error:
            raise StrictJsonError(f"not UTF-8: byte {error.start} is not part of a character") from None
    if text.startswith("\ufeff"):
        raise StrictJsonError("a byte order mark is not part of JSON")
    return text


def _too_large(limits: JsonLimits) -> StrictJsonError:
    return StrictJsonError(f"larger than {limits.max_bytes} bytes", "too_large")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise StrictJsonError("half of a surrogate pair") from None


def _decoder_for(text: str, limits: JsonLimits) -> Callable[[str], Any]:
    """Return the cheapest decoder that holds `text` to `max_keys` and `max_digits`."""
    if _may_have_more_keys(text, limits.max_keys) or _has_long_run(text, limits.max_digits):
        return _counting_decoder(limits)
    return _decode if len(text) < _LONG_TEXT else _remembering_decoder()


def _may_have_more_keys(text: str, limit: int) -> bool:
    """Whether `text` has colons for more than `limit` keys; the shortest key and value are `"":0,`."""
    return len(text) > 4 * limit and text.count(":") > limit


def _has_more_openers(text: str, limit: int) -> bool:
    """Whether more than `limit` brackets open, also in strings."""
    return len(text) > 2 * limit and _count(text, "[", limit) + _count(text, "{", limit) > limit


def _count(text: str, char: str, limit: int) -> int:
    """Return how often `char` stands in `text`, or one more than `limit`; `find` skips what lies between."""
    found, at = 0, text.find(char)
    while at >= 0 and found <= limit:
        found, at = found + 1, text.find(char, at + 1)
    return found


def _has_long_run(text: str, limit: int) -> bool:
    """Whether more than `limit` digits stand in a row anywhere, also in a string.

    Such a run covers one of the characters sampled at a stride of `limit`, so few are looked at.
    """
    return len(text) > limit and any(
        char in _DIGITS and _run_around(text, index, limit) > limit
        for index, char in zip(range(0, len(text), limit), text[::limit], strict=True)
    )


def _run_around(text: str, index: int, limit: int) -> int:
    before, after = text[max(0, index - limit) : index], text[index : index + limit + 1]
    return len(before) - len(before.rstrip("0123456789")) + len(after) - len(after.lstrip("0123456789"))


def _refuse_constant(name: str) -> NoReturn:
    raise StrictJsonError(f"{name} is not JSON")


def _finite(literal: str) -> float:
    number = float(literal)
    if not math.isfinite(number):
        raise StrictJsonError("a number is beyond the range of a double")
    return number


def _object(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    """Build one object, or refuse its keys."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise StrictJsonError("an object has the same key twice")
    _check_keys(result)
    return result


def _short_object(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    """Build one object of a short text, or refuse its keys; most have keys that were seen before."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise StrictJsonError("an object has the same key twice")
    _check_known_keys(tuple(result))
    return result


@lru_cache(maxsize=1024)
def _check_known_keys(keys: tuple[str, ...]) -> None:
    """Refuse keys as `_check_keys` does; remembers those of short texts only, so it stays small."""
    _check_keys(keys)


def _check_keys(keys: Collection[str]) -> None:
    """Refuse keys with control characters, and keys that another program may take for the same."""
    joined = "".join(keys)
    if not joined.isascii():
        _check_unicode_keys(keys)
    elif not joined.isprintable():
        raise StrictJsonError("a key has a control character")
    elif joined.lower() != joined and len(set(map(str.lower, keys))) != len(keys):
        raise StrictJsonError("two keys of an object differ only by case")


def _check_unicode_keys(keys: Iterable[str]) -> None:
    seen: set[str] = set()
    for key in keys:
        if len(key) > MAX_UNICODE_KEY and not key.isascii():
            raise StrictJsonError(f"a key is longer than {MAX_UNICODE_KEY} characters", "too_large")
        if any(unicodedata.category(char) == "Cc" for char in key):
            raise StrictJsonError("a key has a control character")
        folded = _fold(key)
        if folded in seen:
            raise StrictJsonError("two keys of an object differ only by case or Unicode normalisation")
        seen.add(folded)


def _fold(key: str) -> str:
    """Return the key's form for compatibility caseless matching (Unicode 3.13, D146)."""
    once = unicodedata.normalize("NFKD", unicodedata.normalize("NFD", key).casefold())
    return unicodedata.normalize("NFKD", once.casefold())


def _decoder(
    build_object: Callable[[list[tuple[str, Any]]], Any],
    parse_int: Callable[[str], Any] | None = None,
    parse_float: Callable[[str], Any] = _finite,
) -> Callable[[str], Any]:
    decoder: Any = json.JSONDecoder(
        object_pairs_hook=build_object,
        parse_int=parse_int,
        parse_float=parse_float,
        parse_constant=_refuse_constant,
    )
    scan: Callable[[str, int], tuple[Any, int]] = decoder.scan_once

    def decode(text: str) -> Any:
        # Nearly every text is a value and nothing around it; `decode` looks for blanks in Python.
        try:
            value, end = scan(text, 0)
        except StopIteration:
            return decoder.decode(text)
        return value if end == len(text) else decoder.decode(text)

    return decode


_decode = _decoder(_short_object)


def _remembering_decoder() -> Callable[[str], Any]:
    """Return a decoder for one long text: objects with the same keys in the same order are checked once."""
    checked: set[tuple[str, ...]] = set()

    def build_object(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise StrictJsonError("an object has the same key twice")
        keys = tuple(result)
        if keys not in checked:
            _check_keys(keys)
            checked.add(keys)
        return result

    return _decoder(build_object)


def _counting_decoder(limits: JsonLimits) -> Callable[[str], Any]:
    """Return a decoder that counts keys and digits exactly: for the few texts that may have too many."""
    keys = 0

    def build_object(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
        nonlocal keys
        keys += len(pairs)
        if keys > limits.max_keys:
            raise StrictJsonError(f"more than {limits.max_keys} keys", "too_large")
        return _object(pairs)

    def checked(literal: str) -> str:
        if _has_long_run(literal, limits.max_digits):
            raise StrictJsonError(f"a number has more than {limits.max_digits} digits in a row", "too_large")
        return literal

    return _decoder(build_object, lambda text: int(checked(text)), lambda text: _finite(checked(text)))


def _check_number(text: str, limits: JsonLimits) -> None:
    """Refuse too many values or keys before they are made; commas and colons in strings are none."""
    values = len(text) > 2 * limits.max_values and text.count(",") >= limits.max_values
    keys = _may_have_more_keys(text, limits.max_keys)
    bare = _STRING.sub("", text) if values or keys else ""
    if bare.count(",") >= limits.max_values:
        raise StrictJsonError(f"more than {limits.max_values} values", "too_large")
    if bare.count(":") > limits.max_keys:
        raise StrictJsonError(f"more than {limits.max_keys} keys", "too_large")


def _check_depth(value: JsonValue, limit: int) -> None:
    """Refuse what is nested deeper than `limit`, level by level and without recursion."""
    level = [value] if isinstance(value, dict | list) else []
    depth = 0
    while level:
        depth += 1
        if depth > limit:
            raise StrictJsonError(f"nested deeper than {limit} levels", "too_deep")
        level = _containers_in(level)


def _containers_in(level: list[Any]) -> list[Any]:
    return [
        item
        for container in level
        for item in cast("Iterable[Any]", container.values() if type(container) is dict else container)
        if type(item) is dict or type(item) is list
    ]


def _check_surrogates(value: JsonValue) -> None:
    """Refuse half a surrogate pair in any key or string: such text has no UTF-8 form."""
    _utf8(encode(value))
