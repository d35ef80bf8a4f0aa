"""The training front: the OpenEnv 0.10 wire contract over HTTP and WebSocket."""

from gateway.serve.openenv.about import about_routes
from gateway.serve.openenv.routes import SESSION_HEADER, env_routes
from gateway.serve.openenv.rpc_routes import McpOrDialect, ProbeAnswered
from gateway.serve.openenv.tasks import task_routes

__all__ = ["SESSION_HEADER", "McpOrDialect", "ProbeAnswered", "about_routes", "env_routes", "task_routes"]
