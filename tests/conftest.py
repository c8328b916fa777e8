"""What holds for every test: no one leaves its log, and the stream that it wrote to, to the next."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

# How fast the machine is says nothing about kmodd.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")
settings.register_profile("few", max_examples=25)  # make unit, to be run after every change; make test has more


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A temporary directory that other users reach, too; pytest closes those of tmp_path to them."""
    with tempfile.TemporaryDirectory(prefix="kmodd-test.") as name:
        Path(name).chmod(0o755)
        yield Path(name)
