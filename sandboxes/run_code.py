"""Runs inside a sandbox: a Python interpreter whose tools are calls to the gateway. Never imported by it.

One JSON object a line. From the gateway on stdin:

    {"turn": 1, "code": "...", "seconds": 60.0, "tools": [{name, function, description, schema}] | null}
    {"turn": 1, "call": 3, "data": ...}
    {"turn": 1, "call": 3, "raise": "error" | "denied" | "failed" | "late", "message", "decision"?, "kind"?}

To the gateway, on what was stdout when this program started:

    {"turn": 1, "call": 3, "tool": "...", "arguments": "JSON"}
    {"turn": 1, "stdout", "stderr", "json", "repr", "error": null | {exception, message, traceback, late}}

Values of the code travel as JSON inside a string: the gateway's strict gate may refuse one, and the line
goes on.

Standard library only. The code has this whole process to itself and may break it: what it says of itself
is believed about itself and nothing else, and a call that it forges is a call like any other.
"""

import ast
import builtins
import importlib
import inspect
import io
import json
import keyword
import linecache
import os
import random
import signal
import sys
import tempfile
import threading
import traceback
import types

MAX_OUTPUT = 100_000
"""Bytes of stdout, and of stderr, that a turn shows; the rest is dropped and counted."""
MAX_RESULT = 1_000_000
"""Characters of a result's JSON; a longer one is shown as the start of its `repr`."""
MAX_ARGUMENTS = 2_000_000
"""Characters of one call's arguments as JSON."""
MAX_REPR = 10_000
MAX_TRACEBACK = 20_000


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


# -- talking to the gateway -----------------------------------------------------------------------


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


# -- tools as functions ---------------------------------------------------------------------------


def function(line, tool):
    """Return a tool as a Python function: arguments by name, or in the order of its signature."""
    schema = tool["schema"] if isinstance(tool["schema"], dict) else {}
    properties = schema.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    required = [name for name in schema.get("required") or [] if name in properties]
    names = [*required, *(name for name in properties if name not in required)]
    positional = [name for name in names if name.isidentifier() and not keyword.iskeyword(name)]

    def call(*values, **arguments):
        if len(values) > len(positional):
            raise TypeError(
                f"{tool['function']}() takes {len(positional)} arguments, {len(values)} were given"
            )
        for name, value in zip(positional, values, strict=False):
            if name in arguments:
                raise TypeError(f"{tool['function']}() got two values for {name!r}")
            arguments[name] = value
        return line.call(tool["name"], arguments)

    call.__name__ = call.__qualname__ = tool["function"]
    call.__doc__ = documentation(tool, properties, required)
    call.__signature__ = inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=inspect.Parameter.empty if name in required else None,
            )
            for name in positional
        ]
    )
    return call


def documentation(tool, properties, required):
    """Return a tool's description and what it takes, argument by argument."""
    lines = [tool["description"] or tool["name"]]
    for name, schema in properties.items():
        schema = schema if isinstance(schema, dict) else {}
        kind = schema.get("type", "any")
        kind = kind if isinstance(kind, str) else json.dumps(kind)
        kind = kind if name in required else f"{kind}, optional"
        lines.append(f"    {name} ({kind}): {schema.get('description', '')}".rstrip(": "))
    return "\n".join(lines)


# -- output ---------------------------------------------------------------------------------------


class Capture:
    """What is written to one of the standard streams in a turn, by this process or those it starts."""

    def __init__(self, number):
        self.number = number
        fd, path = tempfile.mkstemp()
        self._fd = os.open(path, os.O_APPEND | os.O_RDWR | os.O_CLOEXEC)
        self._dropped = 0
        os.close(fd)
        os.unlink(path)  # noqa: PTH108

    def begin(self):
        """Start anew, whatever became of the stream meanwhile, and return it as a text file."""
        os.ftruncate(self._fd, 0)
        os.dup2(self._fd, self.number)
        self._dropped = 0
        return io.TextIOWrapper(Capped(self), "utf-8", "backslashreplace", write_through=True)

    def add(self, data):
        """Keep what there is room for."""
        room = MAX_OUTPUT - os.fstat(self._fd).st_size
        if room > 0:
            os.write(self._fd, data[:room])
        self._dropped += max(0, len(data) - max(0, room))

    def text(self):
        """Return what was written, with a note where something was left out."""
        size = os.fstat(self._fd).st_size
        shown = os.pread(self._fd, MAX_OUTPUT, 0).decode("utf-8", "replace")
        left = max(0, size - MAX_OUTPUT) + self._dropped
        return f"{shown}\n[{left} more bytes were left out]" if left else shown


class Capped(io.RawIOBase):
    """The raw end of a stream that is captured."""

    def __init__(self, capture):
        self._capture = capture

    def writable(self):
        """Return that it is written to."""
        return True

    def fileno(self):
        """Return the stream's own descriptor, for programs that are started with it."""
        return self._capture.number

    def write(self, data):
        """Take everything, keep what there is room for."""
        data = bytes(data)
        self._capture.add(data)
        return len(data)


# -- a turn ---------------------------------------------------------------------------------------


def main():
    """Run the code of each turn in one namespace, until the gateway hangs up."""
    line = Line()
    os.register_at_fork(after_in_child=line.forked)
    nothing = os.open(os.devnull, os.O_RDONLY)
    stdout, stderr = Capture(1), Capture(2)
    random.seed(int(os.environ.get("SANDGATE_SEED", "0")))  # noqa: TID251 - its own, inside its sandbox
    sys.path.append(os.getcwd())  # noqa: PTH109 - importing pathlib costs time here
    sys.argv = [""]
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    vars(module).update(ToolError=ToolError, ToolDenied=ToolDenied, ToolFailed=ToolFailed)
    # What an interpreter started by hand has; the module that brings them was left out for its time.
    vars(builtins).update(help=explain, exit=sys.exit, quit=sys.exit)
    while True:
        task = line.read()
        if task["tools"] is not None:
            offer(line, vars(module), task["tools"])
        os.dup2(nothing, 0)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for as long as the code reads it
        sys.stdout, sys.stderr = stdout.begin(), stderr.begin()
        line.turn = task["turn"]
        shown = run(line, task, vars(module))
        line.end_turn()
        if not line.own:
            os._exit(0)  # a child that came out of the code: the turn is its parent's
        line.write({"turn": task["turn"], "stdout": stdout.text(), "stderr": stderr.text(), **shown})


def explain(*asked):
    """Print the documentation of a function, such as a tool."""
    importlib.import_module("pydoc").help(*asked)


def offer(line, namespace, tools):
    """Put the tools into the namespace as functions, in the place of those there were."""
    for name in namespace.pop("__tools__", ()):
        namespace.pop(name, None)

    def list_tools():
        """Return the tools there are: name, description, input_schema and the function's name."""
        return [
            {
                "name": tool["name"],
                "description": tool["description"],
                "input_schema": tool["schema"],
                "function": tool["function"],
            }
            for tool in tools
        ]

    def call_tool(tool_name, arguments):
        """Call a tool by its name, as an action does."""
        return line.call(tool_name, arguments)

    functions = {tool["function"]: function(line, tool) for tool in tools}
    functions |= {"list_tools": list_tools, "call_tool": call_tool}
    namespace.update(functions, __tools__=tuple(functions))


def run(line, task, namespace):
    """Run the code of one turn and return what to say of it. Whatever it raises is its own."""
    value, error = None, None
    try:
        signal.signal(signal.SIGALRM, line.alarm)
        signal.setitimer(signal.ITIMER_REAL, task["seconds"])
        try:
            value = evaluate(task["code"], f"<code {task['turn']}>", namespace)
            shown = result(value)
            for name in ("stdout", "stderr"):
                flush(getattr(sys, name, None))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            line.calm()
    except BaseException as raised:  # noqa: BLE001 - whatever the code raises is to be told
        shown, error = {"json": None, "repr": None}, told(raised)
    return {**shown, "error": error}


def evaluate(code, name, namespace):
    """Execute the code; return the value of its last statement where that is an expression."""
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    tree = ast.parse(code, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), namespace)  # noqa: S102 - what this program is for
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), name, "eval"), namespace)  # noqa: S307


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


def flush(stream):
    """Write out what the code printed; a stream that it closed has nothing more to say."""
    try:
        stream.flush()
    except (ValueError, OSError, AttributeError):
        return


def told(raised):
    """Return what is said of an exception, without this program's own frames."""
    frames = raised.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
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


if __name__ == "__main__":
    main()
