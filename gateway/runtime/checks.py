"""Runs a task's checks over a session's final workspace. It scores nothing: `gateway.core.rubric` does.

What an agent left behind may be hostile, so nothing it wrote runs where it could speak for a check:

* file checks are answered by our own program in one fresh sandbox that executes nothing else;
* every command and every script of the pack runs in a fresh sandbox of its own, and what it means is
  decided here from its exit code and output. It may run what the agent left (git reads the
  workspace's own configuration), so the most it can forge is its own answer;
* all see the workspace read-only, after the session's servers are dead.

A check that cannot be run says nothing about the agent: `CheckFault`, never a zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gateway.core.episode import EpisodeState
from gateway.core.json_types import JsonObject
from gateway.core.rubric import (
    CheckScore,
    FileCheck,
    ProgramCheck,
    Verdict,
    judge_record,
    label_of,
    score_command,
    score_script,
)
from gateway.core.strict_json import StrictJsonError, dumps, loads
from gateway.core.tasks import Check, Command, PythonCheck
from gateway.data import data_folder
from gateway.errors import SandgateError
from gateway.runtime.programs import ProgramFault, Watch, run_program
from gateway.sandbox.contract import Limits, Mount, SandboxDriver, SandboxSpec, Workspace
from gateway.sandbox.runtimes import python_runtime

__all__ = ["CheckFault", "Checks"]

FILE_CHECKS_TIMEOUT = 60.0
_RUNNER = Path(__file__).with_name("check_runner.py")
_RUNNER_AT = "/opt/checks/runner.py"
_PACK_AT = "/opt/checks/pack"
_LIBRARY_AT = "/opt/checks/library"
_LAUNCH = ("/bin/sh", "-c", 'exec "$0" "$@"')
_CANNOT_START = (126, 127)
"""Exit codes by which the shell, whatever the driver, says that there is no such program."""
_GIT_ENV = {
    # The workspace belongs to the session's user, not to the check's, and cannot be written.
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
    "GIT_OPTIONAL_LOCKS": "0",
}


class CheckFault(SandgateError):
    """A check could not be run, or is broken: the episode stays unscored."""


class Checks:
    """Runs checks of one pack. `folder` is the pack's, for the scripts it brings; `watch` sees sandboxes."""

    def __init__(self, driver: SandboxDriver, folder: Path, limits: Limits, watch: Watch) -> None:
        self._driver = driver
        self._folder = folder
        self._limits = limits
        self._watch = watch

    async def run(
        self, checks: Sequence[Check], workspace: Workspace, episode: EpisodeState, about: JsonObject
    ) -> list[CheckScore]:
        """Return one score per check, in order; `about` is what scripts are told on stdin.

        Raises `CheckFault`.
        """
        files = [check for check in checks if isinstance(check, FileCheck)]
        found = iter(await self._files(files, workspace) if files else [])
        scores: list[CheckScore] = []
        for check in checks:
            if isinstance(check, FileCheck):
                scores.append(next(found))
            elif isinstance(check, ProgramCheck):
                scores.append(await self._program(check, workspace, about))
            else:
                scores.append(judge_record(check, episode))
        return scores

    # -- files

    async def _files(self, checks: Sequence[FileCheck], workspace: Workspace) -> list[CheckScore]:
        python = python_runtime()
        spec = SandboxSpec(
            name="file-checks",
            argv=(python.argv0, "-I", _RUNNER_AT, workspace.path),
            env=dict(python.env),
            mounts=(*python.mounts, Mount(_RUNNER, _RUNNER_AT)),
            cwd="/",
            writable=False,
        )
        wanted: JsonObject = {"checks": [check.model_dump(mode="json") for check in checks]}
        verdict = await self._execute("file checks", spec, workspace, dumps(wanted), FILE_CHECKS_TIMEOUT)
        if verdict.exit_code != 0:
            raise CheckFault(f"file checks: exit code {verdict.exit_code}: {verdict.stderr[-300:]}")
        return _file_scores(verdict.stdout, len(checks))

    # -- programs

    async def _program(self, check: ProgramCheck, workspace: Workspace, about: JsonObject) -> CheckScore:
        script = isinstance(check, PythonCheck)
        spec = self._script_spec(check, workspace) if script else self._command_spec(check, workspace)
        told = dumps(about) if script else b""
        verdict = await self._execute(label_of(check), spec, workspace, told, check.timeout)
        if script:
            return _script_score(check, verdict)
        if verdict.exit_code in _CANNOT_START and verdict.exit_code != check.exit_code:
            raise CheckFault(f"{label_of(check)}: the program cannot be started: {verdict.stderr[-300:]}")
        return score_command(check, verdict)

    def _script_spec(self, check: PythonCheck, workspace: Workspace) -> SandboxSpec:
        python = python_runtime()
        # The script's own folder and `sandgate_check` are importable, the workspace and its environment not.
        argv = (python.argv0, "-E", "-s", "-B", f"{_LIBRARY_AT}/run_check.py", f"{_PACK_AT}/{check.script}")
        library = Mount(data_folder("sandboxes") / "checks", _LIBRARY_AT)
        mounts = (*python.mounts, library, Mount(self._folder, _PACK_AT))
        return self._spec(argv, python.env, mounts, workspace)

    def _command_spec(self, check: Command, workspace: Workspace) -> SandboxSpec:
        if check.argv[0] != "python":
            return self._spec((*_LAUNCH, *check.argv), _GIT_ENV, (), workspace)
        python = python_runtime()
        return self._spec(
            (python.argv0, *check.argv[1:]), {**python.env, **_GIT_ENV}, python.mounts, workspace
        )

    def _spec(
        self, argv: tuple[str, ...], env: Mapping[str, str], mounts: tuple[Mount, ...], workspace: Workspace
    ) -> SandboxSpec:
        return SandboxSpec(
            name="check",
            argv=argv,
            env=dict(env),
            mounts=mounts,
            cwd=workspace.path,
            limits=self._limits,
            writable=False,
        )

    async def _execute(
        self, label: str, spec: SandboxSpec, workspace: Workspace, stdin: bytes, seconds: float
    ) -> Verdict:
        try:
            return await run_program(self._driver, label, spec, workspace, stdin, seconds, self._watch)
        except ProgramFault as fault:
            raise CheckFault(str(fault)) from fault


def _script_score(check: PythonCheck, verdict: Verdict) -> CheckScore:
    try:
        return score_script(verdict)
    except ValueError as error:
        raise CheckFault(f"{label_of(check)}: {error}") from None


def _file_scores(stdout: str, wanted: int) -> list[CheckScore]:
    try:
        said = loads(stdout)
    except StrictJsonError as error:
        raise CheckFault(f"file checks: unreadable answer: {error}") from None
    results = said.get("results") if isinstance(said, dict) else None
    if not isinstance(results, list) or len(results) != wanted:
        raise CheckFault("file checks: an answer of another shape")
    entries = [entry if isinstance(entry, dict) else {} for entry in results]
    return [CheckScore.of(entry.get("holds") is True, str(entry.get("detail", ""))) for entry in entries]
