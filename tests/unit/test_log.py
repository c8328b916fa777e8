"""Log lines: fields behind the event, the journal's priorities where stderr is the journal."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog

from kmodd.log import configure, get_logger


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def written(level: str, journal: bool, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the lines that some events become on a pipe, which is the journal's or not."""
    reader, writer = os.pipe()
    found = os.fstat(writer)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}" if journal else "1:1")
    with os.fdopen(writer, "w") as stream:
        configure(level, stream)
        get_logger().debug("looked again")
        get_logger().info("module installed", module="a b", empty="", reason="it's new")
        get_logger().error("target failed", reason="two\nlines")
    with os.fdopen(reader) as stream:
        return stream.read().splitlines()


def test_lines_for_the_journal_carry_their_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    assert written("info", True, monkeypatch) == [
        '<6>module installed module="a b" reason="it\'s new"',
        "<3>target failed reason=two\\nlines",
    ]


def test_other_lines_carry_time_and_level(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = written("debug", False, monkeypatch)
    assert [line.split(" ", 2)[2] for line in lines] == [
        "debug   looked again",
        'info    module installed module="a b" reason="it\'s new"',
        "error   target failed reason=two\\nlines",
    ]
