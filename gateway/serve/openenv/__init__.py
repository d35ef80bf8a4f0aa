"""The training front: the OpenEnv 0.10 wire contract over HTTP and WebSocket."""

from gateway.serve.openenv.routes import SESSION_HEADER, env_routes

__all__ = ["SESSION_HEADER", "env_routes"]
