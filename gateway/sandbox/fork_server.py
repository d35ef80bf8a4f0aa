"""Templates of the bubblewrap driver: Python servers preloaded once, forked per session. Decides nothing.

A template that cannot be forked (it started threads, opened files, died) is told of once in the log, and
its sandboxes start cold from then on: forking is only ever faster. The launcher looks at a template and
at each fork from outside; what it found wrong is the reason given here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import anyio.abc

from gateway.core.json_types import JsonObject
from gateway.errors import SandboxError

from .contract import Attempt, Limits, Mount, Preload, SandboxSpec, WorkspaceSpec
from .launcher_client import Launcher, LauncherGone
from .pipes import StderrTail, drain, read_when_ready
from .start_request import template_request

__all__ = ["Forking", "Template", "TemplateKey"]

logger = logging.getLogger(__name__)

LET_THROUGH = ("clone", "unshare", "mount", "move_mount", "process_madvise")
"""What a template's filter leaves to its forks, until they load their session's."""
MOST_FAILURES = 3
MOST_ATTEMPTS = 64
READY_SECONDS = 60.0
LAST_WORDS = 300

TemplateKey = tuple[tuple[str, ...], frozenset[tuple[str, str]], tuple[Mount, ...], Limits, str, int]
"""What makes two sandboxes forks of one template: program, environment, mounts, limits, and the place and
size of the workspace."""


@dataclass(slots=True, eq=False)
class Template:
    """One preloaded program; `number` is what the launcher knows it by, 0 while there is none.

    `starting` is there while it is brought up, which whoever asked for it first does not wait out alone.
    `blamed` is the last number whose end was counted as a failure.
    `attempts` is what it tried to reach, not told yet: its first fork answers for it.
    """

    name: str
    number: int = 0
    ready: bool = False
    starting: anyio.Event | None = None
    uid: int = 0
    failures: int = 0
    blamed: int = 0
    refused: bool = False
    errors: StderrTail = field(default_factory=StderrTail)
    attempts: list[Attempt] = field(default_factory=list[Attempt])


class Forking:
    """The templates of one driver. `take_uid` and `give_uid` lend each a user of its own."""

    def __init__(
        self,
        launcher: Launcher,
        program: bytes,
        tasks: anyio.abc.TaskGroup,
        take_uid: Callable[[], int],
        give_uid: Callable[[int], None],
    ) -> None:
        self._launcher, self._program, self._tasks = launcher, program, tasks
        self._take_uid, self._give_uid = take_uid, give_uid
        self._templates: dict[TemplateKey, Template] = {}
        self.reason = ""
        """Why something was not forked, the last time."""

    async def template(
        self, spec: SandboxSpec, workspace: WorkspaceSpec, request: Callable[[int], JsonObject]
    ) -> Template | None:
        """Return the running template for `spec`, started if need be; `None` where it has to start cold.

        `request` gives the driver's `start` request for a user.
        """
        preload = spec.preload
        if preload is None:
            return None
        words = preload.argv, frozenset(preload.env.items())
        key = (*words, spec.mounts, spec.limits, workspace.path, workspace.disk)
        template = self._templates.setdefault(key, Template(spec.name))
        if not template.number and not template.refused and template.starting is None:
            template.starting = anyio.Event()
            self._tasks.start_soon(self._bring_up, template, spec, preload, request)
        if template.starting is not None:
            await template.starting.wait()
        return template if template.ready else None

    async def _bring_up(
        self, template: Template, spec: SandboxSpec, preload: Preload, request: Callable[[int], JsonObject]
    ) -> None:
        """Start a template, for all who wait for it; run as a task, because each of them may give up."""
        try:
            template.uid = self._take_uid()
            template.number = self._launcher.next_id()
            template.errors = StderrTail()
            body = template_request(request(template.uid), spec, preload, self._program)
            await self._start(template, body | {"id": template.number})
        except SandboxError as error:
            self.failed(template, str(error), for_good=not isinstance(error, LauncherGone))
            self.ended(template.number)
        finally:
            if template.starting is not None:
                template.starting.set()
            template.starting = None

    async def _start(self, template: Template, body: JsonObject) -> None:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        self._tasks.start_soon(self._drain, reading, template.errors)
        try:
            with anyio.fail_after(READY_SECONDS):
                await self._launcher.ask(body, (writing,))
            template.ready = template.number != 0
        except TimeoutError:
            await self._launcher.tell({"op": "kill", "id": 0, "target": body["id"]})
            raise SandboxError(f"it was not ready after {READY_SECONDS:.0f} s") from None
        finally:
            os.close(writing)

    async def _drain(self, fd: int, tail: StderrTail) -> None:
        try:
            await drain(lambda most: read_when_ready(fd, most), tail)
        finally:
            os.close(fd)

    def failed(self, template: Template, why: str, *, for_good: bool = False, ended: int = 0) -> None:
        """Note that a template, or a fork of it, did not start; after a few times it is not tried again.

        `ended` is the number of a template that was found to have ended: many may find that, it counts once.
        """
        self.reason = why
        if ended and template.blamed == ended:
            return
        template.blamed = ended or template.blamed
        template.failures += 1
        if template.refused or not (for_good or template.failures >= MOST_FAILURES):
            return
        template.refused = True
        said = template.errors.text().strip()[-LAST_WORDS:]
        logger.warning(
            "%s is not forked but started cold from now on: %s%s",
            template.name,
            why,
            f" ({said})" if said else "",
        )

    def attempted(self, number: int, attempt: Attempt) -> None:
        """Note what a template tried to reach while it was imported."""
        for template in self._templates.values():
            if template.number == number and len(template.attempts) < MOST_ATTEMPTS:
                template.attempts.append(attempt)

    def ended(self, number: int) -> bool:
        """Take note that the template of that number has ended; False if there is none."""
        for template in self._templates.values():
            if number and template.number == number:
                template.number, template.ready = 0, False
                self._give_uid(template.uid)
                return True
        return False

    def lost(self) -> None:
        """Take note that the launcher ended, and every template with it."""
        for template in self._templates.values():
            if template.number:
                self.ended(template.number)
