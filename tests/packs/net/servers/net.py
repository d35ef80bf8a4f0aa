"""An MCP server for tests: fetches by the proxy as well-behaved programs do, and tries ways around it."""

import os
import socket
import ssl
import sys
import urllib.error
import urllib.request
from http.client import HTTPException

import httpx2
from mcp.server import MCPServer

server = MCPServer("net")
ENVIRON = os.environ  # noqa: TID251 - its own, inside its sandbox


@server.tool()
def fetch(url: str) -> str:
    """Fetch a URL with the standard library, which reads HTTPS_PROXY and SSL_CERT_FILE."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode()}"
    except (OSError, HTTPException) as error:
        return f"failed: {error}"


@server.tool()
def fetch_as_clients_do(url: str) -> str:
    """Fetch a URL with a current HTTP client."""
    try:
        context = ssl.create_default_context(cafile=ENVIRON["SSL_CERT_FILE"])
        return httpx2.get(url, verify=context, timeout=10).text
    except httpx2.HTTPError as error:
        return f"failed: {error}"


@server.tool()
def connect(host: str, port: int) -> str:
    """Open a plain TCP connection, past the proxy."""
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError as error:
        return f"failed: {error}"
    return "connected"


@server.tool()
def datagram(host: str, port: int) -> str:
    """Send a UDP datagram, and another one: the first one's refusal is told then."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((host, port))
            for _ in range(2):
                sock.send(b"out")
        except OSError as error:
            return f"failed: {error}"
    return "sent"


@server.tool()
def resolve(host: str) -> str:
    """Resolve a name."""
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        return f"failed: {error}"


@server.tool()
def flood(host: str, ports: int, each: int) -> str:
    """Send so many datagrams to each of so many ports."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for number in range(ports * each):
            sock.sendto(b"out", (host, 1000 + number % ports))
    return "sent"


@server.tool()
def say(hex_bytes: str) -> str:
    """Send bytes to the proxy and return what comes back."""
    host, port = ENVIRON["HTTPS_PROXY"].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(bytes.fromhex(hex_bytes))
        sock.shutdown(socket.SHUT_WR)
        kept = b""
        while data := sock.recv(4096):
            kept += data
    return kept.decode("latin-1")


@server.tool()
def started() -> str:
    """Return the command that this interpreter was started with."""
    return " ".join(sys.orig_argv)


@server.tool()
def variables() -> str:
    """Return what it was told about proxies."""
    return "\n".join(f"{name}={value}" for name, value in ENVIRON.items() if "proxy" in name.lower())


server.run()
