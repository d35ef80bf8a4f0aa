"""What the driver `gvisor` needs of the engine's runtime `runsc`: how it has to be configured, and why. Pure.

The engine gives a runtime's arguments to every container of it, so the operator sets them once.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from typing import Any

from gateway.errors import UsageError

__all__ = ["ARGUMENTS", "NO_SOCKETS", "RUNTIME", "UNHEARD", "check_runtime", "filter_for"]

RUNTIME = "runsc"
ARGUMENTS = ("--network=none", "--oci-seccomp", "--host-uds=open")
NEEDED = {
    "--network=none": "containers without a network do not start, and what was started is left",
    "--oci-seccomp": "the system call filter is ignored",
}
SOCKETS = ("--host-uds=open", "--host-uds=all", "--fsgofer-host-uds")
NO_SOCKETS = (
    "gVisor reaches the gateway's proxy only with --host-uds=open among the engine's runtimeArgs of runsc"
)
UNHEARD = "gVisor's own network refuses what is tried, and tells nobody"


def check_runtime(arguments: Sequence[str] | None) -> bool:
    """Return whether containers can reach sockets that are mounted into them.

    `arguments` are the runtime's, `None` where the engine has none. Raises `UsageError` for what would not
    isolate, or not start.
    """
    if arguments is None:
        raise UsageError(f"the engine has no runtime {RUNTIME!r}: `apt-get install runsc`, {_configure()}")
    plain = {f"--{argument.lstrip('-')}".removesuffix("=true") for argument in arguments}
    for needed, why in NEEDED.items():
        if needed not in plain:
            raise UsageError(
                f"the runtime {RUNTIME!r} lacks the argument {needed}, and {why}: {_configure()}"
            )
    if "--platform=kvm" in plain:
        raise UsageError(
            f"the runtime {RUNTIME!r} uses kvm, which hangs inside virtual machines: {_configure()}"
        )
    return bool(plain & set(SOCKETS))


def filter_for(profile: str) -> str:
    """Return a seccomp profile (JSON) whose refusals with ENOSYS are such to gVisor as well.

    It refuses everything with EPERM, upon which libc starts no thread instead of trying an older call. A
    call that a tracer is to judge, where there is no tracer, fails with ENOSYS.
    """
    read: dict[str, Any] = json.loads(profile)
    for rule in read["syscalls"]:
        if rule.get("errnoRet") == errno.ENOSYS:
            del rule["errnoRet"]
            rule["action"] = "SCMP_ACT_TRACE"
    return json.dumps(read)


def _configure() -> str:
    listed = ", ".join(f'"{argument}"' for argument in ARGUMENTS)
    return (
        f'write {{"runtimes": {{"{RUNTIME}": {{"path": "/usr/bin/runsc", "runtimeArgs": [{listed}]}}}}}} '
        "into /etc/docker/daemon.json and reload the engine"
    )
