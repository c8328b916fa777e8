"""Varlink's messages (https://varlink.org/Method-Call): JSON objects, each followed by a NUL byte. Sans I/O.

Must not: read, write, know a method, or import anything heavy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional, Union

LIMIT = 1 << 14  # bytes of one call; the longest that has a use is not a tenth of it
REPLY_LIMIT = 1 << 26  # bytes of one reply
LONGEST_INTEGER = 20  # characters; more would not fit 64 bits, and long ones take quadratic time


class Malformed(Exception):
    """A received message is not Varlink. part: the part of the message that is wrong, or "message"."""

    def __init__(self, part: str) -> None:
        super().__init__(f"malformed {part}")
        self.part = part


class Call(NamedTuple):
    method: str
    parameters: Mapping[str, Any] = {}
    more: bool = False  # several replies are welcome
    oneway: bool = False  # no reply is
    upgrade: bool = False


class Reply(NamedTuple):
    parameters: Mapping[str, Any] = {}
    continues: bool = False  # more replies follow
    error: str = ""


class Decoder:
    """Splits received bytes into messages, in whatever pieces they come.

    limit: bytes of one message. What is wrong once stays wrong: after Malformed nothing else comes.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._buffer = bytearray()
        self._searched = 0
        self._fault: Optional[Malformed] = None

    @property
    def pending(self) -> int:
        """Return the bytes that are held."""
        return len(self._buffer)

    def feed(self, data: Union[bytes, memoryview]) -> None:
        if self._fault is None:
            self._buffer += data

    def next(self) -> Optional[dict[str, Any]]:
        """Return the next message, None where it is not complete. Raises Malformed."""
        if self._fault is not None:
            raise self._fault
        end = self._buffer.find(0, self._searched)
        try:
            if (len(self._buffer) if end < 0 else end) > self.limit:
                raise Malformed("message")
            if end < 0:
                self._searched = len(self._buffer)
                return None
            message = _parse(bytes(self._buffer[:end]))
        except Malformed as fault:
            self._fault = fault
            self._buffer.clear()
            raise
        del self._buffer[: end + 1]
        self._searched = 0
        return message


def _integer(text: str) -> int:
    if len(text) > LONGEST_INTEGER:
        raise ValueError("integer out of range")
    return int(text)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def _parse(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data.decode(), parse_int=_integer, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise Malformed("message") from error
    if not isinstance(found, dict):
        raise Malformed("message")
    return found


def _encode(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode() + b"\0"


def _parameters(message: Mapping[str, Any]) -> dict[str, Any]:
    found = message.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise Malformed("parameters")
    return found


def _flag(message: Mapping[str, Any], name: str) -> bool:
    found = message.get(name)
    if not (found is None or isinstance(found, bool)):
        raise Malformed(name)
    return bool(found)


def encode_call(call: Call) -> bytes:
    flags = {name: True for name in ("more", "oneway", "upgrade") if getattr(call, name)}
    return _encode({"method": call.method, "parameters": call.parameters, **flags})


def encode_reply(reply: Reply) -> bytes:
    continues = {"continues": True} if reply.continues else {}
    return _encode({**({"error": reply.error} if reply.error else {}), "parameters": reply.parameters, **continues})


def parse_call(message: Mapping[str, Any]) -> Call:
    """Return the call that a message is. Raises Malformed."""
    method = message.get("method")
    if not isinstance(method, str) or not method.rpartition(".")[0]:
        raise Malformed("method")
    flags = {name: _flag(message, name) for name in ("more", "oneway", "upgrade")}
    return Call(method, _parameters(message), **flags)


def parse_reply(message: Mapping[str, Any]) -> Reply:
    """Return the reply that a message is. Raises Malformed."""
    error = message.get("error")
    if not (error is None or isinstance(error, str)):
        raise Malformed("error")
    return Reply(_parameters(message), _flag(message, "continues"), error or "")
