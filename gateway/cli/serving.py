"""`sandgate serve` and `sandgate stdio`: the fronts, on a socket or on the standard streams."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gateway.cli.files import read_text
from gateway.cli.heap import settle_heap
from gateway.cli.logs import configure, teller
from gateway.cli.options import (
    ConfigOption,
    LogFormatOption,
    LogLevelOption,
    NotIsolatedOption,
    PackArgument,
    PacksArgument,
    PolicyOption,
    SandboxOption,
    StateOption,
)
from gateway.errors import UsageError

if TYPE_CHECKING:
    import anyio
    from anyio.abc import TaskStatus

    from gateway.cli.wiring import Plan
    from gateway.cli.workers import Seat
    from gateway.config import Config
    from gateway.runtime.gateway import Gateway
    from gateway.runtime.shared_memory import SharedMemory
    from gateway.serve.app import GatewayApp
    from gateway.serve.identity import Identity

__all__ = ["serve", "stdio"]

ModeOption = Annotated[
    Literal["training", "deployment"] | None,
    typer.Option(
        "--mode", help="deployment (default): tool calls only. training: reset, step and state too."
    ),
]
LockedOption = Annotated[
    bool, typer.Option("--locked", help="Refuse a pack without tools.lock.json instead of writing one.")
]


def serve(
    packs: PacksArgument,
    policy: PolicyOption = None,
    mode: ModeOption = None,
    sandbox: SandboxOption = None,
    not_isolated: NotIsolatedOption = False,
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one [8000].")] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    auth: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Who may call; needed on any address but loopback.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Processes that answer; sessions stay on theirs [1].")
    ] = None,
    locked: LockedOption = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Reload a policy when its file changes, not only at SIGHUP.")
    ] = False,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
    seat: Annotated[str | None, typer.Option("--worker-seat", hidden=True)] = None,
) -> None:
    """Serve toolpacks over HTTP: MCP, and in training mode the environment interface.

    Prints `sandgate: ready on http://HOST:PORT` on stderr once calls would be answered. SIGTERM and
    Ctrl-C let calls in flight finish; then it exits with 0. SIGHUP reads the policies again: calls in
    flight keep the old one, and so does everybody if the new one is wrong.
    """
    import anyio

    from gateway.cli.wiring import make_plan
    from gateway.cli.workers import Seat, supervise

    flags = {
        "policy": policy,
        "mode": mode,
        "sandbox": sandbox,
        "host": host,
        "port": port,
        "state": state,
        "auth": auth,
        "workers": workers,
        "log": _given(format=log_format, level=log_level),
    }
    seated = None if seat is None else Seat.read(seat)
    plan = make_plan(
        packs,
        flags,
        config_file=config,
        not_isolated=not_isolated,
        locked=locked,
        warm=True,
        worker=None if seated is None else seated.number,
    )
    identity = _identity(plan.config)
    if seated is not None:
        configure(plan.config.log)
        anyio.run(_work, plan, identity, watch, seated, backend_options={"use_uvloop": True})
        return
    _announce(plan)
    if plan.config.workers > 1:
        code = anyio.run(supervise, plan.config, backend_options={"use_uvloop": True})
        if code:
            raise typer.Exit(code)
        return
    anyio.run(_serve, plan, identity, watch, backend_options={"use_uvloop": True})


def stdio(
    pack: PackArgument,
    policy: PolicyOption = None,
    sandbox: SandboxOption = None,
    not_isolated: NotIsolatedOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
    locked: LockedOption = False,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Be an MCP server on stdin and stdout: the same gateway, started by the client itself."""
    import anyio

    from gateway.cli.wiring import make_plan

    log = _given(format=log_format, level=log_level)
    flags = {"policy": policy, "sandbox": sandbox, "state": state, "log": log}
    plan = make_plan([pack], flags, config_file=config, not_isolated=not_isolated, locked=locked, beside=True)
    _announce(plan)
    anyio.run(_stdio, plan, backend_options={"use_uvloop": True})


def _given(**flags: object) -> dict[str, object] | None:
    """Return the flags of one section that were given, `None` if none was."""
    return {name: value for name, value in flags.items() if value is not None} or None


def _announce(plan: Plan) -> None:
    configure(plan.config.log)
    tell = teller(plan.config.log)
    for name in plan.unguarded:
        tell(f"pack {name!r} has no policy: every call to it is denied; give one with --policy")
    if plan.config.sandbox == "process":
        tell("--sandbox process: tool servers run as you, with your files and network; nothing is isolated")


def _identity(config: Config) -> Identity:
    """Return who may call; refuses to be reachable from elsewhere by anybody."""
    from gateway.serve.identity import LOCAL_IDENTITY, load_identity
    from gateway.serve.security import is_loopback

    if config.auth is not None:
        return load_identity(read_text(config.auth), str(config.auth))
    if is_loopback(config.host):
        return LOCAL_IDENTITY
    raise UsageError(
        f"--host {config.host} can be reached from other machines, and nobody would have to say who they "
        "are: give --auth FILE, or use --host 127.0.0.1"
    )


async def _serve(plan: Plan, identity: Identity, watch: bool) -> None:
    from gateway.serve.server import bind, serve_http

    config, tell = plan.config, teller(plan.config.log)
    # Bound before anything is started: a busy port costs no sandbox.
    with await bind(config.host, config.port) as listener:

        async def front(gateway: Gateway) -> None:
            async with _answering(config, gateway, identity, watch) as app:
                await serve_http(
                    app,
                    gateway,
                    listener=listener,
                    on_ready=lambda url: tell(f"ready on {url}"),
                    max_frame=config.limits.max_body,
                )

        await _started(plan, front)


async def _work(plan: Plan, identity: Identity, watch: bool, seat: Seat) -> None:
    """Be one worker: all of a gateway but its listener."""
    from gateway.serve.gate import GateLimits
    from gateway.serve.workers.worker import serve_worker

    config = plan.config

    async def front(gateway: Gateway) -> None:
        async with _answering(config, gateway, identity, watch) as app:
            await serve_worker(
                app,
                gateway,
                identity,
                own=seat.number,
                workers=config.workers,
                supervisor=seat.channel,
                limits=GateLimits(max_body=config.limits.max_body),
                trains=_orchestrated(config),
            )

    await _started(plan, front, seat.memory)


@asynccontextmanager
async def _answering(
    config: Config, gateway: Gateway, identity: Identity, watch: bool
) -> AsyncGenerator[GatewayApp]:
    """Yield what answers requests, and have policies reloaded meanwhile."""
    import anyio

    from gateway.cli.reloading import Reloader

    app = _app(config, gateway, identity)
    settle_heap()
    reloader = Reloader(gateway, config.policy, teller(config.log))
    async with anyio.create_task_group() as tasks:
        await tasks.start(reloader.on_hangup)
        if watch:
            await tasks.start(reloader.on_change)
        yield app
        tasks.cancel_scope.cancel()


async def _stdio(plan: Plan) -> None:
    from gateway.serve.mcp.stdio import serve_stdio

    await _started(plan, lambda gateway: serve_stdio(gateway, max_line=plan.config.limits.max_body))


async def _started(
    plan: Plan, front: Callable[[Gateway], Awaitable[None]], shared: SharedMemory | None = None
) -> None:
    """Open `plan` and run `front`. A signal before that gives the start up; later ones are the front's."""
    import anyio

    from gateway.cli.wiring import open_plan
    from gateway.serve.signals import ending_signals

    over = anyio.Event()

    async def watch_start(*, task_status: TaskStatus[anyio.CancelScope]) -> None:
        with anyio.CancelScope() as scope, ending_signals() as signals:
            task_status.started(scope)
            await anext(signals)
            tasks.cancel_scope.cancel()
        over.set()

    async with anyio.create_task_group() as tasks:
        watching = await tasks.start(watch_start)
        async with open_plan(plan, teller(plan.config.log), shared) as gateway:
            watching.cancel()
            await over.wait()
            await front(gateway)


def _orchestrated(config: Config) -> bool:
    """Whether there are episodes."""
    return config.mode == "training" or config.deployment.orchestration


def _app(config: Config, gateway: Gateway, identity: Identity) -> GatewayApp:
    from gateway.runtime.episodes import Episodes, EpisodeSettings
    from gateway.runtime.trajectories import TrajectoryFolder
    from gateway.serve.app import build_app
    from gateway.serve.gate import GateLimits
    from gateway.serve.security import HttpSecurity

    trajectories = TrajectoryFolder(config.state / "trajectories") if config.mode == "training" else None
    return build_app(
        gateway,
        identity=identity,
        security=HttpSecurity.bound_to(config.host),
        episodes=Episodes(
            gateway,
            cache_dir=config.cache,
            trajectories=trajectories,
            orchestration=config.deployment.orchestration,
            settings=EpisodeSettings(grace=config.limits.session_grace, queue=config.limits.queue),
        )
        if _orchestrated(config)
        else None,
        limits=GateLimits(max_body=config.limits.max_body),
        public_url=config.public_url,
    )
