"""What holds for every test: how fast this machine is decides nothing, and one Docker engine serves all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support.docker_engine import docker_engine

settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


@pytest.fixture(scope="session")
def engine_address() -> Iterator[str]:
    with docker_engine() as address:
        yield address


@pytest.fixture
def engine(engine_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an engine, which the drivers find as well."""
    monkeypatch.setenv("DOCKER_HOST", engine_address)
    return engine_address
