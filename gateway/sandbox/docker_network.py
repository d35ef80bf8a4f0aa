"""Furnishes the network of a container from outside, as the launcher does for its own sandboxes.

The engine leaves a container a loopback and nothing else. It is given the same routes and raw sockets as any
sandbox (`launcher.network`), which the container gets no right and no descriptor for. Blocks.
"""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .launcher import kernel, network

__all__ = ["NOT_ROOT", "NOT_SEEN", "Unheard", "furnish"]

OWN = Path("/proc/self/ns/net")
NOT_ROOT = "to listen in a container's network takes root's rights: run the gateway as root"
NOT_SEEN = "the container's processes are not seen from here: run the gateway in the engine's pid namespace"


class Unheard(Exception):
    """Nothing can listen in the networks of containers here; the text says why, for people."""


def furnish(container: str, pid: int) -> list[socket.socket]:
    """Furnish the network of a container whose init is process `pid`, and return what sees attempts there.

    Raises `Unheard`, or `OSError` where it should have worked.
    """
    try:
        namespace = _namespace(container, pid)
        try:
            with ThreadPoolExecutor(1) as apart:  # a thread enters the namespace and ends there
                return apart.submit(_furnished, namespace).result()
        finally:
            os.close(namespace)
    except PermissionError as error:
        raise Unheard(NOT_ROOT) from error


def _namespace(container: str, pid: int) -> int:
    """Return a descriptor of the container's network namespace, and of no other."""
    try:
        process = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Unheard(NOT_SEEN) from error
    try:
        # The number is the engine's, and may be that of any other process here; its group has the full id.
        with os.fdopen(os.open("cgroup", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)) as groups:
            if container not in groups.read():
                raise Unheard(NOT_SEEN)
        namespace = os.open("ns/net", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    finally:
        os.close(process)
    if os.path.samestat(os.fstat(namespace), OWN.stat()):
        os.close(namespace)
        raise Unheard("the container has the gateway's own network")
    return namespace


def _furnished(namespace: int) -> list[socket.socket]:
    kernel.setns(namespace, kernel.CLONE_NEWNET)
    return network.make()
