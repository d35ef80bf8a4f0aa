"""The network of one sandbox: a loopback and nothing else, on which every address leads back to it.

No packet can leave, for want of an interface. That each address is local lets the sandbox's own kernel
refuse an attempt at once, as a closed port, and lets raw sockets see it: those that are made here are
handed the first packet of each connection and each datagram to any address but loopback, and what goes to
port 53 anywhere. The kernel filters, so that nothing else on the loopback costs anything.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct

__all__ = ["make"]

RTM_NEWLINK, RTM_NEWROUTE = 16, 24
NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE = 1, 4, 0x200, 0x400
NLMSG_ERROR = 2
HEADER = 16
LOOPBACK, IFF_UP = 1, 1
RT_TABLE_LOCAL, RTPROT_BOOT, RT_SCOPE_HOST, RT_SCOPE_UNIVERSE, RTN_LOCAL, RTA_OIF = 255, 3, 254, 0, 2, 4
ANSWER = 8192
NO_IPV6 = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EACCES)
"""What adding a route answers where the machine has IPv6 switched off: nothing is reached by it then."""

SO_ATTACH_FILTER, IPV6_RECVPKTINFO = 26, 49
QUEUE = 16_384
"""Bytes of attempts that wait to be read; the kernel counts what comes on top and drops it."""
KEPT = 512
"""Bytes of a packet that are seen: all of a DNS query."""
DNS = 53
SYN, SYN_ACK = 0x02, 0x12

# Instructions of classic BPF. A raw socket's packets start with the IP header in IPv4, behind it in IPv6.
WORD, HALF_AT_X, BYTE_AT_X, X_IS_HEADER = 0x20, 0x48, 0x50, 0xB1
X_IS, JUMP_EQ, AND, RETURN = 0x01, 0x15, 0x54, 0x06
NETWORK_HEADER = 0xFFF00000

PROTOCOLS = (socket.IPPROTO_TCP, socket.IPPROTO_UDP)

Instruction = tuple[int, int, int, int]


def make() -> list[socket.socket]:
    """Furnish this process's network namespace, which is new, and return what sees attempts there.

    Never call this in a namespace that anything else uses: it cuts that off from the world.
    """
    sockets = [_listener(socket.AF_INET, protocol) for protocol in PROTOCOLS]
    requests = [_LINK_UP, _ROUTES[socket.AF_INET]]
    try:
        sockets += [_listener(socket.AF_INET6, protocol) for protocol in PROTOCOLS]
        requests.append(_ROUTES[socket.AF_INET6])
    except OSError as error:
        if error.errno not in NO_IPV6:
            raise
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as channel:
        channel.bind((0, 0))
        channel.send(b"".join(requests))
        for number in range(len(requests)):
            _acknowledged(channel.recv(ANSWER), optional=number > 1)
    return sockets


def _acknowledged(answer: bytes, *, optional: bool) -> None:
    """Raise `OSError` for a refusal; IPv6 may be off."""
    kind, code = struct.unpack_from("=4xH10xi", answer)
    if kind != NLMSG_ERROR:
        raise OSError("the kernel does not answer about the loopback as it should")
    if code and not (optional and -code in NO_IPV6):
        raise OSError(-code, f"furnishing the loopback: {os.strerror(-code)}")


def _listener(family: socket.AddressFamily, protocol: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, _FILTERS[family, protocol].words)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, QUEUE)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
    return listener


class _Filter:
    """A program where the kernel finds it: `words` is its `struct sock_fprog`."""

    def __init__(self, program: list[Instruction]) -> None:
        code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
        self._kept = ctypes.create_string_buffer(code, len(code))
        self.words = struct.pack("@HP", len(program), ctypes.addressof(self._kept))


def _filter(family: int, protocol: int) -> _Filter:
    """Return the program that keeps attempts: first packets of TCP and every datagram of UDP, not to loopback
    unless to port 53."""
    first: list[Instruction] = []
    if protocol == socket.IPPROTO_TCP:
        first = [(BYTE_AT_X, 0, 0, 13), (AND, 0, 0, SYN_ACK), (JUMP_EQ, 0, 1, SYN)]
    port = [(HALF_AT_X, 0, 0, 2), (JUMP_EQ, 0, len(first) + 1, DNS)]
    beyond = len(port)
    if family == socket.AF_INET:
        own = [
            (X_IS_HEADER, 0, 0, 0), (WORD, 0, 0, 16),
            (AND, 0, 0, 0xFF000000), (JUMP_EQ, 0, beyond, 0x7F000000),
        ]  # fmt: skip
    else:
        own = [(X_IS, 0, 0, 0)]
        for left, value in zip((3, 2, 1, 0), (0, 0, 0, 1), strict=True):
            own += [(WORD, 0, 0, NETWORK_HEADER + 36 - 4 * left), (JUMP_EQ, 0, 2 * left + beyond, value)]
    return _Filter([*own, *port, *first, (RETURN, 0, 0, KEPT), (RETURN, 0, 0, 0)])


def _request(number: int, kind: int, flags: int, body: bytes) -> bytes:
    flags |= NLM_F_REQUEST | NLM_F_ACK
    return struct.pack("=IHHII", HEADER + len(body), kind, flags, number, 0) + body


def _route(number: int, family: int, scope: int) -> bytes:
    """Return the request that makes every address of a family local to the loopback."""
    route = struct.pack("=BBBBBBBBI", family, 0, 0, 0, RT_TABLE_LOCAL, RTPROT_BOOT, scope, RTN_LOCAL, 0)
    over = struct.pack("=HHI", 8, RTA_OIF, LOOPBACK)
    return _request(number, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, route + over)


# Made once, by the launcher, and not by each of its children.
_LINK_UP = _request(0, RTM_NEWLINK, 0, struct.pack("=BxHiII", socket.AF_UNSPEC, 0, LOOPBACK, IFF_UP, IFF_UP))
_ROUTES = {
    socket.AF_INET: _route(1, socket.AF_INET, RT_SCOPE_HOST),
    socket.AF_INET6: _route(2, socket.AF_INET6, RT_SCOPE_UNIVERSE),
}
_FILTERS = {
    (family, protocol): _filter(family, protocol)
    for family in (socket.AF_INET, socket.AF_INET6)
    for protocol in PROTOCOLS
}
