"""Interpreters that sandboxed servers run on: where they stand inside, and what must be mounted for it."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.errors import UsageError

from .contract import Mount

__all__ = ["Runtime", "node_runtime", "python_runtime"]

SYSTEM = Path("/usr")
PYTHON_INSIDE, NODE_INSIDE = "/opt/python", "/opt/node"


@dataclass(frozen=True, slots=True)
class Runtime:
    """`argv0` is the interpreter's path inside; `mounts` and `env` are what it needs there."""

    argv0: str
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])


def python_runtime() -> Runtime:
    """Return the Python that runs the gateway; one below /usr is there already."""
    prefix = Path(sys.base_prefix)
    program = Path("bin") / f"python{sys.version_info.major}.{sys.version_info.minor}"
    env = {"PYTHONDONTWRITEBYTECODE": "1"}  # its folders are read-only inside
    if prefix.is_relative_to(SYSTEM):
        return Runtime(str(prefix / program), (), env)
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        env["LD_LIBRARY_PATH"] = f"{PYTHON_INSIDE}/lib"
    return Runtime(f"{PYTHON_INSIDE}/{program}", (Mount(prefix, PYTHON_INSIDE),), env)


def node_runtime() -> Runtime:
    """Return the Node.js on PATH. Raises `UsageError` where there is none."""
    found = shutil.which("node")
    if found is None:
        raise UsageError("this toolpack needs Node.js: run `apt-get install nodejs npm`")
    program = Path(os.path.realpath(found))
    if program.is_relative_to(SYSTEM):
        return Runtime(str(program))
    return Runtime(f"{NODE_INSIDE}/bin/node", (Mount(program.parent.parent, NODE_INSIDE),))
