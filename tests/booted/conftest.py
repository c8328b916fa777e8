"""One machine for all tests of a session: they run in order, as the life of a server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from nspawn import Machine, Repository


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    made = Machine()
    yield made
    made.close()


@pytest.fixture(scope="session")
def repository(machine: Machine) -> Repository:
    return machine.furnish()
