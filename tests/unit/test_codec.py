"""The Varlink codec: any split of bytes gives the same messages, and garbage nothing but its own error."""

from __future__ import annotations

import json
from typing import Any, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmodd.control.codec import (
    LIMIT,
    Call,
    Decoder,
    Malformed,
    Reply,
    encode_call,
    encode_reply,
    parse_call,
    parse_reply,
)

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | FLOATS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
PARAMETERS = st.dictionaries(st.text(), VALUES, max_size=4)
METHODS = st.from_regex(r"[a-z]{1,8}\.[a-z]{1,8}\.[A-Z][A-Za-z]{0,8}", fullmatch=True)
CALLS = st.builds(Call, METHODS, PARAMETERS, st.booleans(), st.booleans(), st.booleans())
REPLIES = st.builds(Reply, PARAMETERS, st.booleans(), st.just("") | METHODS)
#: What may come: messages, pieces of them, and anything else.
PIECES = st.sampled_from([b"\0", b"{", b'{"method":', b"[]\0", b"1\0"])
STREAMS = st.lists(CALLS.map(encode_call) | st.binary(max_size=40) | PIECES, max_size=6).map(b"".join)
KEYS = st.sampled_from(["method", "parameters", "more", "oneway", "upgrade", "error", "continues"])


def decode(pieces: list[bytes], limit: int = LIMIT) -> list[Union[dict[str, Any], str]]:
    """Return the messages of some pieces, and "malformed" where they end in that."""
    decoder, found = Decoder(limit), []
    for piece in pieces:
        decoder.feed(piece)
        try:
            while (message := decoder.next()) is not None:
                found.append(message)
        except Malformed:
            return [*found, "malformed"]
    return found


@given(st.lists(CALLS, max_size=4))
def test_calls_come_back(calls: list[Call]) -> None:
    assert [parse_call(m) for m in decode([b"".join(map(encode_call, calls))], 1 << 20)] == calls


@given(st.lists(REPLIES, max_size=4))
def test_replies_come_back(replies: list[Reply]) -> None:
    assert [parse_reply(m) for m in decode([b"".join(map(encode_reply, replies))], 1 << 20)] == replies


@given(STREAMS, st.lists(st.integers(0, 400)), st.integers(1, 200))
def test_any_split_gives_the_same_messages(stream: bytes, cuts: list[int], limit: int) -> None:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in zip(edges, edges[1:])]
    whole = decode([stream], limit)
    assert decode(pieces, limit) == whole
    assert decode([stream[i : i + 1] for i in range(len(stream))], limit) == whole


@given(st.binary(max_size=200))
def test_garbage_is_malformed_or_a_message(data: bytes) -> None:
    for message in decode([data + b"\0"]):
        assert message == "malformed" or isinstance(message, dict)


@given(st.dictionaries(KEYS, VALUES))
def test_objects_are_calls_and_replies_or_malformed(message: dict[str, Any]) -> None:
    for parse in (parse_call, parse_reply):
        try:
            parse(message)
        except Malformed as fault:
            assert fault.part in message or fault.part == "method"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"{}{}",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": "' + b"x" * LIMIT + b'"}',
    ],
    ids=lambda data: data[:16].decode(errors="replace"),
)
def test_what_is_no_object_is_malformed_and_stays_so(data: bytes) -> None:
    decoder = Decoder()
    decoder.feed(data + b"\0" + encode_call(Call("a.b.C")))
    for _ in range(2):
        with pytest.raises(Malformed):
            decoder.next()
    assert decoder.pending == 0


def test_nesting_that_no_stack_holds_is_malformed() -> None:
    assert decode([b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}\0"], 1 << 20) == ["malformed"]


@pytest.mark.parametrize(("extra", "taken"), [(0, True), (1, False)])
def test_limit_is_that_of_one_message(extra: int, taken: bool) -> None:
    message = json.dumps({"a": "x" * (100 - len('{"a": ""}') + extra)}).encode() + b"\0"
    assert len(message) == 101 + extra
    assert ("malformed" not in decode([message * 3], 100)) == taken
    unfinished = Decoder(100)
    unfinished.feed(b" " * (100 + extra))
    if taken:
        assert unfinished.next() is None
    else:
        with pytest.raises(Malformed):
            unfinished.next()


@pytest.mark.parametrize(
    ("message", "part"),
    [
        ({}, "method"),
        ({"method": 1}, "method"),
        ({"method": "Status"}, "method"),
        ({"method": "a.B", "parameters": []}, "parameters"),
        ({"method": "a.B", "more": 1}, "more"),
        ({"method": "a.B", "oneway": "yes"}, "oneway"),
        ({"method": "a.B", "upgrade": {}}, "upgrade"),
    ],
)
def test_wrong_part_of_a_call_is_named(message: dict[str, Any], part: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse_call(message)
    assert caught.value.part == part


def test_null_stands_for_what_is_left_out_and_more_is_passed_over() -> None:
    message = {"method": "a.B", "parameters": None, "more": None, "com.example": {"x": 1}}
    assert parse_call(message) == Call("a.B")
    assert parse_reply({}) == parse_reply({"parameters": None, "error": None, "continues": None}) == Reply()


def test_what_json_has_no_word_for_is_not_sent() -> None:
    with pytest.raises(ValueError):
        encode_reply(Reply({"a": float("nan")}))
