"""FastMCP's own proxy in front of the same stdio server; runs in FastMCP's own environment."""

import sys

from fastmcp.client.transports import StdioTransport  # pyright: ignore
from fastmcp.server import create_proxy  # pyright: ignore

if __name__ == "__main__":
    server, port = sys.argv[1], int(sys.argv[2])
    proxy = create_proxy(StdioTransport(sys.executable, [server], keep_alive=True))  # pyright: ignore
    proxy.run(transport="http", port=port, show_banner=False, log_level="error")  # pyright: ignore
