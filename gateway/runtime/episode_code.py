"""CodeAct: an action's Python runs in a sandbox beside the session's servers, its calls go the usual way.

The sandbox has the session's workspace (or what the manifest says instead, `env.code`), the limits of the
pack, no secret and no network. Its
interpreter lives until the episode ends; one that the code broke is replaced at the next code, and the
observation in between says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import anyio

from gateway.core.calls import Front
from gateway.core.code import (
    LATE,
    CodeCall,
    CodeDone,
    call_answer,
    call_entry,
    code_observation,
    code_tools,
    refusal,
)
from gateway.core.json_types import JsonObject
from gateway.core.manifest import CodeFiles
from gateway.core.observations import ErrorType
from gateway.core.strict_json import StrictJsonError, loads
from gateway.data import data_folder
from gateway.errors import SandboxError
from gateway.runtime.episode_calls import EpisodeCalls
from gateway.runtime.interpreter import Interpreter, InterpreterLost
from gateway.runtime.served_pack import ServedPack
from gateway.sandbox.contract import Limits, Mount, SandboxSpec, WorkspaceSpec
from gateway.sandbox.runtimes import python_runtime

__all__ = ["CODE_SECONDS", "MAX_CALLS", "EpisodeCode"]

CODE_SECONDS = 60.0
"""How long the code of one action may run, its calls included, where nobody says otherwise."""
MAX_CALLS = 1000
"""Calls that the code of one action may make."""
MAX_REFUSED = 100
"""Calls beyond those that are told that they are too many; code that goes on is ended."""
MAX_ARGUMENTS = 4_000_000
"""Characters of JSON that the arguments of those calls may have together."""
_RUNNER_AT = "/opt/code"


@dataclass(slots=True)
class _Turn:
    """What the code of one action has done so far, and until when it may go on."""

    until: float
    calls: list[JsonObject] = field(default_factory=list[JsonObject])
    size: int = 0
    refused: int = 0


@dataclass(slots=True, eq=False)
class EpisodeCode:
    """Runs the code of one episode. `env` is what its servers are told of seed and time as well."""

    calls: EpisodeCalls
    env: Mapping[str, str]
    _interpreter: Interpreter | None = None

    async def run(self, code: str, seconds: float | None) -> JsonObject:
        """Run code for so long at most and return its observation. Raises what `Gateway.call` raises."""
        if self._files == "none":
            done = CodeDone("", "", None, _error(ErrorType.EXECUTION_ERROR, "this pack takes no code"))
            return code_observation(done, [])
        allowed = CODE_SECONDS if seconds is None else seconds
        turn = _Turn(anyio.current_time() + allowed)
        try:
            interpreter = await self._running()
            done = await interpreter.run(
                code, code_tools(self.calls.tools()), allowed, lambda call: self._answer(call, turn)
            )
        except InterpreterLost as lost:
            self._interpreter = None
            done = _lost(lost)
        except SandboxError as error:
            self.calls.state.fail(f"no sandbox for code: {error}")
            done = CodeDone("", "", None, _error(ErrorType.TRANSPORT_ERROR, str(error)))
        return code_observation(done, turn.calls)

    async def _running(self) -> Interpreter:
        if self._interpreter is None:
            session = self.calls.session
            spec, apart = _spec(session.pack, self.env), None
            if self._files == "apart":
                spec = replace(spec, writable=True)
                apart = WorkspaceSpec(path=session.pack.workspace_path, disk=spec.limits.disk)
            self._interpreter = Interpreter(await session.lease.beside(spec, apart))
        return self._interpreter

    @property
    def _files(self) -> CodeFiles:
        return self.calls.session.pack.pack.manifest.env.code

    async def _answer(self, call: CodeCall, turn: _Turn) -> JsonObject:
        """Make one call of the code and return what it comes to there."""
        turn.size += len(call.arguments)
        if (refused := self._refused(turn)) is not None:
            turn.refused += 1
            if turn.refused > MAX_REFUSED:
                raise InterpreterLost(f"the code made {MAX_REFUSED} calls beyond what it may")
            return refused
        try:
            arguments = loads(call.arguments)
        except StrictJsonError as error:
            return refusal(f"the arguments are refused: {error}", ErrorType.INVALID_ARGS)
        if not isinstance(arguments, dict):
            return refusal("the arguments are an object", ErrorType.INVALID_ARGS)
        if self.calls.submits(call.tool):
            self.calls.state.submit(arguments.get("answer"))
            return {"data": "submitted"}
        left = max(0.0, turn.until - anyio.current_time())
        outcome, late = await self.calls.call(call.tool, arguments, Front.CODE, left)
        turn.calls.append(call_entry(call.tool, arguments, outcome))
        return LATE if late else call_answer(outcome)

    def _refused(self, turn: _Turn) -> JsonObject | None:
        if self.calls.state.over:
            return refusal("the episode is over: nothing more is called", "episode_over")
        if len(turn.calls) >= MAX_CALLS or turn.size > MAX_ARGUMENTS:
            bounds = f"{MAX_CALLS} calls and {MAX_ARGUMENTS} characters of arguments"
            return refusal(f"the code of one action may make {bounds}", "limit")
        return None


def _spec(served: ServedPack, env: Mapping[str, str]) -> SandboxSpec:
    """Return the interpreter's sandbox: what the pack's servers get, but for their secrets and programs."""
    python = python_runtime()
    theirs = [plan.spec for plan in served.plans.values()]  # needs, cut to what the policy grants
    limits = Limits(
        memory=min(spec.limits.memory for spec in theirs),
        cpu=min(spec.limits.cpu for spec in theirs),
        pids=min(spec.limits.pids for spec in theirs),
        disk=min(spec.limits.disk for spec in theirs),
    )
    return SandboxSpec(
        name=f"{served.name}-code",
        argv=(python.argv0, "-P", "-s", "-S", _RUNNER_AT),
        env={**python.env, "PYTHONHASHSEED": "0", **env},
        mounts=(*python.mounts, Mount(data_folder("sandboxes") / "code", _RUNNER_AT)),
        cwd=served.workspace_path,
        limits=limits,
        writable=all(spec.writable for spec in theirs),
    )


def _lost(lost: InterpreterLost) -> CodeDone:
    kind = ErrorType.TIMEOUT if lost.late else ErrorType.EXECUTION_ERROR
    return CodeDone("", "", None, _error(kind, f"{lost}; its variables are gone, the next code starts anew"))


def _error(kind: ErrorType, message: str) -> JsonObject:
    return {"error_type": kind.value, "message": message, "exception": None, "traceback": ""}
