"""Starts a Python tool server inside its sandbox. Runs there only; the gateway never imports it.

    run_server.py SITE entry NAME MODULE:ATTRIBUTE [ARGUMENT...]
    run_server.py SITE script PATH [ARGUMENT...]
    run_server.py SITE module NAME [ARGUMENT...]

The interpreter is started with `-P -s -S`: neither the workspace nor the host's site-packages are
on the path. SITE (`-` for none) comes after the standard library, as installed packages do.
"""

import importlib
import os
import runpy
import site
import sys


def main(argv):
    """Run what `argv` names, as an interpreter would, and return its exit code."""
    folder, *words = argv
    prepare(folder)
    return run(*words)


def prepare(folder):
    """Make the server's packages importable, here and for interpreters that it starts itself."""
    # Those find its packages, and nothing in the workspace.
    children = {"PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1"}
    if folder != "-":
        site.addsitedir(folder)
        children["PYTHONPATH"] = folder
    os.environ.update(children)  # noqa: TID251 - the server's own, inside its sandbox


def run(how, name, *rest):
    """Run a console script's `entry`, a `script` or a `module`, and return its exit code."""
    if how == "entry":
        return call(name, *rest)
    sys.argv = [name, *rest]
    if how == "script":
        sys.path.insert(0, os.path.dirname(name))  # noqa: PTH120 - importing pathlib costs time here
        runpy.run_path(name, run_name="__main__")
    else:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    return 0


def call(name, target, *rest):
    """Do what an installed console script does."""
    sys.argv = [name, *rest]
    module, _, attribute = target.partition(":")
    function = importlib.import_module(module)
    for part in attribute.split("."):
        function = getattr(function, part)
    return function()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
