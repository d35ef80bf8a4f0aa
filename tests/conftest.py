"""What holds for every test: how fast this machine is decides nothing, and one Docker engine serves all.

Nor does how the run was started: a shell lets what it starts in the background ignore Ctrl-C, and what
ignores it has children that do.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support.docker_engine import docker_engine

settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def engine_address() -> Iterator[str]:
    with docker_engine() as address:
        yield address


@pytest.fixture
def engine(engine_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an engine, which the drivers find as well."""
    monkeypatch.setenv("DOCKER_HOST", engine_address)
    return engine_address
