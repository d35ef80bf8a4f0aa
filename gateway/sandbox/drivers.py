"""Names of drivers -> drivers. Imports each only when it is asked for."""

from __future__ import annotations

from pathlib import Path

from gateway.errors import UsageError

from .contract import SandboxDriver

__all__ = ["DRIVERS", "make_driver"]

DRIVERS = ("bubblewrap", "docker", "gvisor", "process")


def make_driver(name: str, *, cache_dir: Path) -> SandboxDriver:
    """Return the driver `name`, not yet open; `cache_dir` is a folder of the gateway's own.

    Raises `UsageError` for an unknown name. Whoever asks for `process` must know that it isolates nothing.
    """
    if name == "bubblewrap":
        from .bubblewrap import BubblewrapDriver

        return BubblewrapDriver(cache_dir)
    if name in ("docker", "gvisor"):
        try:
            from .docker_driver import DockerDriver
        except ModuleNotFoundError as error:
            raise UsageError(f"the driver {name!r} needs {error.name}: install `sandgate[docker]`") from error
        return DockerDriver(gvisor=name == "gvisor")
    if name == "process":
        from .process import ProcessDriver

        return ProcessDriver()
    raise UsageError(f"no sandbox driver {name!r}: use one of {', '.join(DRIVERS)}")
