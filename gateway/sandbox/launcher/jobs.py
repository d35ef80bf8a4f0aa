"""What the launcher's workers do: make pins, start forks. Each job answers the gateway for itself."""

from __future__ import annotations

import socket
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from . import forking, pins
from .groups import Group

__all__ = ["UNFIT", "Jobs"]

FAILED, UNFIT = 1, 2
"""How a job ends that could not be done, and a start whose template is at fault."""
START_FDS = 4
"""Descriptors of a `fork` request as the gateway sends it; the launcher adds a fork's doors and template."""


class Tell(Protocol):
    """How the gateway is told something."""

    def __call__(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        """Send a message."""
        ...


@dataclass(frozen=True)
class Jobs:
    """`stage` is where trees are assembled, `program` the sessions' filter, `home` the launcher's mounts."""

    stage: str
    program: bytes
    root: bool
    home: int
    tell: Tell

    def do(self, request: dict[str, Any], fds: list[int]) -> tuple[int, list[int]]:
        """Do one job; return its status, and of a fork its init and what sees attempts."""
        number = request["id"]
        try:
            if request["op"] == "fork":
                return 0, self._fork(request, fds)
            pin = self._pin(request, fds)
            self.tell({"id": number, "ok": True, "entries": pin.entries}, (pin.namespace, pin.folder))
        except forking.TemplateEnded as error:
            self.tell({"id": number, "error": str(error), "ended": True})
            return UNFIT, []
        except forking.TemplateUnfit as error:
            self.tell({"id": number, "error": str(error)})
            return UNFIT, []
        except (OSError, ValueError, KeyError) as error:
            what = "" if request["op"] == "fork" else f"{request['op']}: "
            self.tell({"id": number, "error": f"{what}{error}"})
            return FAILED, []
        return 0, []

    def _fork(self, request: dict[str, Any], fds: list[int]) -> list[int]:
        door, theirs, *rest = fds[START_FDS:]
        template, group = forking.Template.received(request["of"], rest), Group(request["folders"])
        with closing(template), socket.socket(fileno=door) as ours:
            fork = forking.Fork(template, group, request, ours, theirs)
            init, listeners = fork.start(self.home, self.program, fds[:START_FDS], root=self.root)
        self.tell({"id": request["id"], "ok": True, "folders": request["folders"]})
        return [init, *listeners]

    def _pin(self, request: dict[str, Any], fds: list[int]) -> pins.Pin:
        """Serve `seed`, `snapshot` and `workspace`."""
        if request["op"] == "seed":
            return pins.prepare_seed(self.stage, request["source"])
        if request["op"] == "snapshot":
            size = {"disk": request["disk"], "inodes": request["inodes"]}
            return pins.take_snapshot(self.stage, workspace=fds[0], home=self.home, **size)
        return pins.make_workspace(
            self.stage,
            uid=request["uid"],
            disk=request["disk"],
            inodes=request["inodes"],
            seed=fds[0] if fds else None,
            overlay=request["overlay"],
            home=self.home,
        )
