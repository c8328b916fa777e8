"""The server on a real socket, with methods of its own: replies, refusals, and clients of every kind."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from patience import LIMIT as PATIENCE
from patience import skip, turns, until, within_limit

from kmodd.control import server as room
from kmodd.control.codec import LIMIT, Call, encode_call
from kmodd.control.feed import MOST_EVENTS, Feed
from kmodd.control.interface import MANAGER, SERVICE
from kmodd.control.server import Send, Server, Turnstile
from kmodd.core.errors import Problem

BIG = "x" * (4 << 20)


class Methods:
    def __init__(self) -> None:
        self.feed = Feed()
        self.answers = {
            f"{MANAGER}.{name}": getattr(self, name.lower()) for name in ("Status", "Plan", "Logs", "Subscribe", "Sync")
        }
        self.calls = 0

    async def status(self, asked: Any, send: Optional[Send]) -> Mapping[str, Any]:
        self.calls += 1
        return {"module": asked.module, "number": self.calls}

    async def plan(self, asked: Any, send: Optional[Send]) -> Mapping[str, Any]:
        raise KeyError("a bug")

    async def logs(self, asked: Any, send: Optional[Send]) -> Mapping[str, Any]:
        if asked.module == "big":
            return {"text": BIG}
        raise Problem("log-missing", "there is none", "build it")

    async def subscribe(self, asked: Any, send: Optional[Send]) -> Mapping[str, Any]:
        assert send is not None
        with self.feed.subscribed() as subscription:
            while True:
                await send(await subscription.next())

    async def sync(self, asked: Any, send: Optional[Send]) -> Mapping[str, Any]:
        for number in range(3):
            if send is not None:
                await send({"event": number})
            await turns()
        return {"status": "done"}


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is slow since the machine is must not be dropped for it."""
    monkeypatch.setattr(room, "STALL", PATIENCE)


class Peer:
    """A raw client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, method: str, parameters: Optional[Mapping[str, Any]] = None, **flags: bool) -> None:
        name = method if "." in method else f"{MANAGER}.{method}"
        self.writer.write(encode_call(Call(name, parameters or {}, **flags)))

    async def receive(self) -> Any:
        data = await within_limit(self.reader.readuntil(b"\0"))
        return json.loads(data[:-1])

    async def ask(self, method: str, parameters: Optional[Mapping[str, Any]] = None, **flags: bool) -> Any:
        self.send(method, parameters, **flags)
        return await self.receive()

    async def is_closed(self) -> bool:
        try:
            return await within_limit(self.reader.read()) == b""
        except ConnectionResetError:
            return True


class Ground:
    def __init__(self, path: Path, readers: int) -> None:
        self.path = str(path)
        self.methods = Methods()
        self.server = Server(self.methods.answers, lambda: readers)
        self.peers: list[Peer] = []

    async def peer(self) -> Peer:
        self.peers.append(Peer(*await asyncio.open_unix_connection(self.path, limit=1 << 24)))
        return self.peers[-1]


def serve(tmp_path: Path, test: Callable[[Ground], Awaitable[None]], readers: int = 0) -> None:
    """Run a test beside a server; afterwards neither task nor connection may be left."""

    async def run() -> None:
        ground = Ground(tmp_path / "socket", readers)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(ground.path)
        before = asyncio.all_tasks()
        await ground.server.start(listener)
        await test(ground)
        await ground.server.stop()
        for peer in ground.peers:
            peer.writer.close()
        await until(lambda: not ground.server.connections and asyncio.all_tasks() == before)
        assert not ground.server.users
        assert not ground.methods.feed

    asyncio.run(within_limit(run()))


CASES: dict[str, tuple[str, dict[str, Any], dict[str, bool], dict[str, Any]]] = {
    "a method": ("Status", {"module": "m"}, {}, {"parameters": {"module": "m", "number": 1}}),
    "null for what is left out": ("Status", {"module": None}, {}, {"parameters": {"module": None, "number": 1}}),
    "unknown parameter": ("Status", {"x": 1}, {}, {"error": "InvalidParameter", "parameters": {"parameter": "x"}}),
    "wrong type": ("Status", {"module": 1}, {}, {"error": "InvalidParameter", "parameters": {"parameter": "module"}}),
    "a path for a name": (
        "Status", {"module": "../x"}, {}, {"error": "InvalidParameter", "parameters": {"parameter": "module"}},
    ),
    "missing parameter": ("Logs", {}, {}, {"error": "InvalidParameter", "parameters": {"parameter": "module"}}),
    "upgrade": ("Status", {}, {"upgrade": True}, {"error": "InvalidParameter", "parameters": {"parameter": "upgrade"}}),
    "unknown method": (
        "Nothing", {}, {}, {"error": "MethodNotFound", "parameters": {"method": f"{MANAGER}.Nothing"}},
    ),
    "unknown interface": ("a.b.C", {}, {}, {"error": "InterfaceNotFound", "parameters": {"interface": "a.b"}}),
    "no answer": (
        "Verify", {}, {}, {"error": "MethodNotImplemented", "parameters": {"method": f"{MANAGER}.Verify"}},
    ),
    "a stream without more": ("Subscribe", {}, {}, {"error": "ExpectedMore", "parameters": {}}),
    "unknown description": (
        f"{SERVICE}.GetInterfaceDescription", {"interface": "a.b"}, {},
        {"error": "InterfaceNotFound", "parameters": {"interface": "a.b"}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_reply_is_what_varlink_says(
    case: tuple[str, dict[str, Any], dict[str, bool], dict[str, Any]], tmp_path: Path
) -> None:
    method, parameters, flags, expected = case
    if "error" in expected:
        expected = {**expected, "error": f"{SERVICE}.{expected['error']}"}

    async def test(ground: Ground) -> None:
        peer = await ground.peer()
        assert await peer.ask(method, parameters, **flags) == expected
        assert (await peer.ask("Status"))["parameters"]["module"] is None  # the connection goes on

    serve(tmp_path, test)


def test_problems_keep_code_message_and_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def test(ground: Ground) -> None:
        peer = await ground.peer()
        assert await peer.ask("Logs", {"module": "m"}) == {
            "error": f"{MANAGER}.Problem",
            "parameters": {"problem": "log-missing", "message": "there is none", "hint": "build it"},
        }
        unforeseen = await peer.ask("Plan")
        assert unforeseen["parameters"]["problem"] == "internal-error"

    serve(tmp_path, test)
    assert "a bug" in capsys.readouterr().out  # the traceback is logged


def test_more_gets_all_replies_and_oneway_none(tmp_path: Path) -> None:
    async def test(ground: Ground) -> None:
        peer = await ground.peer()
        peer.send("Sync", more=True)
        got = [await peer.receive() for _ in range(4)]
        assert [reply.get("continues", False) for reply in got] == [True, True, True, False]
        assert await peer.ask("Sync") == {"parameters": {"status": "done"}}
        for flags in ({"oneway": True}, {"oneway": True, "more": True}):
            peer.send("Sync", **flags)
        peer.send("Nothing", oneway=True)
        assert await peer.ask("Status") == {"parameters": {"module": None, "number": 1}}

    serve(tmp_path, test)


def test_calls_of_one_client_are_answered_in_their_order(tmp_path: Path) -> None:
    async def test(ground: Ground) -> None:
        peer = await ground.peer()
        for _ in range(3000):  # many times what is read at once
            peer.send("Status")
        numbers = [(await peer.receive())["parameters"]["number"] for _ in range(3000)]
        assert numbers == list(range(1, 3001))

    serve(tmp_path, test)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"garbage\0", "message"),
        (b"[]\0", "message"),
        (b'{"method": 3}\0', "method"),
        (b'{"method": "a.B", "more": 3}\0', "more"),
        (b" " * (LIMIT + 1), "message"),
        (b'{"method": "a.B", "parameters": {"\\ud800": "\\ud800"}}\0', None),
        (encode_call(Call(f"{MANAGER}.Status", {"\ud800": "\ud800"})), None),
        (encode_call(Call(f"{MANAGER}.Status", {"module": "\ud800"})), None),
    ],
)
def test_malformed_calls_end_their_own_connection_alone(data: bytes, part: Optional[str], tmp_path: Path) -> None:
    async def test(ground: Ground) -> None:
        good, bad = await ground.peer(), await ground.peer()
        bad.writer.write(data)
        reply = await bad.receive()
        assert reply["error"].startswith(SERVICE)
        if part is not None:
            assert reply == {"error": f"{SERVICE}.InvalidParameter", "parameters": {"parameter": part}}
            assert await bad.is_closed()
        assert "parameters" in await good.ask("Status")

    serve(tmp_path, test)


def test_half_closed_client_gets_its_answers(tmp_path: Path) -> None:
    async def test(ground: Ground) -> None:
        peer = await ground.peer()
        for _ in range(3):
            peer.send("Sync", more=True)
        peer.send("Status")
        peer.writer.write_eof()
        replies = (await within_limit(peer.reader.read())).split(b"\0")[:-1]
        assert len(replies) == 13
        idle = await ground.peer()
        idle.writer.write_eof()
        assert await idle.is_closed()
        subscriber = await ground.peer()
        subscriber.send("Subscribe", more=True)
        await until(lambda: bool(ground.methods.feed))
        subscriber.writer.write_eof()
        assert await subscriber.is_closed()

    serve(tmp_path, test)


def test_client_that_goes_away_leaves_nothing(tmp_path: Path) -> None:
    async def test(ground: Ground) -> None:
        for flags in ({"more": True}, {}):
            for method in ("Subscribe", "Sync", "Status"):
                peer = await ground.peer()
                peer.send(method, **flags)
                await peer.writer.drain()
                peer.writer.transport.abort()
        await until(lambda: not ground.server.connections)
        assert "parameters" in await (await ground.peer()).ask("Status")

    serve(tmp_path, test)


def test_who_does_not_read_is_dropped_and_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "STALL", 100.0)

    async def test(ground: Ground) -> None:
        slow = socket.socket(socket.AF_UNIX)
        slow.connect(ground.path)
        slow.sendall(encode_call(Call(f"{MANAGER}.Logs", {"module": "big"})))
        good = await ground.peer()
        assert len((await good.ask("Logs", {"module": "big"}))["parameters"]["text"]) == len(BIG)
        assert len(ground.server.connections) == 2
        skip(monkeypatch, 101)
        await until(lambda: len(ground.server.connections) == 1)
        slow.close()

    serve(tmp_path, test)


def test_subscriber_that_goes_on_asking_is_dropped(tmp_path: Path) -> None:
    async def test(ground: Ground) -> None:
        peer = await ground.peer()
        peer.send("Subscribe", more=True)
        for _ in range(1000):
            peer.send("Status")
        assert await peer.is_closed()

    serve(tmp_path, test)


def test_subscriber_that_lags_is_told_so(tmp_path: Path) -> None:
    async def test(ground: Ground) -> None:
        lagging, good = await ground.peer(), await ground.peer()
        for peer in (lagging, good):
            peer.send("Subscribe", more=True)
        await until(lambda: len(ground.methods.feed._subscriptions) == 2)
        lagging.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for number in range(40 * MOST_EVENTS):
            ground.methods.feed.publish({"number": number, "text": "x" * 2000})
            if number % 10 == 0:
                assert (await good.receive())["parameters"]["event"]["number"] == number
            else:
                await good.receive()
        lagging.writer.transport.resume_reading()  # type: ignore[attr-defined]
        reply = {"continues": True}
        while reply.get("continues"):
            reply = await lagging.receive()
        assert reply == {"error": f"{MANAGER}.TooSlow", "parameters": {}}
        assert "parameters" in await lagging.ask("Status")

    serve(tmp_path, test)


def test_turnstile_lets_some_through_in_a_turn_and_keeps_the_order() -> None:
    async def run() -> list[tuple[int, int]]:
        turnstile, turn, passed = Turnstile(3), 0, []

        async def enter(number: int) -> None:
            await turnstile.enter()
            passed.append((number, turn))

        tasks = [asyncio.ensure_future(enter(number)) for number in range(12)]
        tasks[5].cancel()
        while not all(task.done() for task in tasks):
            turn += 1
            await asyncio.sleep(0)
        for number in range(20, 23):  # after a rest
            await asyncio.sleep(0)
            turn += 1
            await enter(number)
        return passed

    passed = asyncio.run(run())
    assert [number for number, _ in passed] == [*range(5), *range(6, 12), 20, 21, 22]
    turns = [turn for _, turn in passed]
    assert max(turns.count(turn) for turn in turns) == 3


def test_connections_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    async def test(ground: Ground) -> None:
        ground.server.most = 3
        held = [await ground.peer() for _ in range(3)]
        for peer in held:
            await peer.ask("Status")
        refused = await ground.peer()
        assert await refused.receive() == {"error": f"{MANAGER}.TooManyConnections", "parameters": {}}
        assert await refused.is_closed()
        held[0].writer.close()
        await until(lambda: len(ground.server.connections) == 2)
        assert "parameters" in await (await ground.peer()).ask("Status")

    serve(tmp_path, test)


class Taken:
    """A connection of a user, as far as the server counts it; asked: whether a call of it is being answered."""

    def __init__(self, uid: int, asked: bool = False) -> None:
        self.uid, self.task, self.transport, self.aborted = uid, asked or None, self, False

    def abort(self) -> None:
        self.aborted = True


ONE, MANY = range(1000, 1001), range(1000, 1000 + room.MOST_CONNECTIONS)


@pytest.mark.parametrize(
    ("uid", "own", "others", "each", "asked", "expected"),
    [
        (0, 4000, ONE, 96, True, True),  # one of the user gives way to root
        (0, 4096, ONE, 0, True, False),
        (7, room.OF_ONE_USER - 1, ONE, 0, True, True),
        (7, room.OF_ONE_USER, ONE, 0, True, False),
        (7, 0, range(1000, 1016), 252, True, True),
        (7, 15, MANY, 1, True, False),
        (7, 15, MANY, 1, False, True),
        (7, room.FAIR, MANY, 1, False, False),
    ],
)
def test_root_finds_room_and_so_does_who_has_less_than_others(
    uid: int, own: int, others: range, each: int, asked: bool, expected: bool
) -> None:
    server = Server({})
    taken = [Taken(uid, True) for _ in range(own)] + [Taken(other, asked) for other in others for _ in range(each)]
    for one in taken:
        server.admit(one)  # type: ignore[arg-type]
    before = len(server.connections)
    assert server.admit(Taken(uid)) == expected  # type: ignore[arg-type]
    assert not [one for one in taken if one.aborted and one.uid == uid]
    for connection in list(server.connections):
        server.forget(connection)
    assert before and not server.users and not server.greedy


def test_the_last_places_are_roots() -> None:
    """However many users there are, and however busy each of their few connections."""
    server = Server({})
    admitted = [server.admit(Taken(uid, asked=True)) for uid in MANY]  # type: ignore[arg-type]
    assert admitted.count(True) == room.MOST_CONNECTIONS - room.FOR_ROOT
    assert all(server.admit(Taken(0)) for _ in range(room.FOR_ROOT))  # type: ignore[arg-type]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(
    ("gid", "groups", "allowed"),
    [(65534, [], False), (65534, [4004], True), (4004, [], True), (65534, [4003, 4005], False)],
)
def test_logs_are_for_the_members_of_a_group(open_path: Path, gid: int, groups: list[int], allowed: bool) -> None:
    async def test(ground: Ground) -> None:
        os.chmod(ground.path, 0o666)
        before = os.getgroups()
        os.setgroups(groups)
        os.setegid(gid)
        os.seteuid(65534)
        try:
            peer = await ground.peer()
            await peer.ask("Status")
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(before)
        answer = await peer.ask("Logs", {"module": "big"})
        refused = "permission-denied" if not allowed else None
        assert answer["parameters"].get("problem") == refused and ("text" in answer["parameters"]) == allowed
        assert "text" in (await (await ground.peer()).ask("Logs", {"module": "big"}))["parameters"]

    serve(open_path, test, readers=4004)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_who_is_not_root_is_refused_what_changes(open_path: Path) -> None:
    async def test(ground: Ground) -> None:
        os.chmod(ground.path, 0o666)
        os.seteuid(65534)
        try:
            peer = await ground.peer()
            assert (await peer.ask("Status"))["parameters"]["number"] == 1
        finally:
            os.seteuid(0)
        assert await peer.ask("Sync") == {"error": f"{SERVICE}.PermissionDenied", "parameters": {}}
        assert "status" in (await (await ground.peer()).ask("Sync"))["parameters"]

    serve(open_path, test)
