"""The MCP front: the only part of the gateway that is built on the `mcp` package."""
