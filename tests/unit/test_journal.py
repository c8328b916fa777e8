"""The journal's native protocol, and that a journal that takes nothing holds nobody up."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import within_limit

from kmodd.system.journal import MOST_PENDING, Journal, encode


def decode(entry: bytes) -> dict[str, str]:
    """Read an entry as the protocol's description says."""
    fields = {}
    while entry:
        line, _, rest = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack_from("<Q", rest)
            value, end, rest = rest[8 : 8 + length], rest[8 + length : 9 + length], rest[9 + length :]
            assert end == b"\n"
        fields[name.decode()] = value.decode()
        entry = rest
    return fields


class Receiver:
    """A socket as the journal has it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(self.path)

    def entry(self) -> Optional[dict[str, str]]:
        try:
            data, ancillary, _, _ = self.socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        except BlockingIOError:
            return None
        for _, _, payload in ancillary:
            (descriptor,) = array.array("i", payload)
            with os.fdopen(descriptor, "rb") as stream:
                stream.seek(0)
                data = stream.read()
        return decode(data)

    def entries(self) -> list[dict[str, str]]:
        return list(iter(self.entry, None))


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    made = Receiver(tmp_path / "socket")
    yield made
    made.socket.close()


def fill(journal: Journal) -> int:
    """Send until the receiver has no room, and return how many entries it has."""
    count = 0
    while not journal._pending:
        assert journal.send({"MESSAGE": f"filler {count}"})
        count += 1
    return count - 1


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True), st.text(st.characters(codec="utf-8"))))
def test_entries_are_read_as_they_were_written(fields: dict[str, str]) -> None:
    assert decode(encode(fields)) == fields


@pytest.mark.parametrize("size", [1, 100_000, 10_000_000], ids=["small", "large", "too large for a datagram"])
def test_entry_of_any_size_arrives(receiver: Receiver, size: int) -> None:
    fields = {"MESSAGE": "x" * size, "KMODD_REASON": "two\nlines"}
    assert Journal(receiver.path).send(fields)
    assert receiver.entries() == [fields]


def test_absent_journal_takes_nothing(tmp_path: Path) -> None:
    assert not Journal(str(tmp_path / "socket")).send({"MESSAGE": "x"})


def test_full_journal_gets_the_rest_with_the_next_entry(receiver: Receiver) -> None:
    journal = Journal(receiver.path)
    count = fill(journal)
    assert [e["MESSAGE"] for e in receiver.entries()] == [f"filler {n}" for n in range(count)]
    assert journal.send({"MESSAGE": "last"})
    assert [e["MESSAGE"] for e in receiver.entries()] == [f"filler {count}", "last"]


def test_full_journal_gets_the_rest_by_itself_where_a_loop_runs(receiver: Receiver) -> None:
    async def wait() -> list[dict[str, str]]:
        journal = Journal(receiver.path)
        fill(journal)
        receiver.entries()
        came = asyncio.Event()
        asyncio.get_running_loop().add_reader(receiver.socket, came.set)
        await came.wait()
        return receiver.entries()

    (entry,) = asyncio.run(within_limit(wait()))
    assert entry["MESSAGE"].startswith("filler")


def test_what_is_dropped_is_counted(receiver: Receiver) -> None:
    journal = Journal(receiver.path)
    fill(journal)
    for number in range(MOST_PENDING + 4):
        assert journal.send({"MESSAGE": f"late {number}"})
    found = []
    while batch := receiver.entries():
        found += batch
        journal._flush()
    late = [e["MESSAGE"] for e in found if e["MESSAGE"].startswith("late")]
    assert late == [f"late {n}" for n in range(4, MOST_PENDING + 4)]
    assert found[-1]["MESSAGE"] == "log entries dropped count=5"
    assert found[-1]["KMODD_COUNT"] == "5"


def test_journal_that_went_away_is_no_error(receiver: Receiver) -> None:
    journal = Journal(receiver.path)
    fill(journal)
    receiver.socket.close()
    assert not journal.send({"MESSAGE": "x"})
