"""Runs inside a sandbox: one turn after the other, each running the code it is given in one namespace."""

import ast
import builtins
import linecache
import os
import random
import signal
import sys
import types

from sandgate_code.line import Line, ToolDenied, ToolError, ToolFailed
from sandgate_code.output import Capture
from sandgate_code.results import result, told
from sandgate_code.tools import explain, offer


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


def flush(stream):
    """Write out what the code printed; a stream that it closed has nothing more to say."""
    try:
        stream.flush()
    except (ValueError, OSError, AttributeError):
        return
