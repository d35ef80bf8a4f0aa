"""What an environment says of itself, in both modes and to every known caller. Tells, decides nothing.

GET /health        -> {"status": "healthy"}
GET /metadata      -> {name, description, version, readme_content}
GET /schema        -> {action, observation, reset_observation, state}: JSON Schemas
GET /openapi.json  -> the routes there are, in this mode
"""

from __future__ import annotations

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway.runtime.packs import Pack
from gateway.serve.openenv.bodies import json_response
from gateway.serve.openenv.openapi import openapi
from gateway.serve.openenv.schemas import schemas

__all__ = ["about_routes"]


def about_routes(pack: Pack, prefix: str, *, playable: bool) -> list[BaseRoute]:
    """Return the routes of one pack below `prefix`; `playable`: episodes can be played here."""
    http = _AboutHttp(pack, prefix, playable)
    return [
        Route(f"{prefix}/health", http.health),
        Route(f"{prefix}/metadata", http.metadata),
        Route(f"{prefix}/schema", http.schema),
        Route(f"{prefix}/openapi.json", http.openapi),
    ]


class _AboutHttp:
    """The handlers of one pack."""

    def __init__(self, pack: Pack, prefix: str, playable: bool) -> None:
        self._pack = pack
        self._prefix = prefix
        self._playable = playable

    async def health(self, _: Request) -> Response:
        return json_response({"status": "healthy"})

    async def metadata(self, _: Request) -> Response:
        manifest = self._pack.manifest
        readme = anyio.Path(self._pack.folder / "README.md")
        text = await readme.read_text("utf-8") if await readme.is_file() else None
        return json_response(
            {
                "name": manifest.name,
                "description": manifest.description,
                "version": manifest.version,
                "readme_content": text,
            }
        )

    async def schema(self, _: Request) -> Response:
        return json_response(schemas())

    async def openapi(self, _: Request) -> Response:
        manifest = self._pack.manifest
        return json_response(
            openapi(manifest.name, manifest.description, server=self._prefix or "/", playable=self._playable)
        )
