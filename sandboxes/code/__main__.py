"""Runs inside a sandbox: starts the interpreter for code, and takes itself off the path of imports."""

import sys

from sandgate_code.turns import main

sys.path.remove(__file__.rpartition("/")[0])
main()
