"""What the engine is asked for: one hardened container, and the volume of a workspace. Pure; asks nothing.

The engine's settings are the sandbox: each line of `HostConfig` here closes something.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.core.json_types import JsonObject, JsonValue

from .contract import SandboxSpec, WorkspaceSpec
from .start_request import SCRATCH, SCRATCH_INODES, SHM

__all__ = [
    "HELPERS",
    "INIT_PROCESSES",
    "INTERPRETER",
    "Place",
    "container_config",
    "control_groups",
    "first_words",
    "volume_config",
]

USER = 1000
INIT_PROCESSES = 1
"""The engine's init, beside the program's."""
FEWEST_PROCESSES = 16
"""The runtime itself starts threads in the container's group before the program; with fewer it aborts."""
KERNEL_PROCESSES, KERNEL_MEMORY = 512, 128 * 2**20
"""What gVisor's kernel needs beside the program: with 64 threads it is killed."""
HELPERS = "/opt/sandgate"
"""Where `gateway/sandbox/inside` stands in a container."""
INTERPRETER = "/usr/bin/python3"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/tmp/home",  # noqa: S108 - inside, where it is new and empty
    "USER": "agent",
    "LANG": "C.UTF-8",
}
MASKED = (
    # Nothing of the host's: the engine would show its devices, its sysfs and pid 1's environment.
    *("/sys", "/proc/1/environ", "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore"),
    *("/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list"),
    *("/proc/timer_stats", "/dev/mqueue"),
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True)
class Place:
    """What all containers of one driver have in common, and the volume this one sees at `workspace`.

    `own_kernel` is the engine's name of the runtime that gives each a kernel of its own, as `runsc`.
    """

    image: str
    seccomp: str
    labels: Mapping[str, str]
    volume: str
    workspace: str
    disk: int
    own_kernel: str | None = None


def volume_config(spec: WorkspaceSpec) -> dict[str, str]:
    """Return the options of the engine's `local` volume driver for a workspace in memory."""
    owner = f"uid={USER},gid={USER},mode=0700"
    inodes = spec.inodes + 1  # its top folder
    return {
        "type": "tmpfs",
        "device": "tmpfs",
        "o": f"size={spec.disk},nr_inodes={inodes},{owner},nosuid,nodev",
    }


def container_config(spec: SandboxSpec, place: Place) -> JsonObject:
    """Return the body of the engine's create request for `spec`."""
    return {
        "Image": place.image,
        "Hostname": "sandbox",
        "User": f"{USER}:{USER}",
        "Entrypoint": [INTERPRETER, "-I", "-S", f"{HELPERS}/start.py"],
        "Cmd": [],
        # A name without a value takes the engine's default away: what counts comes in by stdin.
        "Env": ["PATH", "HOSTNAME", "HOME"],
        "WorkingDir": "/",
        "Labels": dict(place.labels),
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": True,
        "StdinOnce": True,
        "Tty": False,
        "NetworkDisabled": True,
        "StopSignal": "SIGKILL",
        "HostConfig": _host_config(spec, place),
    }


def _host_config(spec: SandboxSpec, place: Place) -> JsonObject:
    limits, scratch = spec.limits, min(SCRATCH, spec.limits.disk)
    # Files in memory count as memory: what workspace and scratch may hold comes on top of the limit.
    memory = limits.memory + scratch + SHM + (place.disk if spec.writable else 0)
    inodes = min(SCRATCH_INODES, limits.inodes)
    config: JsonObject = {
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges", f"seccomp={place.seccomp}"],
        "ReadonlyRootfs": True,
        "MaskedPaths": list(MASKED),
        "ReadonlyPaths": list(READ_ONLY),
        "NetworkMode": "none",
        "IpcMode": "private",
        "PidMode": "",
        "Init": True,
        "LogConfig": {"Type": "none"},
        "RestartPolicy": {"Name": "no"},
        "Memory": memory,
        "MemorySwap": memory,
        "NanoCpus": round(limits.cpu * 1e9),
        "PidsLimit": max(limits.pids + INIT_PROCESSES, FEWEST_PROCESSES),
        "OomScoreAdj": 500,
        "ShmSize": SHM,
        "Tmpfs": {
            "/tmp": f"size={scratch},nr_inodes={inodes},uid={USER},gid={USER},mode=0700,exec"  # noqa: S108
        },
        "Ulimits": [
            _ulimit("core", 0),
            _ulimit("nofile", limits.open_files),
            _ulimit("fsize", max(place.disk, scratch)),
        ],
        "Mounts": _mounts(spec, place),
    }
    return config if place.own_kernel is None else config | _own_kernel(config, spec, place.own_kernel)


def _own_kernel(config: JsonObject, spec: SandboxSpec, runtime: str) -> JsonObject:
    """Return what differs under a runtime whose kernel is a program on the host, counted with the container.

    It counts processes itself, per container, and masks nothing of its own `/sys`.
    """
    memory, tmpfs, ulimits = config["Memory"], config["Tmpfs"], config["Ulimits"]
    assert isinstance(memory, int) and isinstance(tmpfs, dict) and isinstance(ulimits, list)  # noqa: PT018
    return {
        "Runtime": runtime,
        "Memory": memory + KERNEL_MEMORY,
        "MemorySwap": memory + KERNEL_MEMORY,
        "PidsLimit": KERNEL_PROCESSES + 2 * spec.limits.pids,
        "Ulimits": [*ulimits, _ulimit("nproc", spec.limits.pids + INIT_PROCESSES)],
        "Tmpfs": tmpfs | dict.fromkeys(("/sys", "/sys/fs/cgroup"), "ro,size=4096"),
    }


def _ulimit(name: str, value: int) -> JsonObject:
    return {"Name": name, "Soft": value, "Hard": value}


def _mounts(spec: SandboxSpec, place: Place) -> list[JsonValue]:
    """Return the read-only folders, outer ones first, then the workspace."""
    here = Path(__file__).parent
    helpers = {"start.py": here / "inside/start.py", "keep.py": here / "inside/keep.py"}
    shown = [(str(source), f"{HELPERS}/{name}") for name, source in helpers.items()]
    shown += [(str(here / name), f"{HELPERS}/{name}") for name in ("workspace.py", "workspace_tree.py")]
    wanted = sorted(spec.mounts, key=lambda mount: mount.target.count("/"))
    shown += [(os.path.realpath(mount.source), mount.target) for mount in wanted]
    return [*(_bind(source, target) for source, target in shown), _workspace(spec, place)]


def _bind(source: str, target: str) -> JsonObject:
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": True}


def _workspace(spec: SandboxSpec, place: Place) -> JsonObject:
    return {
        "Type": "volume",
        "Source": place.volume,
        "Target": place.workspace,
        "ReadOnly": not spec.writable,
        "VolumeOptions": {"NoCopy": True},
    }


def first_words(spec: SandboxSpec) -> bytes:
    """Return what `inside/start.py` reads first: the program, its folder and its environment."""
    program = {"argv": list(spec.argv), "env": ENVIRONMENT | dict(spec.env), "cwd": spec.cwd}
    data = json.dumps(program).encode()
    return f"{len(data):08x}".encode() + data


def control_groups(container: str) -> dict[str, str]:
    """Return controller -> folder of a running container, where this process can see them."""
    top = Path("/sys/fs/cgroup")
    names = (f"docker/{container}", f"system.slice/docker-{container}.scope")
    found: dict[str, str] = {}
    for controller in ("memory", "pids", "cpuacct"):
        places = (top / hierarchy / name for hierarchy in (controller, "") for name in names)
        folder = next((place for place in places if place.is_dir()), None)
        if folder is not None:
            found[controller] = str(folder)
    return found
