"""sandgate: the MCP tool-sandboxing gateway."""

__version__ = "0.1.0"
