"""The ledger's files as their one writer holds them: start, commit, rotate, recover. Blocking; no waiting.

Every method runs in one thread at a time. After a write or sync error the descriptor is given up for
good: the kernel may have dropped the dirty pages, so a second sync that succeeds would prove nothing.
The next commit opens a new file with a `recovered` record.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from gateway.core.chain import BrokenRecord, Chain, parse_record
from gateway.core.json_types import JsonObject
from gateway.core.records import Event, recovered_record, unknown_outcome
from gateway.errors import LedgerError, StateInUse, UsageError
from gateway.runtime.ledger_reading import (
    CHECKPOINT,
    KEY_BYTES,
    KEY_FILE,
    Checkpoint,
    CheckpointError,
    Line,
    ledger_files,
    read_checkpoint,
    read_key,
    read_lines,
)

__all__ = ["MAX_FILE", "LedgerFiles", "Pending", "load_or_make_key", "lock_state"]

MAX_FILE = 16 * 2**20
"""Bytes after which a new file begins; also about what a start after a crash has to verify."""

_Note = TypeVar("_Note")

Pending = tuple[JsonObject, float]
"""A record's body and its time, in unix seconds."""

logger = logging.getLogger(__name__)


class LedgerFiles:
    """The open ledger of one state folder."""

    def __init__(self, state_dir: Path, now: float, max_file: int = MAX_FILE, synced: bool = True) -> None:
        """Take the folder, put it in order and close what a dead gateway left open.

        `synced` says whether records are on the disk once they are committed, or only with the system.

        Raises `UsageError` where the folder is in use, not writable, or holds a chain that does not verify.
        """
        self.audit = state_dir / "audit"
        self.healthy = True
        self.boot_id = uuid4().hex
        self._max_file = max_file
        self._synced = synced
        self._open_calls: dict[str, int] = {}
        self._void: dict[str, int] = {}
        self._held = ExitStack()
        self._fds: list[int] = []
        self._held.callback(self._close_files)
        try:
            self._take(state_dir, now)
        except OSError as error:
            self._held.close()
            reason = error.strerror or str(error)
            raise UsageError(
                f"{state_dir}: no ledger can be kept here ({reason}): name a writable folder with --state"
            ) from error
        except BaseException:
            self._held.close()
            raise

    def _take(self, state_dir: Path, now: float) -> None:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.audit.mkdir(mode=0o700, exist_ok=True)
        self.audit.chmod(0o700)
        self._held.callback(os.close, lock_state(state_dir))
        self.key = load_or_make_key(state_dir)
        self._start(now)

    # --- start ---

    def _start(self, now: float) -> None:
        files = ledger_files(self.audit)
        if not files and not (self.audit / CHECKPOINT).exists():
            _make_file(self.audit / CHECKPOINT, Checkpoint().encode(self.key))
        try:
            checkpoint = read_checkpoint(self.audit, self.key)
        except CheckpointError as error:
            raise _broken(f"{self.audit / CHECKPOINT}: {error}", self.audit) from None
        self._chain = Chain(checkpoint.seq + 1, checkpoint.hash)
        left_open = [] if _closed_cleanly(files, checkpoint) else self._take_over(files, checkpoint)
        if files:
            self._open(files[-1])
        else:
            self._file = self.audit / "00000000.jsonl"
            self._open_next()
        self._write_checkpoint(self._chain, self._size)
        if left_open:
            self.commit([(unknown_outcome(decision), now) for decision in left_open])

    def _take_over(self, files: Sequence[Path], checkpoint: Checkpoint) -> list[JsonObject]:
        """Verify what a crash may have touched, cut the torn tail; return the decisions left open."""
        if files:
            files = files[_file_with(checkpoint.open_from or checkpoint.seq, files) :]
            self._chain = _chain_at_start_of(files[0])
        left_open: dict[str, JsonObject] = {}
        reached = "" if checkpoint.seq else checkpoint.hash
        for line in read_lines(files):
            try:
                record = self._chain.check(line.data)
            except BrokenRecord as broken:
                self._cut(line, broken, files[-1], checkpoint)
                break
            if record["seq"] == checkpoint.seq:
                reached = self._chain.prev
            _follow(record, left_open, record)
        if reached != checkpoint.hash:
            what = f"record {checkpoint.seq}, which the checkpoint knows, is missing or changed"
            raise _broken(f"{files[-1] if files else self.audit}: {what}", self.audit)
        return list(left_open.values())

    def _cut(self, line: Line, broken: BrokenRecord, last: Path, checkpoint: Checkpoint) -> None:
        """Cut the log from a broken line on, if all that was acknowledged stands before it."""
        if line.file != last or self._chain.seq <= checkpoint.seq:
            raise _broken(f"{line.file}:{line.number}: {broken}", self.audit)
        os.truncate(last, line.offset)

    # --- writing ---

    @property
    def open_calls(self) -> int:
        """How many calls have a decision and no outcome yet."""
        return len(self._open_calls)

    def commit(self, batch: Sequence[Pending]) -> list[LedgerError | None]:
        """Make the records of `batch` durable, in order; return for each what was wrong with it alone.

        Raises `LedgerError` if nothing of it counts as written.
        """
        try:
            if not self.healthy or self._size >= self._max_file:
                self._open_next()
            return self._write(batch)
        except OSError as error:
            if self.healthy:  # told once; a caller, who reads the other sentence, need not know the path
                said = "cannot be written: calls are refused until a new file can be"
                logger.error("%s %s (%s)", self._file, said, error.strerror)
            self._give_up()
            raise LedgerError(f"the ledger cannot be written ({error.strerror})") from error

    def _write(self, batch: Sequence[Pending]) -> list[LedgerError | None]:
        chain = self._chain.copy()
        first = chain.seq
        lines: list[bytes] = []
        refused: list[LedgerError | None] = []
        if self._void:
            lines.append(chain.seal(recovered_record(self._void), batch[0][1], self.boot_id))
        for body, ts in batch:
            try:
                lines.append(chain.seal(body, ts, self.boot_id))
                refused.append(None)
            except (TypeError, ValueError, RecursionError) as error:
                refused.append(LedgerError(f"not a record: {error}"))
        data = b"".join(lines)
        _write_all(self._fd, data)
        if self._synced:
            _sync_data(self._fd)
        self._write_checkpoint(chain, self._size + len(data))
        self._chain, self._size = chain, self._size + len(data)
        self._void.clear()
        self.healthy = True
        for body, _ in batch:
            _follow(body, self._open_calls, first)
        return refused

    def _write_checkpoint(self, chain: Chain, size: int, *, clean: bool = False) -> None:
        """Overwrite the checkpoint in place, unsynced: it may only ever lag behind the synced records."""
        # A decision of the very batch stands in the same file as the checkpoint's record: no need to name it.
        open_from = next(iter(self._open_calls.values()), None)
        checkpoint = Checkpoint(chain.seq - 1, chain.prev, self._file.name, size, open_from, clean)
        os.pwrite(self._checkpoint_fd, checkpoint.encode(self.key), 0)

    def _open_next(self) -> None:
        """Begin a new file; its first record goes on from the last acknowledged one."""
        path = self._file.with_stem(f"{int(self._file.stem) + 1:08d}")
        self._open(path, os.O_CREAT | os.O_EXCL)
        if self._synced:
            _sync_folder(self.audit)

    def _open(self, path: Path, flags: int = 0) -> None:
        self._close_files()
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
        self._fds.append(self._fd)
        self._file, self._size = path, path.stat().st_size
        self._checkpoint_fd = os.open(self.audit / CHECKPOINT, os.O_WRONLY | os.O_CLOEXEC)
        self._fds.append(self._checkpoint_fd)

    def _give_up(self) -> None:
        """Drop the file after an error: what stands behind the acknowledged part is void."""
        self.healthy = False
        with suppress(OSError):  # closing may tell the same error once more
            self._close_files()
        self._void[self._file.name] = self._size
        # Tidy, where the disk still lets us; if not, the `recovered` record declares the rest void.
        with suppress(OSError):
            if self._size:
                os.truncate(self._file, self._size)
            else:
                self._file.unlink()
                del self._void[self._file.name]

    def close(self) -> None:
        """Note a clean end and release the folder. Nothing is written after."""
        # Without the mark of a clean end the next start only has to verify.
        with self._held, suppress(OSError):
            if self.healthy:
                self._write_checkpoint(self._chain, self._size, clean=not self._open_calls)

    def _close_files(self) -> None:
        while self._fds:
            os.close(self._fds.pop())


def lock_state(state_dir: Path) -> int:
    """Lock the folder for this process; the lock ends with it. Return the descriptor that holds it."""
    fd = os.open(state_dir / "ledger.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise StateInUse(
            f"{state_dir}: in use by another sandgate (process {owner}): "
            "stop that one, or give this one a folder of its own with --state"
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def load_or_make_key(state_dir: Path, otherwise: bytes | None = None) -> bytes:
    """Return the key of a ledger; one that has none gets `otherwise`, or a new one. Raises `UsageError`."""
    try:
        key = read_key(state_dir)
    except ValueError as error:
        raise UsageError(
            f"{state_dir / KEY_FILE}: not a ledger key ({error}): restore it, or name another --state"
        ) from None
    if key is None:
        key = otherwise or secrets.token_bytes(KEY_BYTES)
        _make_file(state_dir / KEY_FILE, key.hex().encode() + b"\n")
    return key


def _broken(what: str, audit: Path) -> UsageError:
    return UsageError(
        f"{what}; the ledger was changed from outside: see `sandgate audit verify {audit}`, "
        "then move the folder aside or name another --state"
    )


def _closed_cleanly(files: Sequence[Path], checkpoint: Checkpoint) -> bool:
    """Whether the log ends exactly where its writer closed it."""
    if not files or not checkpoint.clean or files[-1].name != checkpoint.file:
        return False
    return files[-1].stat().st_size == checkpoint.size


def _file_with(seq: int, files: Sequence[Path]) -> int:
    """Return the index of the file that holds record `seq`."""
    for index in range(len(files) - 1, 0, -1):
        first = _first_record(files[index])
        if first is not None and int(str(first["seq"])) <= seq:
            return index
    return 0


def _chain_at_start_of(file: Path) -> Chain:
    first = _first_record(file)
    if first is None or int(file.stem) == 1:
        return Chain()
    return Chain(int(str(first["seq"])), str(first["prev"]))


def _first_record(file: Path) -> JsonObject | None:
    with file.open("rb") as stream:
        try:
            return parse_record(stream.readline())
        except BrokenRecord:
            return None


def _follow(record: JsonObject, open_calls: dict[str, _Note], note: _Note) -> None:
    """Keep `open_calls`: the calls with a decision and no outcome yet, by their first decision."""
    if record.get("event") == Event.DECISION:
        open_calls.setdefault(str(record["call_id"]), note)
    elif record.get("event") == Event.OUTCOME:
        open_calls.pop(str(record["call_id"]), None)


def _make_file(path: Path, data: bytes) -> None:
    """Make a file, whole or not at all, that survives a power cut."""
    draft = path.with_name(f"{path.name}.new")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    draft.rename(path)
    _sync_folder(path.parent)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _sync_data(fd: int) -> None:
    # macOS has no fdatasync.
    (os.fdatasync if hasattr(os, "fdatasync") else os.fsync)(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
