"""The server: takes calls from many clients at once and passes them to the methods, for each client one at a time.

What a client can cost is bounded: its input that was not read yet, output that it does not read, its connections.
Nothing runs while nobody asks. Answers come from the last pass: docs/decisions/0010-socket.md. Must not: know what the
methods do.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import itertools
import os
import resource
import socket
import struct
import traceback
from collections import deque
from collections.abc import Awaitable, Mapping
from typing import Any, Callable, Optional, Union

from .. import __version__
from ..core.errors import Problem
from ..system.log import get_logger
from .codec import LIMIT, Call, Decoder, Malformed, Reply, encode_reply, parse_call
from .interface import MANAGER, SERVICE, TEXTS, Refusal, describe, find_method, read_parameters, refusal_of

MOST_CONNECTIONS = 4096
OF_ONE_USER = 256
FAIR = 16  # of one user, that are not closed for others as long as some user has more
MOST_COMPARED = 64  # connections, to find one that can be closed
ACCEPTED_A_TURN = 128  # of the event loop, so that not more than that many wait to be closed
FOR_ROOT = 64  # of them, that nobody else gets
OTHER_FILES = 512  # descriptors that builds and passes need
CALLS_A_TURN = 8  # of all clients, in a turn of the event loop, which has other work
CHUNK = 1 << 16  # bytes that are handed to the transport at once, which keeps a copy of what the client did not read
STALL = 30.0  # seconds in which a client must read a chunk
CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
SO_PEERGROUPS = 59  # <asm-generic/socket.h>
MOST_GROUPS = 1024  # bytes of them, the most that Python takes

#: A reply that others follow: parameters, or a whole message. Has no effect where the call did not want more.
Send = Callable[[Union[Mapping[str, Any], bytes]], Awaitable[None]]
#: Gets the parameters and where to send more replies; returns the parameters of the last one, or that as a message.
#: Raises Problem or Refusal.
Answer = Callable[[Any, Optional[Send]], Awaitable[Union[Mapping[str, Any], bytes]]]


class Turnstile:
    """Lets some through in each turn of the event loop, first come first served, so that other work gets its turns."""

    def __init__(self, most: int) -> None:
        self.most = self._left = most
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        if self._left == self.most:
            asyncio.get_running_loop().call_soon(self._turn)
        if self._left > 0:
            self._left -= 1
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        await waiting

    def _turn(self) -> None:
        self._left = self.most
        while self._waiting and self._left > 0:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                self._left -= 1
        if self._left < self.most:
            asyncio.get_running_loop().call_soon(self._turn)


class Server:
    """Serves one listening socket. answers: by the methods' full names. readers: the group that may read logs."""

    def __init__(self, answers: Mapping[str, Answer], readers: Callable[[], int] = lambda: 0) -> None:
        self.readers = readers
        self.answers = {
            **answers,
            f"{SERVICE}.GetInfo": _get_info,
            f"{SERVICE}.GetInterfaceDescription": _get_interface_description,
        }
        self.connections: dict[Connection, None] = {}  # oldest first, as in users
        self.users: dict[int, dict[Connection, None]] = {}
        self.greedy: set[int] = set()  # who has more than is fair
        self.input = memoryview(bytearray(LIMIT))  # for all connections, since what is read is taken at once
        self.most = MOST_CONNECTIONS
        self.turnstile = Turnstile(CALLS_A_TURN)
        self._server: Optional[asyncio.AbstractServer] = None

    async def start(self, listener: socket.socket) -> None:
        """Serve a bound socket from now on, instead of an earlier one, whose connections go on."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.most = min(MOST_CONNECTIONS, _raise_files(MOST_CONNECTIONS + OTHER_FILES) - OTHER_FILES)
        # not create_unix_server, which deletes the socket's file at the end (Python 3.13)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self), sock=listener, backlog=ACCEPTED_A_TURN
        )
        listener.listen(MOST_CONNECTIONS)  # that many may wait to be accepted

    async def stop(self) -> None:
        """End all calls and connections."""
        if self._server is not None:
            self._server.close()
        tasks = [connection.task for connection in self.connections if connection.task is not None]
        for connection in list(self.connections):
            connection.transport.abort()
        if tasks:
            await asyncio.wait(tasks)

    def admit(self, connection: Connection) -> bool:
        """Accept one more connection, if its user may have one or another one can be closed for it; tells whether."""
        uid = connection.uid
        own = len(self.users.get(uid, ()))
        free = self.most - len(self.connections)
        if uid != 0 and (own >= OF_ONE_USER or (free <= FOR_ROOT and not self._end_another(own))):
            return False
        if free <= 0 and not self._end_another(0):
            return False
        self.connections[connection] = None
        self.users.setdefault(uid, {})[connection] = None
        if uid != 0 and own + 1 > FAIR:
            self.greedy.add(uid)
        return True

    def forget(self, connection: Connection) -> None:
        """Count a connection no more."""
        if connection not in self.connections:
            return
        del self.connections[connection]
        theirs = self.users[connection.uid]
        del theirs[connection]
        if len(theirs) <= FAIR:
            self.greedy.discard(connection.uid)
        if not theirs:
            del self.users[connection.uid]

    def _end_another(self, own: int) -> bool:
        """End a connection, so that a user who has `own` gets one: of the user with the most, or one that is idle."""
        greediest = max(self.greedy, key=lambda uid: len(self.users[uid]), default=None)
        if greediest is not None and len(self.users[greediest]) > own + 1:
            among = self.users[greediest]
        elif own < FAIR:
            among = self.connections
        else:
            return False
        oldest = [one for one in itertools.islice(among, MOST_COMPARED) if one.uid != 0]
        idle = [one for one in oldest if one.task is None]
        leaves = next(iter(idle if among is self.connections else idle or oldest), None)
        if leaves is None:
            return False
        self.forget(leaves)
        leaves.transport.abort()
        return True


class Connection(asyncio.BufferedProtocol):
    """One client. Its calls are answered in a task that lives as long as there are any."""

    transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self.server = server
        self.decoder = Decoder()
        self.task: Optional[asyncio.Task[None]] = None
        self.uid = -1
        self.groups: frozenset[int] = frozenset()
        self.half_closed = False
        self.endless = False  # whether the call that is being answered ends only with the connection
        self._full: Optional[asyncio.Future[None]] = None

    # -- what asyncio tells ----------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(0)
        self.uid, self.groups = _identify(transport.get_extra_info("socket"))
        if not self.server.admit(self):
            transport.write(encode_reply(Reply(error=f"{MANAGER}.TooManyConnections")))
            transport.close()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self.server.forget(self)
        if self.task is not None:
            self.task.cancel()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.server.input

    def buffer_updated(self, nbytes: int) -> None:
        self.decoder.feed(self.server.input[:nbytes])
        if self.decoder.pending > LIMIT and self.endless:
            self.transport.abort()  # as in _answer
        elif self.decoder.pending > LIMIT:
            self.transport.pause_reading()
        self._work()

    def eof_received(self) -> bool:
        self.half_closed = True
        return self.task is not None and not self.endless  # its calls are still answered

    def pause_writing(self) -> None:
        self._full = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._full is not None and not self._full.done():
            self._full.set_result(None)
        self._full = None

    # -- calls -----------------------------------------------------------------------------------------------------
    def _work(self) -> None:
        if self.task is None and not self.transport.is_closing():
            self.task = asyncio.get_running_loop().create_task(self._answer_all())

    async def _answer_all(self) -> None:
        try:
            while (message := self.decoder.next()) is not None:
                if self.decoder.pending <= LIMIT:
                    self.transport.resume_reading()
                await self.server.turnstile.enter()
                await self._answer(parse_call(message))
        except Malformed as fault:
            get_logger().debug("control connection closed", reason=str(fault), uid=self.uid)
            with contextlib.suppress(ConnectionError):
                await self._refuse(Refusal(f"{SERVICE}.InvalidParameter", parameter=fault.part))
            self.transport.close()
        except ConnectionError as error:
            get_logger().debug("control connection closed", reason=str(error), uid=self.uid)
            self.transport.abort()
        finally:
            self.task = None
            if self.half_closed:
                self.transport.close()

    async def _answer(self, call: Call) -> None:
        self.endless = False
        try:
            method = find_method(call.method)
            if call.upgrade:
                raise Refusal(f"{SERVICE}.InvalidParameter", parameter="upgrade")
            if method.streams and not call.more:
                raise Refusal(f"{SERVICE}.ExpectedMore")
            if method.changes and self.uid not in (0, os.geteuid()):
                raise Refusal(f"{SERVICE}.PermissionDenied")
            if method.reads_logs and not self._may_read_logs():
                text = "kmodd's logs are for root and the members of a group alone"
                raise Problem("permission-denied", text, "the group is build.log_group of kmodd.toml(5)")
            answer = self.server.answers.get(call.method)
            if answer is None:
                raise Refusal(f"{SERVICE}.MethodNotImplemented", method=call.method)
            parameters = read_parameters(method, call.parameters)
            self.endless = method.streams
            if self.endless and self.decoder.pending > LIMIT:
                # its other calls would never be answered, and unread it could not be seen to leave
                raise ConnectionAbortedError("calls behind one that does not end")
            found = await answer(parameters, self._send if call.more and not call.oneway else None)
            if not call.oneway:
                await self._write(found if isinstance(found, bytes) else encode_reply(Reply(found)))
        except Problem as problem:
            await self._refuse(refusal_of(problem), call.oneway)
        except Refusal as refusal:
            await self._refuse(refusal, call.oneway)
        except ConnectionError:
            raise
        except Exception as error:
            text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            get_logger().critical("unforeseen error", doing=f"answering {call.method}", traceback=text)
            said = f"{call.method}: {type(error).__name__}: {error}"
            await self._refuse(refusal_of(Problem("internal-error", said, "please report it")), call.oneway)

    def _may_read_logs(self) -> bool:
        return self.uid in (0, os.geteuid()) or self.server.readers() in self.groups

    async def _refuse(self, refusal: Refusal, oneway: bool = False) -> None:
        if not oneway:
            await self._write(encode_reply(Reply(refusal.parameters, error=refusal.error)))

    async def _send(self, reply: Union[Mapping[str, Any], bytes]) -> None:
        await self._write(reply if isinstance(reply, bytes) else encode_reply(Reply(reply, continues=True)))

    async def _write(self, message: bytes) -> None:
        """Send a message piece by piece, as the client takes it. Raises ConnectionError."""
        view = memoryview(message)
        for start in range(0, len(view), CHUNK):
            if self.transport.is_closing():
                raise ConnectionAbortedError("closed by the client")
            self.transport.write(view[start : start + CHUNK])
            if self._full is not None:
                await asyncio.wait([self._full], timeout=STALL)
            if self._full is not None:
                raise ConnectionAbortedError(f"nothing was read for {STALL:.0f} s")


def _identify(client: socket.socket) -> tuple[int, frozenset[int]]:
    """Return the ids of who connected and of their groups; of their first one alone where they are many."""
    given = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    _, uid, gid = CREDENTIALS.unpack(given)
    groups = {gid}
    with contextlib.suppress(OSError):  # they have more
        groups.update(array.array("I", client.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, MOST_GROUPS)))
    return uid, frozenset(groups)


async def _get_info(parameters: Any, send: Optional[Send]) -> Mapping[str, Any]:
    names = {"vendor": "kmodd", "product": "kmodd", "version": __version__, "url": "man:kmodd(8)"}
    return {**names, "interfaces": sorted(TEXTS)}


async def _get_interface_description(parameters: Any, send: Optional[Send]) -> Mapping[str, Any]:
    return {"description": describe(parameters.interface)}


def _raise_files(wanted: int) -> int:
    """Let this process open as many files, where the hard limit allows it; returns how many it may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most
