"""Log lines: fields behind the event, the journal's priorities where stderr is the journal."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
from test_journal import Receiver

from kmodd.core.messages import MESSAGE_IDS
from kmodd.system.log import configure, get_logger


def written(level: str, journal: bool, monkeypatch: pytest.MonkeyPatch, to: str = "/nowhere") -> list[str]:
    """Return the lines that some events become on a stream, which is the journal's or not."""
    reader, writer = (end.detach() for end in socket.socketpair())
    found = os.fstat(writer)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}" if journal else "1:1")
    with os.fdopen(writer, "w") as stream:
        configure(level, stream, to)
        get_logger().debug("looked again")
        get_logger().info("module installed", module="a b", empty="", reason="it's new")
        get_logger().error("target failed", reason="two\nlines")
    with os.fdopen(reader) as stream:
        return stream.read().splitlines()


def test_journal_gets_facts_as_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = Receiver(tmp_path / "socket")
    assert written("info", True, monkeypatch, receiver.path) == []
    assert receiver.entries() == [
        {
            "MESSAGE": 'module installed module="a b" reason="it\'s new"',
            "PRIORITY": "6",
            "SYSLOG_IDENTIFIER": "kmodd",
            "KMODD_MODULE": "a b",
            "KMODD_REASON": "it's new",
        },
        {
            "MESSAGE": "target failed reason=two\\nlines",
            "PRIORITY": "3",
            "SYSLOG_IDENTIFIER": "kmodd",
            "MESSAGE_ID": MESSAGE_IDS["target failed"],
            "KMODD_REASON": "two\nlines",
        },
    ]


def test_lines_for_a_journal_that_takes_no_entries_carry_their_priority(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_stream_to_a_journal_that_went_away_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = socket.socketpair()
    found = os.fstat(writer.fileno())
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    reader.close()
    with os.fdopen(writer.detach(), "w") as stream:
        configure("info", stream, "/nowhere")
        get_logger().error("target failed")


def test_full_stream_to_the_journal_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = socket.socketpair()
    found = os.fstat(writer.fileno())
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    with reader, os.fdopen(writer.detach(), "w") as stream:
        configure("info", stream, "/nowhere")
        for _ in range(1000):
            get_logger().error("target failed", reason="x" * 10_000)
        assert reader.recv(1 << 16).startswith(b"<3>target failed")


@pytest.mark.parametrize("kind", ["full disk", "closed pipe", "full pipe", "closed stream"])
def test_stream_that_takes_nothing_is_no_error(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    reader, descriptor = os.pipe()
    if kind == "full disk":
        os.close(descriptor)
        descriptor = os.open("/dev/full", os.O_WRONLY)
    elif kind == "closed pipe":
        os.close(reader)
    elif kind == "full pipe":
        os.set_blocking(descriptor, False)
    with os.fdopen(descriptor, "w") as stream:
        configure("info", stream)
        if kind == "closed stream":
            stream.close()
        for _ in range(100):
            get_logger().error("target failed", reason="x" * 10_000)
    if kind != "closed pipe":
        os.close(reader)


def test_journal_that_cannot_be_opened_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: str) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("kmodd.system.log._open_journal", refuse)
    assert written("info", True, monkeypatch)[-1] == "<3>target failed reason=two\\nlines"


def test_lines_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", sys.stdout)
    get_logger().error("target failed", reason="\x1b]0;owned\x07 ümlaut\r\x9b2J")
    assert capsys.readouterr().out.endswith('target failed reason="\\x1b]0;owned\\x07 ümlaut\\r\\x9b2J"\n')
