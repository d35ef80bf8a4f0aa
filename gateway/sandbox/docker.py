"""The engine's interface as this package uses it: a few blocking calls, to be made in threads.

The only module that imports `docker`. Every failure becomes a `SandboxError` with the engine's words.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import docker  # type: ignore[import-untyped]
import docker.errors  # type: ignore[import-untyped]
import docker.utils  # type: ignore[import-untyped]
import requests

from gateway.core.json_types import JsonObject
from gateway.errors import SandboxError, UsageError

from .docker_streams import attach

__all__ = ["Ended", "Engine", "Image"]

DEFAULT_SOCKET = "unix:///var/run/docker.sock"
UNIX = "http+unix://"
TIMEOUT = 60
GONE, CONFLICT = 404, 409
NO_ENGINE = (
    "no Docker engine answers ({0}): start it (`systemctl start docker`; `apt-get install docker.io` where "
    "there is none), or name its unix socket in DOCKER_HOST"
)


@dataclass(frozen=True, slots=True)
class Image:
    """An image that the engine has: its id and its labels."""

    id: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Ended:
    """One container ended, with its init's exit code."""

    container: str
    code: int


class Engine:
    """A connection to the engine on this machine. Use `close`."""

    def __init__(self) -> None:
        """Connect to DOCKER_HOST or the usual socket. Raises `UsageError` where no engine answers there."""
        settings = cast(dict[str, Any], docker.utils.kwargs_from_env())
        address = str(settings.get("base_url") or DEFAULT_SOCKET)
        if not address.startswith(("unix://", UNIX)):
            raise UsageError(
                f"the engine at {address} is elsewhere and cannot mount this machine's files: use a local one"
            )
        self.socket = "/" + address.partition("://")[2].lstrip("/")
        try:
            with socket.socket(socket.AF_UNIX) as tried:
                tried.connect(self.socket)
            self._api: Any = docker.APIClient(base_url=address, timeout=TIMEOUT, version="auto")
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            raise UsageError(NO_ENGINE.format(error)) from None
        # The client would keep connections for each address that it ever asked, and one has a container's id.
        self._api.headers["Connection"] = "close"

    def close(self) -> None:
        """Let go of the connections."""
        self._api.close()

    def image(self, tag: str) -> Image | None:
        """Return the image `tag`, or None."""
        with _told(f"looking for the image {tag}"):
            try:
                found = self._api.inspect_image(tag)
            except docker.errors.ImageNotFound:
                return None
        return Image(found["Id"], found["Config"].get("Labels") or {})

    def runtime_arguments(self, runtime: str) -> tuple[str, ...] | None:
        """Return the arguments that the engine starts a runtime with, or None where it has no such."""
        with _told("asking for the engine's runtimes"):
            runtimes = cast(dict[str, dict[str, Any]], self._api.info().get("Runtimes") or {})
        found = runtimes.get(runtime)
        return None if found is None else tuple(found.get("runtimeArgs") or ())

    def import_image(self, archive: Path, tag: str, changes: list[str]) -> None:
        """Make the image `tag` of a tar file; `changes` are Dockerfile lines such as `LABEL a=b`."""
        repository, _, version = tag.rpartition(":")
        with _told(f"importing {archive}"):
            self._api.import_image_from_file(
                str(archive), repository=repository, tag=version, changes=changes
            )

    def image_tags(self, label: str) -> list[str]:
        """Return the tags of every image that carries the label."""
        with _told("listing images"):
            found = cast(list[dict[str, Any]], self._api.images(filters={"label": [label]}))
        return [tag for one in found for tag in one.get("RepoTags") or ()]

    def remove_image(self, tag: str) -> bool:
        """Take the tag away, and the image if it was its last; False where a container uses it."""
        with _told(f"removing the image {tag}"):
            try:
                self._api.remove_image(tag, force=False)
            except docker.errors.APIError as error:
                if error.status_code == CONFLICT:
                    return False
                if error.status_code != GONE:
                    raise
        return True

    def create_volume(self, options: Mapping[str, str], labels: Mapping[str, str]) -> str:
        """Make a volume of the `local` driver and return its name."""
        with _told("making the workspace's volume"):
            made = self._api.create_volume(driver="local", driver_opts=dict(options), labels=dict(labels))
        return str(made["Name"])

    def remove_volume(self, name: str) -> None:
        """Drop a volume, if it is there."""
        with _told("removing the workspace's volume"), _fine_if_gone():
            self._api.remove_volume(name, force=True)

    def create(self, config: JsonObject) -> tuple[str, socket.socket, socket.socket]:
        """Make a container and attach to it; return its id, its stdin and stdout, and its stderr."""
        with _told("making the container"):
            made = str(self._api.create_container_from_config(config)["Id"])
            sockets: list[socket.socket] = []
            try:
                for wanted in ("stdin=1&stdout=1", "stderr=1"):
                    sockets.append(attach(self.socket, made, wanted))
            except BaseException:
                for one in sockets:
                    one.close()
                self._api.remove_container(made, force=True, v=True)
                raise
        return made, sockets[0], sockets[1]

    def start(self, container: str) -> None:
        """Start a container."""
        with _told("starting the container"):
            self._api.start(container)

    def kill(self, container: str) -> None:
        """Send SIGKILL to a container, if it is there and runs."""
        with _told("ending the container"), _fine_if_gone():
            self._api.kill(container)

    def remove(self, container: str) -> None:
        """Remove a container, ending it first if it runs."""
        with _told("removing the container"), _fine_if_gone():
            self._api.remove_container(container, force=True, v=True)

    def inspect(self, container: str) -> JsonObject:
        """Return all that the engine knows of a container."""
        with _told("asking what the engine knows of the container"):
            return cast(JsonObject, self._api.inspect_container(container))

    def was_out_of_memory(self, container: str) -> bool:
        """Say whether the kernel ended something in it for its memory limit; False once it is removed."""
        with _told("asking how the container ended"):
            try:
                return bool(self._api.inspect_container(container)["State"]["OOMKilled"])
            except docker.errors.NotFound:
                return False

    def labels_in_use(self, key: str) -> set[str]:
        """Return the values of the label `key` that any container or volume carries."""
        wanted = {"label": [key]}
        with _told("listing containers and volumes"):
            found = self._api.containers(all=True, filters=wanted)
            found += self._api.volumes(filters=wanted)["Volumes"] or []
        return {one["Labels"][key] for one in found}

    def ends(self, label: str) -> tuple[Iterator[Ended], Callable[[], None]]:
        """Return the ends of containers with `label` as they happen, and what stops that, from any thread."""
        with _told("listening to the engine"):
            stream = self._api.events(decode=True, filters={"label": [label], "event": ["die"]})

        def each() -> Iterator[Ended]:
            with _told("listening to the engine"):
                for event in stream:
                    actor = event["Actor"]
                    yield Ended(actor["ID"], int(actor["Attributes"]["exitCode"]))

        return each(), stream.close


@contextmanager
def _told(doing: str) -> Generator[None]:
    try:
        yield
    except docker.errors.APIError as error:
        raise SandboxError(f"{doing}: {error.explanation or error}") from error
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        raise SandboxError(f"{doing}: the engine does not answer ({error})") from error


@contextmanager
def _fine_if_gone() -> Generator[None]:
    """404: it is gone. 409: it does not run, or somebody else is removing it."""
    try:
        yield
    except docker.errors.APIError as error:
        if error.status_code not in (GONE, CONFLICT):
            raise
