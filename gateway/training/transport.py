"""How both clients connect, and what a failing connection means. Decides nothing about episodes."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.http11 import Response

from gateway.training.codec import socket_url
from gateway.training.errors import AnswerLate, ConnectionLost, EnvError, NotAllowed, ServerFailed

__all__ = ["CLOSE_SECONDS", "CONNECTION_FAULTS", "Address", "fault_of"]

CLOSE_SECONDS = 5.0
"""How long an ending waits for the server to have ended its side."""

CONNECTION_FAULTS = (OSError, TimeoutError, WebSocketException, EOFError)
"""What connecting, sending and receiving raise."""

_MAX_ANSWER = 64 * 2**20
"""Bytes of one answer; a server's own limit on results is far below."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where an environment is and how it is reached; `timeout` is in seconds, for one answer."""

    url: str
    token: str | None
    timeout: float

    @classmethod
    def of(cls, url: str, pack: str | None, token: str | None, timeout: float) -> Address:
        """Return the address of a pack's socket; raises `InvalidRequest`."""
        return cls(socket_url(url, pack), token, timeout)

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of `websockets`' `connect`, sync or async."""
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        proxy: Literal[True] | None = None if _is_loopback(urlsplit(self.url).hostname or "") else True
        return {
            "additional_headers": headers,
            "compression": None,  # frames are small, and steps are many
            "max_size": _MAX_ANSWER,
            "proxy": proxy,
            "open_timeout": self.timeout,
            "close_timeout": CLOSE_SECONDS,
        }


def fault_of(error: BaseException, address: Address) -> EnvError:
    """Return one of `CONNECTION_FAULTS` in the trainer's terms."""
    match error:
        case InvalidStatus():
            return _refused(error.response, address)
        case ConnectionClosed():
            said = error.rcvd.reason if error.rcvd else ""
            return ConnectionLost(f"{address.url} closed the connection{': ' + said if said else ''}")
        case TimeoutError():
            return AnswerLate(f"no answer from {address.url} within {address.timeout:g} s")
        case _:
            return ConnectionLost(f"cannot talk to {address.url}: {error}")


def _refused(response: Response, address: Address) -> EnvError:
    status = response.status_code
    if "WWW-Authenticate" in response.headers:
        return NotAllowed(
            f"{address.url} refused the connection ({status}): give a token with role orchestrator"
        )
    if status in (403, 404):  # what servers answer where there is no such socket
        return ConnectionLost(
            f"no environment at {address.url}: is it served with --mode training, and its pack named?"
        )
    return ServerFailed(f"{address.url} refused the connection ({status})")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
