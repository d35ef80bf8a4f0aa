"""The hash chain that binds the ledger's records, line by line. Pure.

A line is a record's compact JSON. `hash = SHA-256(prev || canonical JSON of the record without prev and
hash)`, both hashes in lowercase hex; the first record's `prev` is `GENESIS`. Canonical JSON is
compact UTF-8 with sorted keys.
"""

from __future__ import annotations

import hashlib

from gateway.core.json_encoding import dumps, encode_sorted
from gateway.core.json_types import JsonObject
from gateway.core.record_forms import record_forms
from gateway.core.strict_json import JsonLimits, StrictJsonError, loads

__all__ = ["GENESIS", "BrokenRecord", "Chain", "parse_record"]

GENESIS = "0" * 64
"""The `prev` of the first record."""


class BrokenRecord(ValueError):
    """A line that is not the next record of its chain; `code` names how."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


_LINE_LIMITS = JsonLimits(max_bytes=64_000_000, max_depth=80, max_keys=1_000_000, max_values=16_000_000)
_HASHES = ("prev", "hash")


class Chain:
    """The end of a chain: `seq` is the next record's number, `prev` the hash of the last one."""

    __slots__ = ("prev", "seq")

    def __init__(self, seq: int = 1, prev: str = GENESIS) -> None:
        self.seq = seq
        self.prev = prev

    def copy(self) -> Chain:
        """Return a chain that stands at the same place and moves on its own."""
        return Chain(self.seq, self.prev)

    def seal(self, body: JsonObject, ts: float, boot_id: str) -> bytes:
        """Return `body` as the chain's next line (newline included) and move on.

        `ts` is in unix seconds. Raises `ValueError` or `TypeError`, without moving, for what is not JSON.
        """
        own, ordered = record_forms(self.seq, round(ts, 6), boot_id, body)
        digest = _digest(self.prev, ordered)
        line = f'{own[:-1]},"prev":"{self.prev}","hash":"{digest}"}}\n'.encode()
        self.seq, self.prev = self.seq + 1, digest
        return line

    def check(self, line: bytes) -> JsonObject:
        """Return the record of `line` if it is the chain's next, and move on; raises `BrokenRecord`."""
        record = parse_record(line)
        rest = {name: value for name, value in record.items() if name not in _HASHES}
        if (
            record["hash"] != _digest(str(record["prev"]), encode_sorted(rest))
            or dumps(record) + b"\n" != line
        ):
            raise BrokenRecord("changed", "the record was changed: its hash does not match")
        if record["seq"] != self.seq:
            raise BrokenRecord("order", f"record {record['seq']} stands where record {self.seq} belongs")
        if record["prev"] != self.prev:
            raise BrokenRecord("chain", "the record does not follow from the one before it")
        self.seq, self.prev = self.seq + 1, str(record["hash"])
        return record

    def resume_after(self, line: bytes) -> None:
        """Go on behind a broken line as it names itself, so that what follows can still be checked."""
        try:
            record = parse_record(line)
        except BrokenRecord:
            self.seq += 1
        else:
            self.seq, self.prev = int(str(record["seq"])) + 1, str(record["hash"])


def _digest(prev: str, ordered: str) -> str:
    return hashlib.sha256(f"{prev}{ordered}".encode()).hexdigest()


def parse_record(line: bytes) -> JsonObject:
    """Return the record of a line as it stands, unchecked; raises `BrokenRecord` if it is none."""
    if not line.endswith(b"\n"):
        raise BrokenRecord("torn", "the line is not finished")
    try:
        record = loads(line, _LINE_LIMITS)
    except StrictJsonError as error:
        raise BrokenRecord("not_json", f"not a record: {error}") from None
    match record:
        case {"seq": int(), "prev": str(), "hash": str()}:
            return record
        case _:
            raise BrokenRecord("not_record", "not a record: seq, prev or hash is missing")
