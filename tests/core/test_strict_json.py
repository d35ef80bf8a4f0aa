"""The strict gate: what it refuses, what it keeps exactly, and that nothing else ever comes out of it."""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.core.json_types import JsonValue
from gateway.core.strict_json import MAX_UNICODE_KEY, JsonLimits, StrictJsonError, canonical, dumps, loads

PADDING = '"' + "x" * 3000 + '"'
"""Makes a text long enough for the road that long texts take."""

REFUSED: dict[str, str | bytes] = {
    "byte order mark": b'\xef\xbb\xbf{"a":1}',
    "byte order mark in text": '\ufeff{"a":1}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "UTF-16 without mark": '{"a":1}'.encode("utf-16-le"),
    "UTF-32": '{"a":1}'.encode("utf-32-be"),
    "Latin-1": b'{"a":"\xe9"}',
    "overlong UTF-8": b'{"a":"\xc0\xaf"}',
    "surrogate in UTF-8": b'{"a":"\xed\xa0\x80"}',
    "duplicate key": '{"a":1,"a":2}',
    "duplicate key, escaped": '{"a":1,"\\u0061":2}',
    "duplicate key, deep": '{"x":[{"y":{"a":1,"b":2,"a":1}}]}',
    "duplicate empty key": '{"":1,"":2}',
    "keys equal but for case": '{"path":1,"Path":2}',
    "keys equal but for case, deep": '[[{"q":{"PATH":1,"path":2}}]]',
    "keys equal after case folding": '{"straße":1,"STRASSE":2}',
    "keys equal: Kelvin sign": '{"k":1,"\u212a":2}',
    "keys equal: long s": '{"s":1,"\u017f":2}',
    "keys equal: composed and decomposed": '{"\u00e9":1,"e\u0301":2}',
    "keys equal: fullwidth": '{"path":1,"\uff50\uff41\uff54\uff48":2}',
    "keys equal: ligature": '{"file":1,"\ufb01le":2}',
    "keys equal: fold and normalise": '{"\u0345\u03b1":1,"\u03b9\u03b1":2}',
    "NaN": '{"a":NaN}',
    "Infinity": "[Infinity]",
    "negative Infinity": "[-Infinity]",
    "float overflow": "[1e999]",
    "negative float overflow": "[-1e999]",
    "float overflow without exponent": "[" + "9" * 400 + ".0]",
    "lone high surrogate": '"\\ud800"',
    "lone low surrogate": '["\\uDC00"]',
    "swapped surrogates": '"\\udc00\\ud800"',
    "lone surrogate in a key": '{"\\udfff":1}',
    "lone surrogate in text": '"\ud800"',
    "NUL in a key": '{"a\\u0000":1}',
    "control character in a key": '{"a\\u001b[2J":1}',
    "newline in a key": '{"a\\n":1}',
    "DEL in a key": '{"a\x7f":1}',
    "C1 control in a key": '{"a\\u0085":1}',
    "raw control character": '"a\x01"',
    "something after the value": '{"a":1} {"b":2}',
    "bracket after the value": "[1]]",
    "NUL after the value": "1\x00",
    "nothing": "",
    "only space": " \n",
    "unfinished": '{"a":',
    "single quotes": "{'a':1}",
    "comment": "/* */ 1",
    "trailing comma": "[1,]",
    "leading zero": "[01]",
    "plus sign": "[+1]",
    "hexadecimal": "[0x10]",
    "bare word": "yes",
    "non-ASCII digits": "[\u0661]",
    "no-break space": "\u00a01",
    "too deep": "[" * 65 + "]" * 65,
    "too deep in objects": '{"a":' * 65 + "1" + "}" * 65,
    "too deep behind decoys": '["]]]]",' * 65 + "1" + "]" * 65,
    "very deep": "[" * 200_000,
    "very deep in objects": '{"a":' * 100_000,
    "number too long": "1" * 4001,
    "negative number too long": "-" + "1" * 5000,
    "number beyond the interpreter": "[" + "7" * 100_000 + "]",
    "fraction too long": "0." + "1" * 4001,
    "key too long to normalise": json.dumps({"\u0301\u0323" * MAX_UNICODE_KEY: 1}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str) -> None:
    with pytest.raises(StrictJsonError):
        loads(REFUSED[name])


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_the_same_within_a_long_text(name: str) -> None:
    text = REFUSED[name]
    if isinstance(text, bytes):
        wrapped: str | bytes = b"[" + PADDING.encode() + b"," + text + b"]"
    else:
        wrapped = f"[{PADDING},{text}]"
    with pytest.raises(StrictJsonError):
        loads(wrapped)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[" * 65 + "]" * 65, "too_deep"),
        ("[" * 200_000, "too_deep"),
        ("1" * 4001, "too_large"),
        ("[0," + " " * 4_000_000 + "1]", "too_large"),
        ("{", "invalid"),
        ('{"a":1,"a":1}', "invalid"),
    ],
)
def test_a_refusal_says_in_one_word_why(text: str, code: str) -> None:
    with pytest.raises(StrictJsonError) as caught:
        loads(text)
    assert caught.value.code == code


def test_a_byte_order_mark_is_named_as_such() -> None:
    with pytest.raises(StrictJsonError, match="byte order mark"):
        loads(b"\xef\xbb\xbf1")


def test_a_refusal_never_quotes_a_value() -> None:
    for text in ('{"token":"hunter2","token":"hunter2"}', '["hunter2" x]', '"hunter2\\ud800"', "hunter2"):
        with pytest.raises(StrictJsonError) as caught:
            loads(text)
        assert "hunter2" not in str(caught.value)


ACCEPTED: dict[str, tuple[str, JsonValue]] = {
    "21 digits": ("123456789012345678901", 123456789012345678901),
    "4000 digits": ("9" * 4000, 10**4000 - 1),
    "negative 21 digits": ("[-123456789012345678901]", [-123456789012345678901]),
    "exactly 64 levels": ("[" * 64 + "]" * 64, None),
    "many brackets in a string": ('["' + "[{" * 500 + '"]', ["[{" * 500]),
    "many siblings": ("[" + ",".join(["[{}]"] * 500) + "]", [[{}] for _ in range(500)]),
    "surrogate pair": ('"\\ud83d\\ude00"', "\U0001f600"),
    "escaped backslash before u": ('"\\\\ud800"', "\\ud800"),
    "control characters in a value": ('"\\u0000\\u001b"', "\x00\x1b"),
    "long digits in a string": ('["' + "1" * 5000 + '", 1]', ["1" * 5000, 1]),
    "keys that differ": ('{"a":1,"b":2,"A_":3}', {"a": 1, "b": 2, "A_": 3}),
    "upper-case keys": ('{"inputSchema":1,"outputSchema":2}', {"inputSchema": 1, "outputSchema": 2}),
    "keys that join alike": ('{"ab":1,"c":2,"x":{"a":1,"bc":2}}', {"ab": 1, "c": 2, "x": {"a": 1, "bc": 2}}),
    "same key in sibling objects": ('[{"a":1},{"A":1}]', [{"a": 1}, {"A": 1}]),
    "space around": (" \t\r\n1 \n", 1),
    "underflow": ("1e-999", 0.0),
    "minus zero": ("-0", 0),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_keeps_exactly(name: str) -> None:
    text, value = ACCEPTED[name]
    result = loads(text)
    assert result == (json.loads(text) if value is None else value)
    assert loads(text.encode()) == result


def test_integers_beyond_64_bits_are_forwarded_digit_by_digit() -> None:
    text = b'{"n":18446744073709551617,"m":-170141183460469231731687303715884105729}'
    assert dumps(loads(text)) == text


def test_integers_stay_integers_and_floats_stay_floats() -> None:
    assert [type(item) for item in loads("[1, 1.0, 1e2, true]")] == [int, float, float, bool]  # type: ignore[union-attr]


def test_what_is_forwarded_is_compact_utf8() -> None:
    assert dumps(loads('{ "b" : 1.10, "a" : "\\u00e9\\/" }')) == '{"b":1.1,"a":"é/"}'.encode()


def test_canonical_form_does_not_depend_on_order() -> None:
    assert canonical(loads('{"b":[1,{"z":1,"y":2}],"a":0}')) == b'{"a":0,"b":[1,{"y":2,"z":1}]}'


def test_long_texts_are_written_as_short_ones_are() -> None:
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    for text in (every, '\x00\x1f"\\\n\x7f' * 1_000):
        values: list[Any] = [text, {"b": [{"text": text}], "a": 1}, [[[[[[[text]]]]]]], {text: [text, 1e16]}]
        for value in values:
            own = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            assert dumps(value).decode() == own
            sorted_ = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
            assert canonical(value).decode() == sorted_


def test_half_a_surrogate_pair_in_a_long_text_is_refused() -> None:
    with pytest.raises(StrictJsonError, match="surrogate"):
        loads('{"text":"' + "x" * 5_000 + '\\ud800"}')


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", "x" * 5_000 + "\ud800"])
def test_never_writes_what_it_would_refuse(value: JsonValue) -> None:
    for write in (dumps, canonical):
        with pytest.raises(ValueError, match=r"JSON|surrogate"):
            write([value])


def test_each_limit_is_exact() -> None:
    limits = JsonLimits(max_bytes=200, max_depth=3, max_keys=4, max_digits=5)
    for text in (
        "[[[1]]]",
        '{"a":1,"b":{"c":1,"d":1}}',
        "12345",
        "1.12345e12345"[:7],
        '"' + "x" * 198 + '"',
        '"é"',
    ):
        loads(text, limits)
    for text, code in {
        "[[[[1]]]]": "too_deep",
        '{"a":{"a":{"a":{}}}}': "too_deep",
        '{"a":1,"b":{"c":1,"d":1,"e":1}}': "too_large",
        '[{"a":1},{"a":1},{"a":1},{"a":1},{"a":1}]': "too_large",
        "123456": "too_large",
        "[1.123456]": "too_large",
        '"' + "x" * 199 + '"': "too_large",
        '"' + "é" * 100 + '"': "too_large",
    }.items():
        for form in (text, text.encode()):
            with pytest.raises(StrictJsonError) as caught:
                loads(form, limits)
            assert caught.value.code == code, text


def test_a_deep_text_is_refused_from_a_deep_stack_too() -> None:
    def descend(levels: int) -> str:
        if levels:
            return descend(levels - 1)
        with pytest.raises(StrictJsonError) as caught:
            loads("[" * 5000 + "]" * 5000)
        return caught.value.code

    depth = sys.getrecursionlimit() - len(_frames()) - 120
    assert descend(depth) == "too_deep"


def _frames() -> list[object]:
    frames: list[object] = []
    frame: Any = sys._getframe()  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({("\u0301\u0323" * 127) + str(i): 0 for i in range(4000)}, ensure_ascii=False),
        "[" + ",".join(["9" * 4000] * 900) + "]",
        '{"a":' * 300_000,
        json.dumps({f"Key{i}": i for i in range(90_000)}),
    ],
    ids=["combining marks", "long integers", "depth", "keys"],
)
def test_no_text_of_the_allowed_size_takes_long(text: str) -> None:
    start = time.process_time()
    with suppress(StrictJsonError):
        loads(text)
    assert time.process_time() - start < 3


# --- properties ---

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
any_values: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)
plain_keys = st.text(st.characters(categories=["Ll", "Nd"], max_codepoint=0x2FF))
clean_values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.lists(st.tuples(plain_keys, inner), unique_by=lambda pair: _folded(pair[0])).map(dict)
    ),
    max_leaves=20,
)


def _folded(key: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", key).casefold())
    return unicodedata.normalize("NFKC", folded.casefold())


@given(clean_values)
def test_what_is_written_is_read_back_equal(value: JsonValue) -> None:
    for data in (dumps(value), canonical(value)):
        assert loads(data) == value
        assert loads(data.decode()) == value


@given(any_values, st.booleans(), st.booleans())
def test_a_text_that_passes_means_the_same_to_the_standard_parser(
    value: Any, ascii_only: bool, long: bool
) -> None:
    text = json.dumps([value, PADDING] if long else value, ensure_ascii=ascii_only)
    try:
        result = loads(text)
    except StrictJsonError:
        return
    assert result == json.loads(text)
    assert dumps(result).decode() == json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))


pieces = st.sampled_from(
    [
        *'{}[]:,"\\ \n\x00\x7f',
        '"a"',
        '"A"',
        "1",
        "-0",
        "1e999",
        ".5",
        "NaN",
        "null",
        "\\ud800",
        "\\u0061",
        "é",
        "\ud800",
        "{",
        "[",
    ]
)


@settings(max_examples=300)
@given(st.lists(pieces, max_size=40).map("".join) | st.text() | st.binary())
@example(b"\xff")
@example("[" * 100_000)
@example('{"":' * 50_000)
def test_no_input_raises_anything_else(data: str | bytes) -> None:
    try:
        result = loads(data)
    except StrictJsonError:
        return
    assert loads(dumps(result)) == result


@given(any_values.filter(lambda value: isinstance(value, dict | list)), st.integers(1, 6))
def test_the_depth_limit_is_exact(value: Any, limit: int) -> None:
    text = json.dumps(value)
    limits = JsonLimits(max_depth=limit)
    code = None
    try:
        loads(text, limits)
    except StrictJsonError as refusal:
        code = refusal.code
    # A text may be refused for its keys before its depth is looked at.
    assert code in ({"too_deep", "invalid"} if _depth(value) > limit else {None, "invalid"})


def _depth(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    items: Any = value.values() if isinstance(value, dict) else value  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    return 1 + max(map(_depth, items), default=0)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("[0,0,0,0]", False),
        ("[0,0,0,0,0]", True),
        ("[[],[],{},[],[]]", True),
        ('[[0,0],{"a":[0,0],"b":0}]', True),
        ('["a,b,c,d,e,f,g,h,i"]', False),
        (r'["a,\",\\,d,e",0]', False),
        (r'["a,\"",0,0,0,0,"\\"]', True),
        ('{"a":0,"b":"1,2,3,4,5","c":0}', False),
    ],
)
def test_values_are_counted_and_not_the_commas_of_texts(text: str, refused: bool) -> None:
    limits = JsonLimits(max_values=4)
    if not refused:
        assert loads(text, limits) == json.loads(text)
        return
    with pytest.raises(StrictJsonError, match="more than 4 values") as caught:
        loads(text, limits)
    assert caught.value.code == "too_large"
