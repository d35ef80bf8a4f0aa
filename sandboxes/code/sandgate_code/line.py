"""Runs inside a sandbox: the line to the gateway, and what a call over it comes to."""

import json
import os
import threading

MAX_ARGUMENTS = 2_000_000
"""Characters of one call's arguments as JSON."""


class ToolError(Exception):
    """The tool answered with an error of its own. `tool` is the tool's name."""

    def __init__(self, tool, message):
        super().__init__(message)
        self.tool = tool


class ToolDenied(ToolError):
    """The policy denied the call and nothing ran. `decision` says why: effect, code, rule, reason, line."""

    def __init__(self, tool, message, decision):
        super().__init__(tool, message)
        self.decision = decision


class ToolFailed(ToolError):
    """The call was allowed and brought no result; it may have run. `kind` is `timeout` or the like."""

    def __init__(self, tool, message, kind):
        super().__init__(tool, message)
        self.kind = kind


class OutOfTime(BaseException):
    """The code's time is over. Not an Exception, so that a broad handler does not outlive it."""


class Line:
    """The line to the gateway. One exchange at a time; the clock's alarm never tears a frame."""

    def __init__(self):
        self._in, self._out = os.dup(0), os.dup(1)
        self._buffer = b""
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._busy = self._late = False
        self._calls = 0
        self.turn = None

    def forked(self):
        """Leave the line to the parent: a child has no business on it."""
        for fd in (self._in, self._out):
            os.close(fd)
        self._lock = threading.Lock()
        self.turn = None

    @property
    def own(self):
        """Whether this is the process that was started, and no child of it."""
        return os.getpid() == self._owner

    def read(self):
        """Return the next object; ends the program where the gateway hung up."""
        while b"\n" not in self._buffer:
            data = os.read(self._in, 1 << 16)
            if not data:
                os._exit(0)
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def write(self, message):
        """Send one object."""
        data = json.dumps(message).encode("ascii") + b"\n"
        while data:
            data = data[os.write(self._out, data) :]

    def call(self, tool, arguments):
        """Have the gateway call a tool; returns what it answered. Raises `ToolError`."""
        written = json.dumps(arguments, allow_nan=False)
        if len(written) > MAX_ARGUMENTS:
            raise ValueError(f"the arguments of one call are at most {MAX_ARGUMENTS} characters of JSON")
        with self._lock:
            if self.turn is None or not self.own:
                raise RuntimeError(
                    "tools are called from the code of a step, in the interpreter's own process"
                )
            self._busy = threading.current_thread() is threading.main_thread()
            try:
                self._calls += 1
                number = self._calls
                self.write({"turn": self.turn, "call": number, "tool": tool, "arguments": written})
                answer = self.read()
            finally:
                self._busy = False
        if self._late and threading.current_thread() is threading.main_thread():
            self._late = False
            raise OutOfTime
        return outcome(tool, answer)

    def alarm(self, *_):
        """End the code that runs now; an exchange is finished first."""
        if self._busy:
            self._late = True
            return
        raise OutOfTime

    def calm(self):
        """Forget an alarm that came too late."""
        self._late = False

    def end_turn(self):
        """Take no more calls; one that another thread has under way is answered first."""
        with self._lock:
            self.turn = None


def outcome(tool, answer):
    """Return a call's result, or raise what became of it."""
    how, message = answer.get("raise"), answer.get("message", "")
    if how == "denied":
        raise ToolDenied(tool, message, answer.get("decision"))
    if how == "failed":
        raise ToolFailed(tool, message, answer.get("kind"))
    if how == "error":
        raise ToolError(tool, message)
    if how == "late":
        raise OutOfTime
    return answer.get("data")
