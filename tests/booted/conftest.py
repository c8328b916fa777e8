"""One machine for all tests of a session; each test begins with the same state of it (baseline.establish)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from baseline import establish
from nspawn import Machine, Repository


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    made = Machine()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def repository(machine: Machine) -> Repository:
    return machine.furnish()


@pytest.fixture(autouse=True)
def established(request: pytest.FixtureRequest) -> None:
    """Let no test depend on what another one left."""
    if "repository" in request.fixturenames and "image" not in request.fixturenames:
        establish(request.getfixturevalue("machine"), request.getfixturevalue("repository"))
