"""The SDK's own server over Streamable HTTP with the echo tool in it: no gateway, no child, no policy."""

import contextlib
import sys
from collections.abc import AsyncGenerator
from typing import Any

import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
)
from starlette.applications import Starlette
from starlette.routing import Mount

SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


async def list_tools(ctx: ServerRequestContext[Any, Any], params: PaginatedRequestParams) -> ListToolsResult:
    """Show the one tool."""
    return ListToolsResult(tools=[Tool(name="echo", description="Return the text.", input_schema=SCHEMA)])


async def call_tool(ctx: ServerRequestContext[Any, Any], params: CallToolRequestParams) -> CallToolResult:
    """Say what was told."""
    return CallToolResult(content=[TextContent(text=str((params.arguments or {})["text"]))])


def app() -> Starlette:
    """Return the server as an application."""
    server: Server[Any] = Server("echo", version="1", get_tool_input_schema=lambda _: SCHEMA)
    server.add_request_handler("tools/list", PaginatedRequestParams, list_tools)
    server.add_request_handler("tools/call", CallToolRequestParams, call_tool)
    manager = StreamableHTTPSessionManager(server, json_response=True)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with manager.run():
            yield

    return Starlette(routes=[Mount("/", manager.handle_request)], lifespan=lifespan)


if __name__ == "__main__":
    uvicorn.run(app(), port=int(sys.argv[1]), log_level="error", access_log=False)
