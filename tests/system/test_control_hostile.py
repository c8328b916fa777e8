"""Many clients, and bad ones beside a good one: the daemon answers, goes on with its work, and lives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import socket
import struct
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from patience import LIMIT as PATIENCE
from patience import within_limit
from world import World

from kmodd.control.client import Client
from kmodd.control.codec import LIMIT, Call, encode_call
from kmodd.control.interface import MANAGER

pytestmark = pytest.mark.system

STATUS = encode_call(Call(f"{MANAGER}.Status"))
SUBSCRIBE = encode_call(Call(f"{MANAGER}.Subscribe", more=True))
MANY = 1000


def path_of(world: World) -> str:
    return str(world.root / "run/kmodd/io.kmodd.Manager")


@pytest.fixture
def running(world: World) -> World:
    world.add("alpha")
    world.start()
    world.wait_for("alpha", "ready")
    return world


def verdict(world: World) -> str:
    """Ask as a good client does."""
    with Client(path_of(world), PATIENCE) as client:
        return str(client.call("Status")["targets"][0]["verdict"])


def test_thousand_clients_at_once_are_all_answered_without_a_look(running: World) -> None:
    running.sync()  # the look that follows an installation is over
    looks = running.log.read_text().count("looked again")

    connected = 0

    async def ask(start: asyncio.Event) -> dict[str, Any]:
        nonlocal connected
        reader, writer = await asyncio.open_unix_connection(path_of(running), limit=1 << 24)
        connected += 1
        if connected == MANY:
            start.set()
        await start.wait()  # all are connected before the first one asks
        writer.write(STATUS)
        answer = json.loads((await reader.readuntil(b"\0"))[:-1])
        writer.close()
        return dict(answer)

    async def ask_all() -> list[dict[str, Any]]:
        start = asyncio.Event()
        return await within_limit(asyncio.gather(*(ask(start) for _ in range(MANY))))

    answers = asyncio.run(ask_all())
    assert len(answers) == MANY
    assert all(answer == answers[0] for answer in answers)
    assert answers[0]["parameters"]["targets"][0]["verdict"] == "ready"
    assert running.log.read_text().count("looked again") == looks


# -- bad clients: each gets a connected socket and leaves it in whatever state -----------------------------------------
def garbage(peer: socket.socket) -> None:
    peer.sendall(random.Random(1).randbytes(100_000))


def oversized(peer: socket.socket) -> None:
    peer.sendall(b'{"method": "' + b"x" * (20 * LIMIT))


def unfinished(peer: socket.socket) -> None:
    peer.sendall(STATUS[: len(STATUS) // 2])


def trickle(peer: socket.socket) -> None:
    for byte in STATUS[:-1]:
        peer.sendall(bytes([byte]))


def nested(peer: socket.socket) -> None:
    peer.sendall(b'{"method": "a.B", "parameters": ' + b"[" * 8000 + b"\0")


def half_closed(peer: socket.socket) -> None:
    peer.sendall(STATUS)
    peer.shutdown(socket.SHUT_WR)


def abrupt(peer: socket.socket) -> None:
    peer.sendall(STATUS * 20)
    peer.close()


def unread(peer: socket.socket) -> None:
    """Ask again and again, and never take an answer."""
    peer.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            peer.sendall(STATUS * 100)


def unread_events(peer: socket.socket) -> None:
    peer.sendall(SUBSCRIBE)


def talkative_subscriber(peer: socket.socket) -> None:
    peer.setblocking(False)
    peer.sendall(SUBSCRIBE)
    with contextlib.suppress(BlockingIOError):
        while True:
            peer.sendall(STATUS * 100)


def with_descriptors(peer: socket.socket) -> None:
    """Pass descriptors along, which nobody asked for."""
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("2i", peer.fileno(), peer.fileno()))
    peer.sendmsg([STATUS], [rights])


def silent(peer: socket.socket) -> None:
    pass


BAD: list[Callable[[socket.socket], None]] = [
    garbage, oversized, unfinished, trickle, nested, half_closed, abrupt, unread, unread_events, talkative_subscriber,
    with_descriptors, silent,
]  # fmt: skip


@contextlib.contextmanager
def beside(world: World, *kinds: Callable[[socket.socket], None]) -> Iterator[None]:
    """Have bad clients about, one of each kind."""
    with contextlib.ExitStack() as stack:
        for misbehave in kinds:
            peer = stack.enter_context(socket.socket(socket.AF_UNIX))
            peer.connect(path_of(world))
            peer.settimeout(PATIENCE)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                misbehave(peer)
        yield


def test_bad_clients_disturb_neither_the_good_one_nor_the_work(running: World) -> None:
    descriptors = f"/proc/{running.child.pid}/fd"
    before = len(os.listdir(descriptors))
    for kind in BAD:
        with beside(running, kind):
            assert verdict(running) == "ready", kind.__name__
    with beside(running, *BAD * 8):
        running.add("beta")
        running.wait_for("beta", "ready")
        assert running.ctl("sync").returncode == 0
    running.wait(lambda: len(os.listdir(descriptors)) <= before + 2, "the connections to be closed")


def test_connections_up_to_the_limit_leave_root_room(running: World) -> None:
    """As an ordinary user takes all that he may have, root is still answered; afterwards he is, too."""
    running.root.parent.chmod(0o755)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192), most))
    with contextlib.ExitStack() as stack:
        os.seteuid(65534)
        try:
            peers = []
            for _ in range(2048):
                peers.append(stack.enter_context(socket.socket(socket.AF_UNIX)))
                peers[-1].connect(path_of(running))
            refused = stack.enter_context(socket.socket(socket.AF_UNIX))
            refused.connect(path_of(running))
            refused.settimeout(PATIENCE)
            assert b"TooManyConnections" in refused.recv(1000)
        finally:
            os.seteuid(0)
        assert verdict(running) == "ready"
        peers[0].sendall(STATUS)
        peers[0].settimeout(PATIENCE)
        assert b'"targets"' in peers[0].recv(1 << 16)
    os.seteuid(65534)
    try:
        running.wait(lambda: _is_taken(running), "room for the user")
    finally:
        os.seteuid(0)


def _is_taken(world: World) -> bool:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(path_of(world))
        peer.settimeout(PATIENCE)
        with contextlib.suppress(ConnectionError):
            peer.sendall(STATUS)
            return b'"targets"' in peer.recv(1 << 16)
    return False
