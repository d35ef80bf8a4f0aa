"""What one sandbox tried to reach past its proxy: read from the sockets of its network, told, counted.

A server may try as often as it likes: packets are read a few at a time, the same destination is told once
a minute with how often it was tried meanwhile, and of too many destinations only the number is told.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Attempts"]

BATCH = 32
"""Packets of one socket that are read at once."""
MOST = 64
TOLD_AGAIN = 60.0
"""Destinations that are told, each again after so many seconds."""
LONGEST, MORE = 512, 128
PORT, DNS = struct.Struct(">xxH"), 53
QUERY, UDP_HEADER = 12, 8
NAME, LABEL = 253, 63
SO_MEMINFO, MEMINFO, DROPPED = 55, struct.Struct("9I"), 8

Destination = tuple[str, str, int, str]
"""Protocol, address, port, and the name that a DNS query asked for."""


@dataclass
class _Told:
    at: float
    since: int = 0


@dataclass
class Attempts:
    """The attempts of one sandbox. `close` the sockets in the end."""

    sockets: list[socket.socket]
    known: dict[Destination, _Told] = field(default_factory=dict[Destination, _Told])
    uncounted: int = 0

    def read(self, now: float) -> tuple[list[dict[str, Any]], bool]:
        """Return what is to be told at `now` (monotonic seconds), and if there may be more now."""
        found: list[dict[str, Any]] = []
        full = False
        for listener in self.sockets:
            for _ in range(BATCH):
                try:
                    data, extra, _, sender = listener.recvmsg(LONGEST, MORE)
                except BlockingIOError:
                    break
                destination = _destination(listener, data, extra, sender[0])
                if (count := self._to_tell(destination, now)) > 0:
                    found.append(_message(destination, count))
            else:
                full = True
        return found, full

    def _to_tell(self, destination: Destination, now: float) -> int:
        """Return how many attempts at `destination` are to be told now: none, if it was told just now."""
        told = self.known.get(destination)
        if told is None and len(self.known) >= MOST:
            self._forget(now)
        if told is None and len(self.known) >= MOST:
            self.uncounted += 1
            return 0
        if told is None:
            self.known[destination] = _Told(now)
            return 1
        told.since += 1
        if now - told.at < TOLD_AGAIN:
            return 0
        count, told.at, told.since = told.since, now, 0
        return count

    def _forget(self, now: float) -> None:
        for destination, told in list(self.known.items()):
            if now - told.at >= TOLD_AGAIN:
                self.uncounted += self.known.pop(destination).since

    def rest(self, now: float) -> list[dict[str, Any]]:
        """Return what is left to be told in the end, the number of untold attempts last."""
        found, _ = self.read(now)
        more = self.uncounted + sum(told.since for told in self.known.values())
        more += sum(_unread(listener) for listener in self.sockets)
        return [*found, {"count": more}] if more else found

    def close(self) -> None:
        """Let the network go."""
        for listener in self.sockets:
            listener.close()


def _message(destination: Destination, count: int) -> dict[str, Any]:
    protocol, address, port, name = destination
    return {"protocol": protocol, "address": address, "port": port, "name": name, "count": count}


def _destination(listener: socket.socket, data: bytes, extra: list[Any], sender: str) -> Destination:
    """Return where a packet was to go; in IPv4 its own header says so."""
    if listener.family == socket.AF_INET6:
        address = next((socket.inet_ntop(socket.AF_INET6, told[:16]) for _, _, told in extra), sender)
        body = data
    else:
        address = socket.inet_ntoa(data[16:20])
        body = data[(data[0] & 0x0F) * 4 :]
    port = PORT.unpack_from(body)[0] if len(body) >= PORT.size else 0
    if listener.proto != socket.IPPROTO_UDP:
        return "tcp", address, port, ""
    return "udp", address, port, asked_name(body[UDP_HEADER:]) if port == DNS else ""


def asked_name(query: bytes) -> str:
    """Return the name that a DNS query asks for, made printable; nothing where it is none."""
    labels: list[str] = []
    at = QUERY
    while at < len(query) and 0 < (size := query[at]) <= LABEL:
        label = query[at + 1 : at + 1 + size]
        labels.append("".join(chr(byte) if 0x21 <= byte < 0x7F else "?" for byte in label))
        at += 1 + size
    return ".".join(labels)[:NAME]


def _unread(listener: socket.socket) -> int:
    """Return how many packets the kernel dropped, and those that are still in the queue."""
    dropped = MEMINFO.unpack(listener.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, MEMINFO.size))[DROPPED]
    waiting = 0
    while True:
        try:
            listener.recv(1)
        except BlockingIOError:
            return dropped + waiting
        waiting += 1
