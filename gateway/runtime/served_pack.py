"""Brings a toolpack up: installs its servers, starts each once, holds what they list against the lock."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import anyio

from gateway.core.catalog import Catalog, ServerListing, build_catalog
from gateway.core.json_types import JsonObject
from gateway.core.lock import Lock, PackageLock, lock_sha256
from gateway.core.manifest import Egress, Manifest, ServerSpec
from gateway.core.policy import CompiledPolicy
from gateway.core.policy.grants import Granted, granted
from gateway.core.policy.in_force import PolicyInForce
from gateway.core.policy.request import ServerNeeds
from gateway.core.seeding import SEED_MARK, SEED_VARIABLE
from gateway.errors import SandboxError, SandgateError, UsageError
from gateway.runtime.egress import EgressDesk
from gateway.runtime.leases import Lease, ServerPlan
from gateway.runtime.pack_checks import check_lock_for_stand_ins, check_stand_ins, unknown_tools
from gateway.runtime.packages import Installer, Program
from gateway.runtime.packs import Pack, prepare_seed, write_lock
from gateway.runtime.peer import ClientFacts
from gateway.runtime.remote_plan import hosts_of, remote_endpoint
from gateway.runtime.upstream import UpstreamFailure, UpstreamSettings
from gateway.runtime.upstream.opening import Offers
from gateway.sandbox.contract import Limits, Preload, SandboxDriver, SandboxSpec, Snapshot, WorkspaceSpec

__all__ = [
    "Listings",
    "ServedPack",
    "ServingSettings",
    "Survey",
    "list_servers",
    "plan_servers",
    "serve_pack",
    "serve_packs",
    "server_needs",
]

_REHEARSE = "SANDGATE_REHEARSE"
"""How `sandboxes/fork_server.py` is told the arguments to rehearse a server with."""

Listings = Mapping[str, list[JsonObject]]
"""Each server's tool definitions as it sent them."""


class Survey(NamedTuple):
    """What a pack's servers offer when they are started: their tools, and what they say of themselves."""

    listings: dict[str, list[JsonObject]]
    offers: dict[str, Offers]


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """What the operator decides about servers. Times in seconds, sizes in bytes.

    `training` runs each server as its manifest says for training, stand-ins in particular.
    """

    call_timeout: float = 30.0
    client_timeout: float = 300.0
    max_result: int = 10_000_000
    locked: bool = False
    training: bool = False
    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


@dataclass(frozen=True, slots=True)
class ServedPack:
    """A pack that takes calls: the policy in force, its catalog, and how to run its servers.

    `offers` is what each server said of itself when the pack was brought up, `lock_sha256` the hash of
    the lock it was held against.
    """

    pack: Pack
    in_force: PolicyInForce
    catalog: Catalog
    plans: Mapping[str, ServerPlan]
    seed: Path | None
    offers: Mapping[str, Offers] = field(default_factory=dict[str, Offers])
    lock_sha256: str = ""

    @property
    def name(self) -> str:
        """The pack's name."""
        return self.pack.name

    @property
    def policy(self) -> CompiledPolicy:
        """What judges a call that begins now."""
        return self.in_force.policy

    @property
    def workspace_path(self) -> str:
        """Where a session's files stand inside its sandboxes."""
        return self.pack.manifest.workspace.path

    def offering(self, *capability: str) -> list[str]:
        """Return the servers that declare a capability, in the pack's order."""
        return [name for name in self.plans if name in self.offers and self.offers[name].has(*capability)]

    def prefix_of(self, server: str) -> str:
        """Return what stands in front of the names of a server's tools and prompts."""
        return self.pack.manifest.servers[server].prefix or ""

    def seen_by(self, client: ClientFacts) -> ClientFacts:
        """Return a client as these servers can know it: alike for all that makes no difference to them."""
        modern = client.era == "modern" and any("modern" not in p.eras.refused for p in self.plans.values())
        return client if modern else ClientFacts("legacy", client.capabilities)

    def told_of(self, env: Mapping[str, str]) -> Mapping[str, str]:
        """Return an episode's environment as these servers can know it, as `seen_by` does a client."""
        servers = self.pack.manifest.servers
        return env if any(servers[name].takes_seed for name in self.plans) else _unseeded(env)

    def workspace_spec(self, seed: Path | None = None, snapshot: Snapshot | None = None) -> WorkspaceSpec:
        """Return what a session's workspace starts as: `snapshot`, else `seed`, else the pack's own."""
        needs = self.pack.manifest.sandbox
        return WorkspaceSpec(self.workspace_path, seed or self.seed, snapshot, needs.disk)

    def plans_with(self, env: Mapping[str, str]) -> Mapping[str, ServerPlan]:
        """Return the servers' plans with `env` added to their environments; the seed only where it is wanted.

        `${seed}` in what the manifest writes of a server is the seed that `env` names, else 0.
        """
        servers = self.pack.manifest.servers
        return {
            name: _fitted(plan, env if servers[name].takes_seed else _unseeded(env))
            for name, plan in self.plans.items()
        }


async def serve_packs(
    packs: Sequence[tuple[Pack, CompiledPolicy]],
    *,
    driver: SandboxDriver,
    installer: Installer,
    settings: ServingSettings,
    say: Callable[[str], None],
    egress: EgressDesk | None = None,
) -> dict[str, ServedPack]:
    """Bring packs up all at once; return them by name, in their order. Raises as `serve_pack` does.

    Of several that cannot be served, the first in order is the one told of.
    """
    served: dict[str, ServedPack] = {}
    faults: dict[str, SandgateError] = {}

    async def one(pack: Pack, policy: CompiledPolicy) -> None:
        try:
            served[pack.name] = await serve_pack(
                pack, policy, driver=driver, installer=installer, settings=settings, say=say, egress=egress
            )
        except SandgateError as fault:
            faults[pack.name] = fault

    async with anyio.create_task_group() as tasks:
        for pack, policy in packs:
            tasks.start_soon(one, pack, policy)
    for pack, _ in packs:
        if pack.name in faults:
            raise faults[pack.name]
    return {pack.name: served[pack.name] for pack, _ in packs}


async def serve_pack(
    pack: Pack,
    policy: CompiledPolicy,
    *,
    driver: SandboxDriver,
    installer: Installer,
    settings: ServingSettings,
    say: Callable[[str], None],
    egress: EgressDesk | None = None,
) -> ServedPack:
    """Install, start once, list, compare. Raises `ConfigError` or `UsageError`.

    Without a lock the first serve writes one and says so, unless `settings.locked`.
    """
    if pack.lock is None and settings.locked:
        raise UsageError(
            f"pack {pack.name!r} has no tools.lock.json: run 'sandgate toolpack lock {pack.folder}'"
        )
    if settings.training:
        check_lock_for_stand_ins(pack)
    plans, packages = await plan_servers(pack, policy, installer=installer, settings=settings)
    seed = await prepare_seed(pack, pack.manifest.workspace.seed, installer.cache_dir)
    listings, offers = await list_servers(pack, plans, driver=driver, seed=seed, egress=egress)
    if settings.training:
        check_stand_ins(pack, listings)
    lock = pack.lock
    if lock is None:
        lock = write_lock(pack, listings, packages)
        say(f"pack {pack.name!r} had no lock: wrote {pack.folder / 'tools.lock.json'}; review it and keep it")
    catalog = _catalog(pack, listings, lock)
    for finding in (*catalog.findings, *unknown_tools(pack, catalog)):
        say(f"pack {pack.name!r}: {finding}")
    return ServedPack(pack, PolicyInForce(policy), catalog, plans, seed, offers, lock_sha256(lock))


_ELSEWHERE = Program(argv=(), env={}, mounts=())
"""What is installed for a server at a URL."""


async def plan_servers(
    pack: Pack, policy: CompiledPolicy | None = None, *, installer: Installer, settings: ServingSettings
) -> tuple[dict[str, ServerPlan], dict[str, PackageLock]]:
    """Install every server of a pack and return how to run each, and what was installed for it.

    `policy` cuts what the sandboxes get to what it grants. Raises `ConfigError` or `UsageError`.
    """
    plans: dict[str, ServerPlan] = {}
    packages: dict[str, PackageLock] = {}
    for name, server in pack.manifest.servers.items():
        replaced = settings.training and server.stands_in
        running = server.in_training() if settings.training else server
        remote = running.url is not None
        program = (
            _ELSEWHERE
            if remote
            else await installer.ensure(name, running, pack.folder, None if replaced else pack.lock)
        )
        plans[name] = _plan(pack, name, running, program, settings, _share(pack, name, running, policy))
        if program.package is not None and not replaced:
            packages[name] = program.package
    return plans, packages


def _fitted(plan: ServerPlan, env: Mapping[str, str]) -> ServerPlan:
    seed, spec = env.get(SEED_VARIABLE, "0"), plan.spec
    own = {name: value.replace(SEED_MARK, seed) for name, value in spec.env.items()}
    argv = tuple(word.replace(SEED_MARK, seed) for word in spec.argv)
    return replace(plan, spec=replace(spec, argv=argv, env={**own, **env}))


def _unseeded(env: Mapping[str, str]) -> Mapping[str, str]:
    return {name: value for name, value in env.items() if name != SEED_VARIABLE}


def _share(pack: Pack, name: str, server: ServerSpec, policy: CompiledPolicy | None) -> Granted:
    """Return what the server's sandbox gets: what it needs, cut to what the policy grants."""
    needs, workspace = server_needs(pack.manifest, server), pack.manifest.workspace.path
    return policy.granted(name, needs, workspace) if policy else granted(needs, None, workspace)


def server_needs(manifest: Manifest, server: ServerSpec) -> ServerNeeds:
    """Return what a manifest says that one of its servers needs."""
    needs = manifest.sandbox
    egress = needs.network.egress if isinstance(needs.network, Egress) else ()
    if server.url is not None:
        egress = hosts_of(server)  # nothing of it runs here, so nothing else needs a way out
    return ServerNeeds(needs.memory, needs.cpu, needs.pids, tuple(server.secrets), tuple(egress))


def _plan(
    pack: Pack, name: str, server: ServerSpec, program: Program, settings: ServingSettings, share: Granted
) -> ServerPlan:
    secrets = _secrets(pack, name, share, settings.secrets)
    spec = SandboxSpec(
        name=f"{pack.name}-{name}",
        argv=(*program.argv, *server.args),
        env={**program.env, **server.env, **(secrets if server.url is None else {})},
        mounts=program.mounts,
        cwd=pack.manifest.workspace.path,
        limits=Limits(share.memory, share.cpu, share.pids, disk=pack.manifest.sandbox.disk),
        writable=share.writable,
        preload=_preload(server, program),
    )
    timeout = server.call_timeout or settings.call_timeout
    upstream = UpstreamSettings(server.startup_timeout, timeout, settings.max_result, settings.client_timeout)
    return ServerPlan(
        name, spec, upstream, share.egress, remote_endpoint(name, server, secrets, share.egress)
    )


def _preload(server: ServerSpec, program: Program) -> Preload | None:
    if not program.preload:
        return None
    rehearsed = {} if server.rehearse is None else {_REHEARSE: json.dumps(server.rehearse)}
    return Preload(program.preload, {**program.env, **server.env, **rehearsed})


def _secrets(pack: Pack, name: str, share: Granted, values: Mapping[str, str]) -> dict[str, str]:
    missing = [secret for secret in share.secrets if secret not in values]
    if missing:
        whose = f"server {name!r} of pack {pack.name!r} needs the secret {missing[0]}"
        where = f"name it under 'secrets' in gateway.yaml or set SANDGATE_SECRET_{missing[0]}"
        raise UsageError(f"{whose}: {where}")
    return {secret: values[secret] for secret in share.secrets}


async def list_servers(
    pack: Pack,
    plans: Mapping[str, ServerPlan],
    *,
    driver: SandboxDriver,
    seed: Path | None,
    egress: EgressDesk | None = None,
) -> Survey:
    """Start each server once in a sandbox of its own and return what it offers; raises `UsageError`."""
    needs, path = pack.manifest.sandbox, pack.manifest.workspace.path
    listings: dict[str, list[JsonObject]] = {}
    offers: dict[str, Offers] = {}
    failures: list[str] = []
    workspace = await driver.open_workspace(WorkspaceSpec(path=path, seed=seed, disk=needs.disk))
    async with anyio.create_task_group() as tasks:
        lease = Lease(
            {name: _fitted(plan, {}) for name, plan in plans.items()},
            driver=driver,
            workspace=workspace,
            tasks=tasks,
            restarts=False,
            on_listing=listings.__setitem__,
            egress=egress.session(pack.name) if egress else None,
        )
        try:
            failures += await _start_all(lease, plans)
            offers = lease.offers()
        finally:
            await lease.aclose()
    if failures:
        raise UsageError(f"pack {pack.name!r} cannot be served: {'; '.join(failures)}")
    return Survey({name: listings[name] for name in plans}, offers)


async def _start_all(lease: Lease, plans: Mapping[str, ServerPlan]) -> list[str]:
    failures: list[str] = []

    async def start(name: str) -> None:
        try:
            await lease.server(name)
        except (UpstreamFailure, SandboxError) as failure:
            failures.append(str(failure))

    async with anyio.create_task_group() as tasks:
        for name in plans:
            tasks.start_soon(start, name)
    return sorted(failures)


def _catalog(pack: Pack, listings: Listings, lock: Lock) -> Catalog:
    servers = [
        ServerListing(
            server=name,
            definitions=tuple(listings[name]),
            locked=lock.tools_of(name),
            kinds=server.kind_of(),
            prefix=server.prefix or "",
        )
        for name, server in pack.manifest.servers.items()
    ]
    try:
        return build_catalog(servers)
    except ValueError as error:
        raise UsageError(f"pack {pack.name!r} cannot be served: {error}") from error
