"""`python -m gateway.cli.owned`: the command line in a process that ends with its owner.

The owner holds the other end of standard input. However it ends, killed too, that end is closed then.
"""

import os
import signal
import threading

from gateway.cli import main

STANDARD_INPUT = 0


def end_with_owner() -> None:
    """Wait for the owner's end, then end as asked to."""
    while os.read(STANDARD_INPUT, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


threading.Thread(target=end_with_owner, daemon=True).start()
main()
