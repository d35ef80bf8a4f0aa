"""What a sandbox with a door is given: the socket, the shim that serves it on its loopback, certificates.

Drivers need to know nothing of it: it is two more mounts and another first word of the command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from gateway.sandbox.contract import Mount, SandboxSpec
from gateway.sandbox.runtimes import python_runtime

__all__ = ["EGRESS_SHIM", "EGRESS_SOCKET", "SHIM_LENGTH", "to_fork", "with_door"]

EGRESS_SOCKET, EGRESS_SHIM = "/opt/sandgate/egress.sock", "/opt/sandgate/egress_shim.py"
SHIM = Path(__file__).parent.parent / "inside" / "egress_shim.py"
SHIM_WORDS = ("-I", "-S", EGRESS_SHIM, EGRESS_SOCKET)
SHIM_LENGTH = 1 + len(SHIM_WORDS)
"""Words of a command before those of the program itself, where it has a door."""
SHIM_PROCESSES = 1
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def with_door(spec: SandboxSpec, socket: Path) -> SandboxSpec:
    """Return `spec` with the proxy at `socket` as its way out."""
    runtime = python_runtime()
    taken = {mount.target for mount in spec.mounts}
    mounts = (
        *spec.mounts,
        *(mount for mount in runtime.mounts if mount.target not in taken),
        Mount(SHIM, EGRESS_SHIM),
        Mount(socket, EGRESS_SOCKET),
    )
    return replace(
        spec,
        argv=(runtime.argv0, *SHIM_WORDS, *spec.argv),
        env={**_certificates(), **runtime.env, **spec.env},
        mounts=mounts,
        limits=replace(spec.limits, pids=spec.limits.pids + SHIM_PROCESSES),
        egress=socket,
    )


def to_fork(spec: SandboxSpec) -> SandboxSpec:
    """Return a spec that has a door as what is forked: the program itself, the same for every socket.

    Another file stands where a fork's own socket is going to be mounted; the fork serves that itself.
    """
    taken = tuple(mount for mount in spec.mounts if mount.target != EGRESS_SOCKET)
    return replace(spec, argv=spec.argv[SHIM_LENGTH:], mounts=(*taken, Mount(SHIM, EGRESS_SOCKET)))


def _certificates() -> Mapping[str, str]:
    """Return the variable that makes every TLS library inside trust what the machine trusts."""
    return {"SSL_CERT_FILE": CERTIFICATES} if Path(CERTIFICATES).is_file() else {}
