"""A gateway of one's own: `sandgate serve` in a process that ends with its owner. Imports nothing of it.

An owner that is killed ends it as well; the scratch folder stays then.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree

from gateway.errors import UsageError

__all__ = ["OwnGateway"]

_READY = re.compile(r"sandgate: ready on (http://\S+)")
_LAST_WORDS = 20
"""Lines of its output that an error shows."""
_END_SECONDS = 40.0
"""How long it may take to end: calls in flight are answered first."""


class OwnGateway:
    """A gateway that serves one pack for training on a free port of loopback, until `close`.

    `pack` is a pack's name or folder, `arguments` further ones of `sandgate serve`. Its ledger and
    trajectories go with it unless `state` names a folder for them. A first start may install the pack's
    servers: it gets `start_seconds`. Raises `UsageError` with its last words if it does not start.
    """

    def __init__(
        self,
        pack: str,
        *,
        state: Path | None = None,
        arguments: Sequence[str] = (),
        start_seconds: float = 300.0,
    ) -> None:
        scratch = None if state else tempfile.mkdtemp(prefix="sandgate-")
        # -P: what lies in the current folder is not the gateway.
        sandgate = [sys.executable, "-P", "-m", "gateway.cli.owned"]
        options = ["--mode", "training", "--port", "0", "--state", str(state or scratch)]
        process = subprocess.Popen(
            [*sandgate, "serve", pack, *options, *arguments],
            stdin=subprocess.PIPE,  # nothing is said there: that it ends is heard
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        # Also called when this is forgotten and when the interpreter exits.
        self._end = weakref.finalize(self, _end, process, scratch)
        listener = _Listener(process)
        self.url = listener.wait_for_url(start_seconds)
        if not self.url:
            self._end()
            raise UsageError(
                f"no gateway for pack {pack!r} could be started; it said:\n{listener.last_words()}"
            )

    def close(self) -> None:
        """End it and wait for that. Idempotent."""
        self._end()


class _Listener:
    """Reads what a process says on stderr to the end, so that it never waits for a reader."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._url = ""
        self._heard = threading.Event()
        self._lines: deque[str] = deque(maxlen=_LAST_WORDS)
        threading.Thread(target=self._listen, daemon=True).start()

    def wait_for_url(self, seconds: float) -> str:
        """Return the URL it is ready on; empty if it ended, or took too long."""
        self._heard.wait(seconds)
        return self._url

    def last_words(self) -> str:
        return "".join(self._lines).strip() or "nothing"

    def _listen(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as said:
            for line in said:
                self._lines.append(line)
                if not self._url and (match := _READY.search(line)):
                    self._url = match[1]
                    self._heard.set()
        self._heard.set()


def _end(process: subprocess.Popen[str], scratch: str | None) -> None:
    process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()
    if scratch is not None:
        rmtree(scratch, ignore_errors=True)
