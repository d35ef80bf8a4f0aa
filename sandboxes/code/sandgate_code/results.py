"""Runs inside a sandbox: how a value, or an exception, of the code is told to the gateway."""

import json
import os
import traceback

from sandgate_code.line import OutOfTime

MAX_RESULT = 1_000_000
"""Characters of a result's JSON; a longer one is shown as the start of its `repr`."""
MAX_REPR = 10_000
MAX_TRACEBACK = 20_000
HERE = os.path.dirname(__file__)  # noqa: PTH120 - importing pathlib costs time here


def result(value):
    """Return a value as JSON text where it is plain data, and as `repr` where it is not."""
    try:
        text = json.dumps(value, allow_nan=False) if Plain().value(value, 50) else None
    except ValueError:
        text = None
    if text is not None and len(text) > MAX_RESULT:
        text = None
    return {"json": text, "repr": clean(repr(value))[:MAX_REPR]}


class Plain:
    """Tells values that are JSON as they stand, within a budget of size."""

    def __init__(self):
        self._left = MAX_RESULT

    def value(self, value, depth):
        """Whether a value is plain data: what is read back is the same, but for tuples."""
        self._left -= len(value) if type(value) is str else 1
        if self._left < 0:
            return False
        if value is None or type(value) in (bool, int, float, str):
            return True
        if depth and type(value) in (list, tuple):
            return all(self.value(item, depth - 1) for item in value)
        if depth and type(value) is dict:
            return all(type(key) is str and self.value(item, depth - 1) for key, item in value.items())
        return False


def told(raised):
    """Return what is said of an exception, without this program's own frames."""
    frames = raised.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(HERE):
        frames = frames.tb_next
    late = isinstance(raised, OutOfTime)
    try:
        lines = traceback.format_exception(type(raised), raised, frames, limit=-20)
        message = str(raised)
    except Exception:  # noqa: BLE001 - the code's exception has code of its own
        lines, message = [], "an exception that cannot be shown"
    return {
        "exception": "TimeoutError" if late else clean(type(raised).__name__),
        "message": "the code's time is over" if late else clean(message)[:MAX_REPR],
        "traceback": "" if late else clean("".join(lines))[-MAX_TRACEBACK:],
        "late": late,
    }


def clean(text):
    """Return text that can be encoded."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
