"""Runs inside a sandbox that has a door: asks its proxy for each of `TARGETS`, and tries ways past it.

    through.py TARGETS NAME

where TARGETS is a JSON list of request lines and NAME one to resolve. Prints a JSON list: the answers, each a
status code or why there is none, and what passed by another way.
"""

from __future__ import annotations

import json
import os
import socket
import sys


def ask(line: str) -> str:
    """Return what the proxy answers to one request line."""
    host, _, port = os.environ["HTTPS_PROXY"].rpartition("/")[2].partition(":")  # noqa: TID251 - its own
    try:
        with socket.create_connection((host, int(port)), timeout=10) as proxy:
            proxy.sendall(f"{line}\r\n\r\n".encode())
            return proxy.recv(4096).decode("latin-1").split(" ")[1]
    except (OSError, IndexError) as error:
        return repr(error)


def past(name: str) -> list[str]:
    """Return which of the ways past the proxy led somewhere."""
    found: list[str] = []
    for kind, what in ((socket.SOCK_STREAM, "TCP"), (socket.SOCK_DGRAM, "UDP")):
        for family, host in ((socket.AF_INET, "169.254.169.254"), (socket.AF_INET6, "2001:db8::1")):
            try:
                with socket.socket(family, kind) as direct:
                    direct.settimeout(5)
                    direct.connect((host, 80))
                    for _ in range(2):  # where no packet gets through, the second one is refused
                        direct.send(b"out")
            except OSError:
                continue
            found.append(f"{what} to {host}")
    try:
        found.append(f"{name} resolved to {socket.gethostbyname(name)}")
    except OSError:
        return found
    return found


if __name__ == "__main__":
    print(json.dumps([[ask(line) for line in json.loads(sys.argv[1])], past(sys.argv[2])]), flush=True)
