"""How `serve` and `stdio` log, on stderr: text for people or one JSON object a line.

Whatever a tool server or a caller wrote is made harmless (no control characters, no escape sequences) and
the operator's secrets are masked, whichever part of the program logged it.
"""

from __future__ import annotations

import json
import logging
import os
import select
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gateway.cli.output import printable, say
from gateway.core.secrets import mask, spellings
from gateway.runtime.call_log import FIELDS

if TYPE_CHECKING:
    from gateway.config import LogSettings

__all__ = ["NeverWaits", "configure", "hide", "teller"]

_MAX_LINE = 16_000
"""Characters of one message: a server's last words can be long."""

_told = logging.getLogger("gateway.cli")


class _Formatter(logging.Formatter):
    """Base of both: knows what must not be shown."""

    secrets: tuple[str, ...] = ()

    def shown(self, text: str) -> str:
        """Return `text`, cut and masked."""
        cut = text if len(text) <= _MAX_LINE else f"{text[:_MAX_LINE]}… ({len(text)} characters)"
        return str(mask(cut, self.secrets))


class _Text(_Formatter):
    """`sandgate: WARNING gateway.runtime.upstream: …`"""

    def format(self, record: logging.LogRecord) -> str:
        """Return one record, without anything that could move the cursor."""
        line = f"sandgate: {record.levelname} {record.name}: {super().format(record)}"
        # Further lines are set in, so that no text can pass for a record of its own.
        return printable(self.shown(line)).replace("\n", "\n    ")


class _Json(_Formatter):
    """`{"ts": …, "level": …, "logger": …, "message": …}` and the fields of a call, ASCII only."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one record as one line."""
        entry: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.shown(record.getMessage()),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            entry["exception"] = self.shown(self.formatException(record.exc_info))
        return json.dumps(mask(entry, self.secrets))


class NeverWaits(logging.Handler):
    """Writes to a descriptor as far as its reader keeps up: a log that nobody reads must hold up no call.

    What does not fit is dropped and counted, and the count is told once there is room again.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._dropped = 0
        self._halfway = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, or count it as dropped."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - a line that cannot be written is never its caller's fault
            self.handleError(record)
            return
        if self._dropped:
            told = logging.LogRecord(
                __name__, logging.WARNING, "", 0, "%d lines were dropped", (self._dropped,), None
            )
            if not self._written(self.format(told)):
                self._dropped += 1
                return
            self._dropped = 0
        if not self._written(line):
            self._dropped += 1

    def _written(self, line: str) -> bool:
        data = memoryview((b"\n" if self._halfway else b"") + line.encode(errors="backslashreplace") + b"\n")
        while data:
            # A pipe that is writable takes this much without waiting.
            if not select.select([], [self._descriptor], [], 0)[1]:
                return False
            try:
                count = os.write(self._descriptor, data[: select.PIPE_BUF])
            except OSError:
                return False
            self._halfway, data = count < len(data), data[count:]
        return True


def configure(settings: LogSettings) -> None:
    """Log this program at the level that is set, and everybody else's warnings."""
    handler = _to_stderr()
    handler.setFormatter(_Json() if settings.format == "json" else _Text())
    root = logging.getLogger()
    root.handlers = [other for other in root.handlers if not isinstance(other.formatter, _Formatter)]
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("gateway").setLevel(settings.level.upper())


def _to_stderr() -> logging.Handler:
    try:
        return NeverWaits(sys.stderr.fileno())
    except OSError:  # it is no file here, so nobody can keep it waiting
        return logging.StreamHandler(sys.stderr)


def hide(secrets: Iterable[str]) -> None:
    """Mask these values in every line from now on."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, _Formatter):
            handler.formatter.secrets = spellings(secrets)


def teller(settings: LogSettings) -> Callable[[str], None]:
    """Return what tells the person who started the gateway something: `say`, or a line of the JSON log."""
    if settings.format == "text":
        return say
    # Not a question of the level: that it is ready is what a supervisor waits for.
    return lambda message: _told.log(max(logging.INFO, _told.getEffectiveLevel()), "%s", message)
