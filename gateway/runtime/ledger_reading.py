"""The ledger's folder as a reader meets it: names, the checkpoint, lines in order. Writes nothing.

    STATE/audit.key                  the key of every hmac in the ledger, 32 bytes in hex
    STATE/audit/00000001.jsonl ...   records; the chain goes on from file to file
    STATE/audit/checkpoint           where the chain stood after the last acknowledged record

A record is acknowledged only once the checkpoint knows it, so a log that ends before its checkpoint was
cut, and what stands behind the checkpoint and is broken was never promised to anybody.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

from gateway.core.chain import GENESIS, BrokenRecord, Chain, parse_record
from gateway.core.json_encoding import quote
from gateway.core.json_types import JsonObject
from gateway.core.records import Event, hmac_sha256
from gateway.core.strict_json import StrictJsonError, canonical, loads

__all__ = [
    "CHECKPOINT",
    "CHECKPOINT_BYTES",
    "Checkpoint",
    "CheckpointError",
    "Line",
    "ScannedLine",
    "ledger_files",
    "read_checkpoint",
    "read_key",
    "read_lines",
    "scan",
]

CHECKPOINT = "checkpoint"
CHECKPOINT_BYTES = 512
"""Fixed size of the checkpoint: one sector, so that rewriting it in place never tears it."""

KEY_FILE = "audit.key"
KEY_BYTES = 32


def read_key(state_dir: Path) -> bytes | None:
    """Return the ledger's key, or `None` if the folder has none. Raises `ValueError` if it is damaged."""
    try:
        text = (state_dir / KEY_FILE).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    key = bytes.fromhex(text)
    if len(key) != KEY_BYTES:
        raise ValueError(f"{len(key)} bytes where {KEY_BYTES} belong")
    return key


def ledger_files(audit: Path) -> list[Path]:
    """Return the files with records, oldest first."""
    return sorted(audit.glob("*.jsonl"))


class CheckpointError(ValueError):
    """The checkpoint is missing, damaged or not made with the ledger's key."""


class Checkpoint(NamedTuple):
    """Where the chain stood after the last acknowledged record.

    `seq` and `hash` are that record's (0 and `GENESIS` before the first); `file` and `size` say where its
    line ends; `open_from` is the oldest decision without an outcome; `clean` that the writer closed.
    """

    seq: int = 0
    hash: str = GENESIS
    file: str = ""
    size: int = 0
    open_from: int | None = None
    clean: bool = False

    def encode(self, key: bytes) -> bytes:
        """Return the checkpoint as it stands on disk, `CHECKPOINT_BYTES` long."""
        # The canonical JSON of the fields, written out: this is made for every commit.
        clean = "true" if self.clean else "false"
        open_from = "null" if self.open_from is None else self.open_from
        text = (
            f'{{"clean":{clean},"file":{quote(self.file)},"hash":{quote(self.hash)},'
            f'"open_from":{open_from},"seq":{self.seq},"size":{self.size}'
        )
        signed = f'{text},"hmac":"{hmac_sha256(key, text.encode() + b"}")}"}}'
        return signed.encode().ljust(CHECKPOINT_BYTES - 1) + b"\n"


def read_checkpoint(audit: Path, key: bytes | None) -> Checkpoint:
    """Return the folder's checkpoint; raises `CheckpointError`. Without `key` its hmac is not checked."""
    try:
        fields = loads((audit / CHECKPOINT).read_bytes())
    except FileNotFoundError:
        raise CheckpointError("the checkpoint is missing") from None
    except StrictJsonError as error:
        raise CheckpointError(f"the checkpoint is damaged: {error}") from None
    mac = fields.pop("hmac", None) if isinstance(fields, dict) else None
    match fields:
        case {
            "seq": int(seq),
            "hash": str(hash_),
            "file": str(file),
            "size": int(size),
            "open_from": None | int() as open_from,
            "clean": bool(clean),
        }:
            checkpoint = Checkpoint(seq, hash_, file, size, cast("int | None", open_from), clean)
        case _:
            raise CheckpointError("the checkpoint is damaged: a field is missing")
    if key is not None and not hmac.compare_digest(hmac_sha256(key, canonical(fields)), str(mac)):
        raise CheckpointError("the checkpoint was changed: its hmac does not match the ledger's key")
    return checkpoint


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the ledger; `number` counts from 1, `offset` is in bytes. `data` includes the newline."""

    file: Path
    number: int
    offset: int
    data: bytes


def read_lines(files: Sequence[Path]) -> Iterator[Line]:
    """Yield the lines of `files` in order, but for those a `recovered` record declares void."""
    void = _void_after(files)
    for file in files:
        yield from _lines_of(file, void.get(file.name))


def _lines_of(file: Path, end: int | None) -> Iterator[Line]:
    offset = 0
    with file.open("rb") as stream:
        for number, data in enumerate(stream, 1):
            if end is not None and offset >= end:
                return
            yield Line(file, number, offset, data)
            offset += len(data)


def _void_after(files: Sequence[Path]) -> dict[str, int]:
    """Return up to which byte each failed file counts, as told by the files that replaced them."""
    void: dict[str, int] = {}
    for file in files:
        with file.open("rb") as stream:
            first = stream.readline()
        try:
            record = parse_record(first)
        except BrokenRecord:
            continue  # reported with its line when the file itself is read
        told = record.get("void_after")
        if record.get("event") == Event.RECOVERED and isinstance(told, dict):
            void.update({name: end for name, end in told.items() if isinstance(end, int)})
    return void


@dataclass(frozen=True, slots=True)
class ScannedLine:
    """A line with its record, or with what is wrong with it."""

    line: Line
    record: JsonObject | None
    broken: BrokenRecord | None


def scan(files: Sequence[Path], chain: Chain) -> Iterator[ScannedLine]:
    """Yield every line of `files`, checked against `chain`, which moves along and past broken lines."""
    for line in read_lines(files):
        try:
            yield ScannedLine(line, chain.check(line.data), None)
        except BrokenRecord as broken:
            chain.resume_after(line.data)
            yield ScannedLine(line, None, broken)
