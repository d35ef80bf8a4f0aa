"""The framer cuts lines out of anything a server prints and never keeps more than its cap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.runtime.framing import LineFramer, TooLong, answered_id


def test_lines_come_out_whole_however_they_arrive() -> None:
    framer = LineFramer(100)
    assert list(framer.feed(b'{"a"')) == []
    assert list(framer.feed(b':1}\n{"b":2}\r\n\n  \n{"c"')) == [b'{"a":1}', b'{"b":2}', b"", b""]
    assert list(framer.feed(b":3}\n")) == [b'{"c":3}']


def test_a_line_of_exactly_the_cap_passes_and_one_more_byte_does_not() -> None:
    assert list(LineFramer(4).feed(b"abcd\n")) == [b"abcd"]
    assert list(LineFramer(4).feed(b"abcde\n")) == [TooLong(b"abcd", b"bcde", 5)]


def test_an_endless_line_is_dropped_as_it_comes_and_the_next_line_is_whole() -> None:
    framer = LineFramer(1000)
    for _ in range(1000):
        assert list(framer.feed(b'{"id":7' + b"x" * 993)) == []
    assert framer.dropped > 999_000
    frames = list(framer.feed(b"end\nnext\n"))
    assert framer.dropped == 0
    assert isinstance(frames[0], TooLong)
    assert frames[0].head.startswith(b'{"id":7')
    assert frames[0].length == 1_000_003
    assert frames[1:] == [b"next"]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (b'{"jsonrpc":"2.0","id":7,"result":{"id":9}}', 7),
        (b'{"id": 7 , "jsonrpc":"2.0"}', 7),
        (b'{"result":{"id":9},"jsonrpc":"2.0","id":7}', 7),
        (b'{"result":{"id":9},"id":7,"jsonrpc":"2.0"}', 7),
        (b'{"result":{"id":9}}', None),
        (b"{not json", None),
        (b'INFO {"id":7,', None),
        (b'{"id":"7","result":{}}', None),
    ],
)
def test_an_unreadable_answer_names_its_request_where_libraries_write_it(
    line: bytes, named: int | None
) -> None:
    assert answered_id(line, line) == named


@given(
    st.lists(st.binary(min_size=1, max_size=40).map(lambda b: b.replace(b"\n", b"x")), max_size=20), st.data()
)
def test_how_bytes_are_split_never_changes_the_frames(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    whole = LineFramer(25).feed(stream)
    framer, rest = LineFramer(25), stream
    pieces: list[bytes | TooLong] = []
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        pieces += framer.feed(rest[:size])
        rest = rest[size:]
    assert [_key(frame) for frame in pieces] == [_key(frame) for frame in whole]


def _key(frame: bytes | TooLong) -> tuple[int, bytes]:
    return (frame.length, frame.head + frame.tail) if isinstance(frame, TooLong) else (0, frame)
