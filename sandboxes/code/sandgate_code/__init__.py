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
