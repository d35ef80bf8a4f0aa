"""The Task API: what a trainer may ask about tasks before it resets to one. Translates, decides nothing.

    GET  /list_environments                        -> ["<pack>", ...]
    GET  /{env}/splits                             -> [{name, type}, ...]
    POST /{env}/tasks       {split}                -> {tasks: [TASK, ...], env_name}
    POST /{env}/num_tasks   {split}                -> {num_tasks}
    POST /{env}/task        {split, index}         -> {task: TASK}
    POST /{env}/task_range  {split, start?, stop?} -> {tasks: [TASK, ...]}

`TASK` is `{id, split, index, prompt, seed}`, never the rubric. 404 for an environment that is not
served, 400 for a split or index that is not there, 422 for a body of another shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway.core.json_types import JsonObject, JsonValue
from gateway.core.task_choice import NoSuchTask, splits_of, task_range, tasks_of
from gateway.core.tasks import Task
from gateway.errors import ClientError
from gateway.runtime.gateway import Gateway
from gateway.serve.gate import GateLimits
from gateway.serve.openenv.bodies import body_of, gated, json_response, told
from gateway.serve.openenv.wire import FieldsModel, validated

__all__ = ["task_routes"]


class _NoSuchEnvironment(ClientError):
    status = 404
    word = "unknown_environment"


class _Split(FieldsModel):
    split: Annotated[str, Field(max_length=255)]


class _Index(_Split):
    index: int


class _Range(_Split):
    start: int | None = None
    stop: int | None = None


def task_routes(gateway: Gateway, packs: Sequence[str], prefix: str, limits: GateLimits) -> list[BaseRoute]:
    """Return the routes below `prefix` for these packs."""
    http = _TaskHttp(gateway, packs)
    asked = [("tasks", http.tasks), ("num_tasks", http.num_tasks), ("task", http.task)]
    asked.append(("task_range", http.task_range))
    return [
        Route(f"{prefix}/list_environments", http.environments),
        Route(f"{prefix}/{{env}}/splits", told(http.splits)),
        *(
            Route(f"{prefix}/{{env}}/{name}", told(handler), methods=["POST"], middleware=gated(limits))
            for name, handler in asked
        ),
    ]


class _TaskHttp:
    """The handlers."""

    def __init__(self, gateway: Gateway, packs: Sequence[str]) -> None:
        self._gateway = gateway
        self._packs = {name.lower(): name for name in packs}

    async def environments(self, _: Request) -> Response:
        return json_response(list[JsonValue](self._packs.values()))

    async def splits(self, request: Request) -> Response:
        return json_response([{"name": name, "type": name} for name in splits_of(self._all(request))])

    async def tasks(self, request: Request) -> Response:
        found = self._split(request, validated(_Split, body_of(request)))
        return json_response({"tasks": _shown(found), "env_name": self._name(request)})

    async def num_tasks(self, request: Request) -> Response:
        return json_response({"num_tasks": len(self._split(request, validated(_Split, body_of(request))))})

    async def task(self, request: Request) -> Response:
        asked = validated(_Index, body_of(request))
        found = self._split(request, asked)
        if not 0 <= asked.index < len(found):
            raise NoSuchTask(f"no task at index {asked.index}: the split has {len(found)}, counted from 0")
        return json_response({"task": _shown(found)[asked.index]})

    async def task_range(self, request: Request) -> Response:
        asked = validated(_Range, body_of(request))
        found = self._split(request, asked)
        chosen = task_range(found, asked.start, asked.stop)
        return json_response({"tasks": _shown(chosen, first=asked.start or 0)})

    def _name(self, request: Request) -> str:
        asked = str(request.path_params["env"])
        name = self._packs.get(asked.lower())
        if name is None:
            there_are = ", ".join(self._packs.values())
            raise _NoSuchEnvironment(f"unknown environment {asked[:64]!r}; there are: {there_are}")
        return name

    def _all(self, request: Request) -> dict[str, Task]:
        return dict(self._gateway.packs[self._name(request)].pack.tasks)

    def _split(self, request: Request, asked: _Split) -> list[Task]:
        return tasks_of(self._all(request), asked.split)


def _shown(tasks: Sequence[Task], first: int = 0) -> list[JsonValue]:
    return [_task(task, index) for index, task in enumerate(tasks, first)]


def _task(task: Task, index: int) -> JsonObject:
    return {"id": task.id, "split": task.split, "index": index, "prompt": task.prompt, "seed": task.seed}
