"""The client: one connection to the daemon. Imports nothing heavy, since kmoddctl starts with it.

Must not: print, or fall back on anything.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any, Optional

from ..core.errors import Problem
from .address import short_name
from .codec import REPLY_LIMIT, Call, Decoder, Malformed, Reply, encode_call, parse_reply

MANAGER = "io.kmodd.Manager"
PIECE = 1 << 16  # bytes read at once


class Client:
    """A connection to the daemon. path: of the socket. Raises Problem daemon-unreachable.

    timeout: seconds that connecting and each reply may take; None: without end.
    """

    def __init__(self, path: str, timeout: Optional[float] = None) -> None:
        self._decoder = Decoder(REPLY_LIMIT)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if timeout is not None:  # settimeout would make connect fail at once where many wait to be accepted
                limit = struct.pack("ll", int(timeout), int(timeout % 1 * 1e6))
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            with short_name(path) as name:
                self._socket.connect(name)
        except OSError as error:
            self._socket.close()
            raise _unreachable(error.strerror or str(error)) from error
        self.timeout = timeout

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return what a method of io.kmodd.Manager answers. Raises Problem: the daemon's, or daemon-unreachable."""
        return next(self._replies(Call(f"{MANAGER}.{method}", parameters)))

    def stream(self, method: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Yield all that a method answers, as it comes. Raises Problem as call does."""
        return self._replies(Call(f"{MANAGER}.{method}", parameters, more=True))

    def wait(self, seconds: float) -> bool:
        """Tell whether something more of an answer comes within some seconds."""
        return self._decoder.pending > 0 or bool(select.select([self._socket], [], [], seconds)[0])

    def _replies(self, call: Call) -> Iterator[dict[str, Any]]:
        try:
            self._socket.sendall(encode_call(call))
            while True:
                reply = self._receive()
                if reply.error:
                    raise _problem(reply, call.method)
                yield dict(reply.parameters)
                if not reply.continues:
                    return
        except OSError as error:
            raise _unreachable(error.strerror or str(error)) from error
        except Malformed as error:
            raise _unreachable("its answer is no Varlink") from error

    def _receive(self) -> Reply:
        end = None if self.timeout is None else time.monotonic() + self.timeout
        while (message := self._decoder.next()) is None:
            self._socket.settimeout(None if end is None else max(0.001, end - time.monotonic()))
            data = self._socket.recv(PIECE)
            if not data:
                raise ConnectionResetError("it closed the connection")
            self._decoder.feed(data)
        return parse_reply(message)


def _unreachable(why: str) -> Problem:
    text = f"kmodd cannot be reached: {why}"
    return Problem("daemon-unreachable", text, "is it running? systemctl status kmodd")


def _problem(reply: Reply, method: str) -> Problem:
    found = reply.parameters
    if reply.error == f"{MANAGER}.Problem" and "problem" in found:
        return Problem(str(found["problem"]), str(found.get("message", "")), str(found.get("hint", "")))
    if reply.error.endswith(".PermissionDenied"):
        text = f"only root may ask kmodd for {method.rpartition('.')[2]}"
        return Problem("permission-denied", text, "run it as root")
    said = ", ".join(f"{name} {value}" for name, value in found.items())
    return Problem("call-refused", f"kmodd refused {method}: {reply.error} {said}".rstrip(), "do versions differ?")
