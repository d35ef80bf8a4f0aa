"""From policy files and packs to policies that judge; shared by every command that needs one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gateway.cli.files import read_text
from gateway.core.policy import DENY_ALL, CompiledPolicy, PackFacts, compile_policy, load_policy
from gateway.runtime.packs import MANIFEST_FILE, Pack, bundled_packs, load_pack
from gateway.runtime.served_pack import server_needs

__all__ = ["facts_of", "pack_of_policy", "policies_of"]


def facts_of(packs: Sequence[Pack]) -> PackFacts | None:
    """Return what the packs' manifests and locks say that a policy can be held against."""
    if not packs:
        return None
    servers = [(pack, name, server) for pack in packs for name, server in pack.manifest.servers.items()]
    return PackFacts(
        tools={name: pack.lock.schemas_of(name) for pack, name, _ in servers if pack.lock},
        kinds={name: server.kind_of() for _, name, server in servers},
        workspace=packs[0].manifest.workspace.path,
        needs={name: server_needs(pack.manifest, server) for pack, name, server in servers},
    )


def policies_of(packs: Sequence[Pack], override: Path | None) -> tuple[tuple[Pack, CompiledPolicy], ...]:
    """Return each pack with what judges it: `override` for all, else the pack's own, else `DENY_ALL`.

    Raises `ConfigError` for a policy that is wrong or whose own tests fail.
    """
    if override is not None:
        shared = _compiled(override, packs)
        return tuple((pack, shared) for pack in packs)
    return tuple(
        (pack, _compiled(pack.policy_file, [pack]) if pack.policy_file else DENY_ALL) for pack in packs
    )


def _compiled(file: Path, packs: Sequence[Pack]) -> CompiledPolicy:
    return compile_policy(load_policy(read_text(file), str(file)), facts_of(packs))


def pack_of_policy(file: Path) -> Pack | None:
    """Return the pack that names `file` as its policy: the one in the same folder, or a bundled one."""
    beside = [str(file.parent)] if (file.parent / MANIFEST_FILE).is_file() else []
    for name in (*beside, *bundled_packs()):
        pack = load_pack(name, to_serve=False)
        if pack.policy_file is not None and pack.policy_file.resolve() == file.resolve():
            return pack
    return None
