"""`python -m gateway.cli`: the command line without the installed script."""

from gateway.cli import main

main()
