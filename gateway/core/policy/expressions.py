"""The one door to the CEL library, an optional extra: what `when` may name, and what is a condition."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Protocol, cast

from gateway.core.policy.wildcards import PatternError

__all__ = ["HOW_TO_INSTALL", "Expression", "check_expression", "compile_expression"]

HOW_TO_INSTALL: Final = "'when' needs the CEL library: run pip install 'sandgate[cel]'"


class Value(Protocol):
    """What an expression came to, an error included."""

    def value(self) -> object:
        """Return it as Python has it."""
        ...


class Expression(Protocol):
    """A compiled expression, as the library has it."""

    def eval(self, *, data: Mapping[str, object]) -> Value:
        """Evaluate it; `data` are the variables by name."""
        ...

    def return_type(self) -> object:
        """Return the library's type of what it comes to."""
        ...


def check_expression(text: str) -> None:
    """Raise `PatternError` where the library is missing or the expression cannot be a condition."""
    compile_expression(text)


def compile_expression(text: str) -> Expression:
    """Return the expression; raises `PatternError` as `check_expression` does."""
    try:
        from cel_expr_python import cel as untyped  # pyright: ignore
    except ImportError:
        raise PatternError(HOW_TO_INSTALL) from None
    cel = cast("Any", untyped)
    kind = cel.Type
    variables = {
        "args": kind.Map(kind.STRING, kind.DYN),
        "tool": kind.STRING,
        "server": kind.STRING,
        "principal": kind.Map(kind.STRING, kind.DYN),
        "session": kind.Map(kind.STRING, kind.DYN),
        "mode": kind.STRING,
        "now": kind.TIMESTAMP,
    }
    try:
        expression = cel.NewEnv(variables=variables).compile(text)
    except Exception as error:  # noqa: BLE001 - the library has no exceptions of its own
        raise PatternError(f"not a CEL expression: {_first_line(error)}") from None
    if expression.return_type() not in (kind.BOOL, kind.DYN):
        raise PatternError("a condition is true or false: this expression is neither")
    return cast("Expression", expression)


def _first_line(error: Exception) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"^.*ERROR: <input>:(\d+):(\d+): ", r"character \2: ", line)[:200]
