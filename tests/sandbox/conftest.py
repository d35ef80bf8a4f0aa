"""One Docker engine for all tests of this folder that ask for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.docker_engine import docker_engine


@pytest.fixture(scope="session")
def engine_address() -> Iterator[str]:
    with docker_engine() as address:
        yield address


@pytest.fixture
def engine(engine_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an engine, which the drivers find as well."""
    monkeypatch.setenv("DOCKER_HOST", engine_address)
    return engine_address
