"""The stock OpenEnv server with the echo tool in it, in its own environment: no isolation, no policy."""

import sys

import uvicorn
from fastmcp import FastMCP  # pyright: ignore
from openenv.core.env_server import http_server, mcp_environment, types  # pyright: ignore
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation  # pyright: ignore


class Echo(mcp_environment.MCPEnvironment):  # pyright: ignore
    """One tool that says what it was told."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self):  # pyright: ignore
        tools = FastMCP("echo")  # pyright: ignore

        @tools.tool  # pyright: ignore
        def echo(text: str) -> str:  # pyright: ignore
            return text

        super().__init__(tools)  # pyright: ignore
        self._steps = 0

    def reset(self, seed=None, episode_id=None, **_):  # pyright: ignore
        """Start anew."""
        self._steps = 0
        return types.Observation(done=False, reward=0.0)  # pyright: ignore

    def _step_impl(self, action, **_):  # pyright: ignore
        return types.Observation(done=False, reward=0.0)  # pyright: ignore

    @property
    def state(self):  # pyright: ignore
        """Return the count of steps."""
        return types.State(episode_id="bench", step_count=self._steps)  # pyright: ignore


if __name__ == "__main__":
    app = http_server.create_fastapi_app(  # pyright: ignore
        Echo, CallToolAction, CallToolObservation, max_concurrent_envs=512, env_name="echo"
    )
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False, ws="websockets-sansio")  # pyright: ignore
