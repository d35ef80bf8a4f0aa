"""The one composition root: from a command line to a gateway that takes calls. Prints nothing.

`make_plan` reads and checks everything and starts nothing, so that a fault costs nothing.
`open_plan` starts what the plan says. `serve`, `stdio`, `tools`, `call` and through them `demo`
all come here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import anyio.to_thread

from gateway.cli.logs import hide
from gateway.cli.policies import policies_of
from gateway.cli.tracing import open_tracing
from gateway.config import Config, default_state, installer_environment, load_config, read_secret
from gateway.core.policy import DENY_ALL, CompiledPolicy
from gateway.errors import StateInUse, UsageError
from gateway.runtime.clock import Clock, SystemClock
from gateway.runtime.gateway import Gateway, GatewaySettings, open_gateway
from gateway.runtime.ledger import Ledger, open_ledger
from gateway.runtime.ledger_chains import chain_of, settle_workers
from gateway.runtime.packages import Installer
from gateway.runtime.packs import Pack, load_pack
from gateway.runtime.pool_shelf import PoolSettings
from gateway.runtime.shared_memory import SharedMemory
from gateway.sandbox.drivers import DRIVERS, make_driver
from gateway.sandbox.egress import EgressSettings

__all__ = ["Plan", "check_driver", "egress_of", "installer_of", "make_plan", "open_plan", "secrets_of"]


MOST_BESIDE = 99
"""State folders beside the default one that are tried."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a command line amounts to, checked: settings, and packs with the policies that judge them.

    `worker` is the number of this process where it is one of several.
    """

    config: Config
    packs: tuple[tuple[Pack, CompiledPolicy], ...]
    locked: bool = False
    warm: bool = False
    beside: bool = False
    worker: int | None = None

    @property
    def unguarded(self) -> list[str]:
        """Names of packs without a policy: every call to them is denied."""
        return [pack.name for pack, policy in self.packs if policy is DENY_ALL]


def make_plan(
    packs: Sequence[str],
    flags: Mapping[str, object],
    *,
    config_file: Path | None = None,
    not_isolated: bool = False,
    locked: bool = False,
    warm: bool = False,
    beside: bool = False,
    worker: int | None = None,
) -> Plan:
    """Read settings, packs and policies; raises `ConfigError` or `UsageError` and starts nothing.

    `warm` keeps servers ready for sessions to come, as the settings say: worth it for many sessions only.
    `beside` takes another state folder where the default one is in use, for programs that come and go.
    `worker` has its own ledger in the state folder, which its supervisor holds.
    """
    config = load_config(flags, file=config_file)
    check_driver(config, not_isolated=not_isolated)
    loaded = [load_pack(name) for name in packs]
    names = [pack.name for pack in loaded]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"pack {', '.join(sorted(twice))} is given twice: name each once")
    return Plan(config, policies_of(loaded, config.policy), locked, warm, beside, worker)


def check_driver(config: Config, *, not_isolated: bool) -> None:
    """Refuse a driver that does not exist, and one that isolates nothing unless that is known."""
    if config.sandbox not in DRIVERS:
        raise UsageError(f"--sandbox {config.sandbox}: no such driver; there are: {', '.join(DRIVERS)}")
    if config.sandbox == "process" and not not_isolated:
        raise UsageError(
            "--sandbox process isolates nothing: tool servers can read and change what you can. Use it for "
            "debugging only, with --i-know-this-is-not-isolated"
        )


def installer_of(config: Config, say: Callable[[str], None], *, relock: bool = False) -> Installer:
    """Return what installs servers, into this config's cache."""
    return Installer(config.cache, environ=installer_environment(), say=say, relock=relock)


@asynccontextmanager
async def open_plan(
    plan: Plan, say: Callable[[str], None], shared: SharedMemory | None = None
) -> AsyncGenerator[Gateway]:
    """Start what `plan` says; entered, calls are answered. `say` is told what takes time or looks odd.

    `shared` is what a worker counts together with the others.
    Raises `UsageError` or `ConfigError` where the machine or a pack is not as needed.
    """
    config, clock = plan.config, SystemClock()
    settings = _settings(plan)
    hide(settings.secrets.values())
    async with (
        open_tracing(config.tracing) as tracing,
        _ledger(plan, clock, say) as ledger,
        make_driver(config.sandbox, cache_dir=config.cache) as driver,
        open_gateway(
            plan.packs,
            driver=driver,
            ledger=ledger,
            installer=installer_of(config, say),
            clock=clock,
            settings=settings,
            say=say,
            shared=shared,
            worker=plan.worker or 1,
        ) as gateway,
    ):
        gateway.tracing = tracing
        yield gateway


@asynccontextmanager
async def _ledger(plan: Plan, clock: Clock, say: Callable[[str], None]) -> AsyncGenerator[Ledger]:
    state = plan.config.state if plan.worker is None else chain_of(plan.config.state, plan.worker)
    movable = plan.beside and state == default_state()
    synced = plan.config.synced
    others = [state / "beside" / str(number) for number in range(1, MOST_BESIDE + 1)] if movable else []
    async with AsyncExitStack() as stack:
        for folder in (state, *others):
            try:
                ledger = await stack.enter_async_context(open_ledger(folder, clock, synced=synced))
            except StateInUse:
                if folder == [state, *others][-1]:
                    raise
                continue
            if folder != state:
                say(f"{state} is in use: the audit log of this one is in {folder}")
            await anyio.to_thread.run_sync(settle_workers, folder, clock.now())
            yield ledger
            return


def _settings(plan: Plan) -> GatewaySettings:
    config, limits = plan.config, plan.config.limits
    return GatewaySettings(
        mode=config.mode,
        max_sessions=limits.max_sessions,
        max_sessions_per_principal=limits.max_sessions_per_principal,
        session_idle=limits.session_idle,
        call_timeout=limits.call_timeout,
        client_timeout=limits.client_timeout,
        drain=limits.drain,
        max_result=limits.max_result,
        plain_arguments=config.audit.arguments == "plain",
        locked=plan.locked,
        pool=PoolSettings(config.pool.minimum, config.pool.maximum) if plan.warm else PoolSettings(),
        egress=egress_of(config),
        secrets=secrets_of(config, (pack for pack, _ in plan.packs)),
    )


def egress_of(config: Config) -> EgressSettings:
    """Return what the operator allows connections of servers."""
    wanted = config.egress
    return EgressSettings(
        networks=tuple(map(ip_network, wanted.networks)),
        session_bytes=wanted.session_bytes,
        connections=wanted.connections,
        connect_timeout=wanted.connect_timeout,
        idle=wanted.idle,
        longest=wanted.longest,
    )


def secrets_of(config: Config, packs: Iterable[Pack]) -> dict[str, str]:
    """Return the value of each secret that the packs' servers name; raises `UsageError` for a missing one."""
    servers = (server for pack in packs for server in pack.manifest.servers.values())
    return {name: read_secret(config, name) for server in servers for name in server.secrets}
