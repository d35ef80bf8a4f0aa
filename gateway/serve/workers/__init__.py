"""`serve --workers N`: one process that accepts connections, and N that answer them.

    supervisor   binds, accepts, hands each connection to the worker that has fewest; restarts dead ones
    worker       a whole gateway without a listener; hands a connection on to the worker that has its session

A session stays on the worker that opened it. `gateway.runtime.places` says which one that is; a request
that comes in elsewhere moves there with its connection (`moving`), so that nothing is ever proxied.
"""
