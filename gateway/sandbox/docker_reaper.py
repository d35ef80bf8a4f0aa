"""Ends what a dead gateway left with the engine: containers, then volumes, by label.

Also a program of its own, `docker_reaper.py SOCKET LABEL`: it holds one end of a pipe whose other end
only the gateway has, and ends the gateway's containers when that end closes, however it died. A
container cannot be trusted to end itself when its stdin does. Standard library only, so that it is small.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import quote

__all__ = ["DONE", "remove_all"]

TIMEOUT = 30.0
WORKERS = 8
QUIET_ROUNDS, PAUSE, MOST_ROUNDS = 3, 0.5, 120
"""A request of the dead gateway may still be under way: over is after so many rounds that found nothing."""
VERSION = "/v1.40"
"""Of the engine's interface; Docker 19.03 and later speak it, and Podman does."""
DONE = b"done"
"""What a gateway says before it ends that has cleaned up itself."""
FINE = (200, 204, 304, 404, 409)
"""Done, or somebody else did it: 404 is gone, 409 is being removed, or a volume still in use."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        """Connect to the engine's socket instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)


def _ask(path: str, method: str, route: str) -> Any:
    """Return the engine's answer. Raises `OSError`, also for an answer that is no success."""
    connection = _Connection(path)
    try:
        connection.request(method, VERSION + route)
        response = connection.getresponse()
        body = response.read()
    except http.client.HTTPException as error:
        raise OSError(f"the engine answered nonsense to {method} {route}: {error!r}") from error
    finally:
        connection.close()
    if response.status not in FINE:
        raise OSError(f"{method} {route}: {response.status} {body.decode(errors='replace').strip()}")
    return json.loads(body) if method == "GET" else None


def _call(path: str, request: tuple[str, str]) -> None:
    _ask(path, *request)


def _listed(path: str, label: str) -> tuple[list[str], list[str]]:
    """Return the ids of the containers and the names of the volumes that carry `label`."""
    wanted = quote(json.dumps({"label": [label]}))
    containers = _ask(path, "GET", f"/containers/json?all=1&filters={wanted}")
    volumes: list[Any] = _ask(path, "GET", f"/volumes?filters={wanted}")["Volumes"] or []
    return [one["Id"] for one in containers], [one["Name"] for one in volumes]


def remove_all(path: str, label: str) -> int:
    """End the containers with `label` at once, then remove them and its volumes; return how many there were.

    `label` is `key=value`, `path` is the engine's unix socket. Raises `OSError`.
    """
    containers, volumes = _listed(path, label)
    steps: tuple[list[tuple[str, str]], ...] = (
        [("POST", f"/containers/{name}/kill") for name in containers],
        [("DELETE", f"/containers/{name}?force=1&v=1") for name in containers],
        [("DELETE", f"/volumes/{name}?force=1") for name in volumes],
    )
    with ThreadPoolExecutor(WORKERS) as pool:
        for step in steps:  # each for all, before the next for any
            list(pool.map(partial(_call, path), step))
    return len(containers) + len(volumes)


def _reap(path: str, label: str) -> None:
    quiet = 0
    for _ in range(MOST_ROUNDS):
        try:
            quiet = 0 if remove_all(path, label) else quiet + 1
        except OSError as error:
            _say(2, f"sandgate: containers of a gateway that ended are still there: {error}")
            quiet = 0
        if quiet == QUIET_ROUNDS:
            return
        select.select((), (), (), PAUSE)


def _say(descriptor: int, text: str) -> None:
    with suppress(OSError):  # the gateway, and who read its stderr, may have ended: that is what we are for
        os.write(descriptor, f"{text}\n".encode())


def _main() -> None:
    if os.fork():  # the gateway does not wait for it
        os._exit(0)
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # they go to whole groups: the gateway's end counts
        signal.signal(number, signal.SIG_IGN)
    _say(1, "ready")
    if sys.stdin.buffer.read() != DONE:
        _reap(sys.argv[1], sys.argv[2])


if __name__ == "__main__":
    _main()
