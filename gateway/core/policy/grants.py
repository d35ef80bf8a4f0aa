"""Grants: what a server's sandbox gets is what it needs, cut to what the policy grants.

A file without `grants` cuts nothing but egress, which is given only where it is written. With it, sizes
that are not written stay as needed; secrets and hosts that are not written are not given. The workspace is
the only folder there is to grant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.core.documents import Document
from gateway.core.policy.egress import HostRule, common, parse_host_rule
from gateway.core.policy.model import Grant, GrantedMounts, PolicyFile
from gateway.core.policy.paths import canonical_path
from gateway.core.policy.request import ServerNeeds
from gateway.errors import Problem

__all__ = ["Granted", "differences", "granted", "mount_faults"]


@dataclass(frozen=True, slots=True)
class Granted:
    """What one sandbox gets. Sizes in bytes, `cpu` in cores; `writable` is about the workspace.

    `egress` is where it may connect to; with none it has no way out at all.
    """

    memory: int
    cpu: float
    pids: int
    secrets: tuple[str, ...]
    writable: bool
    egress: tuple[HostRule, ...] = ()


def granted(needs: ServerNeeds, grant: Grant | None, workspace: str) -> Granted:
    """Return needs ∩ grant; `None` grants all that is needed, except egress."""
    if grant is None:
        return Granted(needs.memory, needs.cpu, needs.pids, needs.secrets, writable=True)
    return Granted(
        memory=min(needs.memory, grant.memory or needs.memory),
        cpu=min(needs.cpu, grant.cpu or needs.cpu),
        pids=min(needs.pids, grant.pids or needs.pids),
        secrets=tuple(name for name in needs.secrets if name in grant.secrets),
        writable=grant.mounts is None or _names_workspace(grant.mounts.rw, workspace),
        egress=common(needs.egress, grant.egress),
    )


def mount_faults(model: PolicyFile, document: Document, workspace: str) -> Iterator[Problem]:
    """Yield a problem for each folder granted that is not the workspace, which this version cannot mount."""
    for server, grant in (model.grants or {}).items():
        mounts = grant.mounts or GrantedMounts()
        for how, roots in (("rw", mounts.rw), ("ro", mounts.ro)):
            for index, root in enumerate(roots):
                if not _names_workspace((root,), workspace):
                    message = (
                        f"this version mounts the workspace {workspace} and no other folder: not {root!r}"
                    )
                    place = ("grants", server, "mounts", how, index)
                    yield document.problem(place, "grant_mounts", message)


def differences(model: PolicyFile, document: Document, needs: Mapping[str, ServerNeeds]) -> Iterator[Problem]:
    """Yield where what servers need and what they are granted differ."""
    for server, need in needs.items():
        place = ("grants", server) if server in (model.grants or {}) else ("grants",)
        for message in _missing(need, _grant(model, server)):
            yield document.problem(place, "grant_smaller", f"server {server!r} {message}")
    for server, grant in (model.grants or {}).items():
        if server not in needs:
            message = f"no server {server!r} in this toolpack: its grant does nothing"
            yield document.problem(("grants", server), "grant_unused", message)
            continue
        unneeded = [name for name in grant.secrets if name not in needs[server].secrets]
        unneeded += [host for host in grant.egress if not common(needs[server].egress, (host,))]
        if unneeded:
            message = f"server {server!r} does not need {', '.join(unneeded)}: the grant does nothing"
            yield document.problem(("grants", server), "grant_unused", message)


def _grant(model: PolicyFile, server: str) -> Grant | None:
    return None if model.grants is None else model.grants.get(server, Grant.model_validate({}))


def _missing(need: ServerNeeds, written: Grant | None) -> Iterator[str]:
    grant = written or Grant.model_validate({"secrets": list(need.secrets)} if need.secrets else {})
    if grant.memory is not None and grant.memory < need.memory:
        yield f"needs {need.memory} bytes of memory and is granted {grant.memory}"
    if grant.cpu is not None and grant.cpu < need.cpu:
        yield f"needs {need.cpu:g} cores and is granted {grant.cpu:g}"
    if grant.pids is not None and grant.pids < need.pids:
        yield f"needs {need.pids} processes and is granted {grant.pids}"
    for secret in need.secrets:
        if secret not in grant.secrets:
            yield f"needs the secret {secret} and is not granted it"
    yield from _unreached(need.egress, grant.egress)


def _unreached(needs: tuple[str, ...], grants: tuple[str, ...]) -> Iterator[str]:
    given = [parse_host_rule(text) for text in grants]
    for need in needs:
        wanted, part = parse_host_rule(need), common((need,), grants)
        if any(rule.covers(wanted) for rule in given) or (part and not wanted.host):
            continue  # who needs any host makes do with those there are
        but = f"granted {', '.join(map(str, part))} only" if part else "not granted it"
        yield f"needs to reach {need} and is {but}"


def _names_workspace(roots: tuple[str, ...], workspace: str) -> bool:
    return any(canonical_path(root, workspace) == canonical_path(workspace, "/") for root in roots)
