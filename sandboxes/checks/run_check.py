"""Runs inside a sandbox: starts a check script as an interpreter would, with `sandgate_check` importable.

run_check.py SCRIPT
"""

import runpy
import sys

here, script = sys.path[0], sys.argv[1]
sys.path[0] = script.rpartition("/")[0]
sys.path.append(here)
sys.argv = sys.argv[1:]
runpy.run_path(script, run_name="__main__")
