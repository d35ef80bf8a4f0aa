"""Becomes the program that the gateway names on stdin: eight hex digits, then so many bytes of JSON.

The words, the environment and its secrets come this way so that neither the engine's records, nor
its files, nor pid 1 of the container ever hold them. What follows on stdin is the program's.
"""

from __future__ import annotations

import json
import os
import sys

SIZE_DIGITS = 8
CANNOT_START = 127


def read(size: int) -> bytes:
    """Return exactly `size` bytes of stdin, and take none that come after."""
    parts: list[bytes] = []
    while size:
        part = os.read(0, size)
        if not part:
            sys.exit(CANNOT_START)
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def found(program: str, env: dict[str, str]) -> str:
    """Return where `program` stands: a bare name is looked for on the sandbox's own PATH."""
    if "/" in program:
        return program
    places = (f"{folder}/{program}" for folder in os.get_exec_path(env))
    return next((place for place in places if os.access(place, os.X_OK)), program)


def main() -> None:
    """Read what to run and turn into it."""
    program = json.loads(read(int(read(SIZE_DIGITS), 16)))
    argv: list[str] = program["argv"]
    env: dict[str, str] = program["env"]
    os.umask(0o022)
    try:
        os.makedirs(env["HOME"], mode=0o700, exist_ok=True)
        os.chdir(program["cwd"])
        os.execve(found(argv[0], env), argv, env)  # noqa: S606 - this is what it is for
    except OSError as error:
        sys.stderr.write(f"{argv[0]} could not be started in {program['cwd']}: {error}\n")
        sys.exit(CANNOT_START)


if __name__ == "__main__":
    main()
