"""Where a person is asked and told: answers from stdin, all else on stdout, or stderr beside a document."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gateway.cli.output import Format, printable

__all__ = ["Console"]


class Console:
    """A conversation by lines. With `form` JSON everything goes to stderr, for stdout has the document.

    On a terminal, lines can be edited and `words` are completed; answers from a pipe are shown after
    their questions, so that what comes out reads like what happened.
    """

    def __init__(self, form: Format, words: Sequence[str] = ()) -> None:
        self._out = sys.stderr if form is Format.JSON else sys.stdout
        self._typed = sys.stdin.isatty()
        if self._typed:
            _complete(words)

    def tell(self, text: str = "") -> None:
        """Show some lines."""
        print(printable(text), file=self._out, flush=True)

    def ask(self, prompt: str) -> str:
        """Return the line that is answered, without its end; raises `EOFError` where there is none."""
        question = printable(prompt)
        if self._typed and self._out is sys.stdout:
            return input(question)  # with the line editing of the terminal
        print(question, end="", file=self._out, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        if not self._typed:
            self.tell(line.rstrip("\r\n"))
        return line.rstrip("\r\n")


def _complete(words: Sequence[str]) -> None:
    try:
        import readline
    except ImportError:  # a Python without it: lines are typed in full
        return

    def complete(text: str, state: int) -> str | None:
        found = [word for word in words if word.startswith(text)]
        return found[state] if state < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" ")
    readline.parse_and_bind("tab: complete")
