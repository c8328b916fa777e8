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
from kmodd.control.server import OF_ONE_USER

pytestmark = pytest.mark.system

STATUS = encode_call(Call(f"{MANAGER}.Status"))
SUBSCRIBE = encode_call(Call(f"{MANAGER}.Subscribe", more=True))
MANY = 1000
NOBODY = 65534
FIRST_OTHER = 300_000  # uids of nobody else


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


@contextlib.contextmanager
def acting(uid: int) -> Iterator[None]:
    """Be another user, as the kernel tells the daemon."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def connect(world: World, stack: contextlib.ExitStack) -> socket.socket:
    peer = stack.enter_context(socket.socket(socket.AF_UNIX))
    peer.connect(path_of(world))
    peer.settimeout(PATIENCE)
    return peer


def is_answered(world: World, uid: int) -> bool:
    """Ask as a user, in a connection of its own."""
    with acting(uid), contextlib.ExitStack() as stack:
        peer = connect(world, stack)
        with contextlib.suppress(ConnectionError):
            peer.sendall(STATUS)
            return b'"targets"' in peer.recv(1 << 16)
    return False


@pytest.fixture
def crowd(running: World) -> Iterator[World]:
    """A daemon, and room in this process for all connections that it takes."""
    running.root.parent.chmod(0o755)
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 20_000), most))
    yield running
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))


def test_a_user_who_takes_all_that_he_may_have_is_refused_more(crowd: World) -> None:
    with contextlib.ExitStack() as stack:
        with acting(NOBODY):
            peers = [connect(crowd, stack) for _ in range(OF_ONE_USER)]
            assert b"TooManyConnections" in connect(crowd, stack).recv(1000)
        assert verdict(crowd) == "ready"
        peers[0].sendall(STATUS)
        assert b'"targets"' in peers[0].recv(1 << 16)
    crowd.wait(lambda: is_answered(crowd, NOBODY), "room for the user")


def unfinished_or_lost(peer: socket.socket, part: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        peer.sendall(part)


@pytest.mark.parametrize("part", [b"", STATUS[:20], SUBSCRIBE], ids=["silent", "half a call", "subscribed"])
@pytest.mark.parametrize(("users", "each"), [(2, 5000), (30, 300), (4200, 1)])
def test_others_are_answered_beside_users_who_take_all_they_can(
    crowd: World, users: int, each: int, part: bytes
) -> None:
    """Few with very many connections, and very many with few, as who owns a range of uids may be."""
    if users > 4096 and part == SUBSCRIBE:
        pytest.skip("who asks for something, and for no more than others, is not thrown out")
    with contextlib.ExitStack() as stack:
        for uid in range(FIRST_OTHER, FIRST_OTHER + users):
            with acting(uid):
                for _ in range(each):
                    unfinished_or_lost(connect(crowd, stack), part)
        assert is_answered(crowd, NOBODY)
        assert is_answered(crowd, NOBODY - 1)
        assert verdict(crowd) == "ready"
