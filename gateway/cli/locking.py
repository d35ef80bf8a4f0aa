"""Locking a pack: install its servers anew, start each once in a sandbox, write down what they are."""

from __future__ import annotations

from gateway.cli.output import say
from gateway.cli.policies import policies_of
from gateway.cli.wiring import egress_of, installer_of, secrets_of
from gateway.config import Config
from gateway.core.json_types import JsonObject
from gateway.runtime.egress import EgressDesk
from gateway.runtime.packs import Pack, prepare_seed, write_lock
from gateway.runtime.served_pack import Listings, ServingSettings, list_servers, plan_servers
from gateway.sandbox.drivers import make_driver
from gateway.sandbox.egress import EgressGate

__all__ = ["lock_pack"]


class _Told:
    """Where connections are told instead of recorded: the operator is watching, and there is no ledger."""

    async def append(self, body: JsonObject) -> None:
        match body:
            case {"server": server, "decision": {"effect": effect}, "egress": {"asked": asked}}:
                say(f"server {server!r} connects to {asked}: {effect}")
            case _:
                return


async def lock_pack(pack: Pack, config: Config) -> Listings:
    """Write a pack's `tools.lock.json` and return what its servers list; raises `UsageError`."""
    installer = installer_of(config, say, relock=True)
    settings = ServingSettings(secrets=secrets_of(config, [pack]))
    elsewhere = any(server.url is not None for server in pack.manifest.servers.values())
    # What is elsewhere is reached only where the policy grants it, also by this command.
    policy = policies_of([pack], None)[0][1] if elsewhere else None
    async with (
        make_driver(config.sandbox, cache_dir=config.cache) as driver,
        EgressGate(egress_of(config)) as gate,
    ):
        plans, packages = await plan_servers(pack, policy, installer=installer, settings=settings)
        seed = await prepare_seed(pack, pack.manifest.workspace.seed, installer.cache_dir)
        desk = EgressDesk(gate, _Told())
        listings, _ = await list_servers(pack, plans, driver=driver, seed=seed, egress=desk)
    write_lock(pack, listings, packages)
    return listings
