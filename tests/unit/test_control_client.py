"""What kmoddctl starts with is light, and finds the socket wherever it is."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from kmodd.control.address import LONGEST, short_name, socket_of
from kmodd.control.client import Client
from kmodd.core.errors import Problem
from kmodd.core.sysroot import Sysroot

HEAVY = {"asyncio", "dataclasses", "inspect", "kmodd.core.sysroot", "pathlib", "pydantic", "structlog", "subprocess"}


@pytest.mark.parametrize("module", ["kmodd.control.client", "kmodd.ctl.connection"])
def test_nothing_heavy_is_imported(module: str) -> None:
    code = f"import sys; before = set(sys.modules); import {module}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=_top())
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(done.stdout.split())


def _top() -> Path:
    return Path(__file__).resolve().parents[2]


def test_socket_is_where_the_paths_say(tmp_path: Path) -> None:
    (tmp_path / "var/run").mkdir(parents=True)
    (tmp_path / "run").symlink_to("/var/run")  # followed inside the root
    assert socket_of(str(tmp_path)) == f"{tmp_path}/var/run/kmodd/io.kmodd.Manager"
    assert Sysroot().runtime.name == Path(socket_of("/")).parent.name
    assert socket_of("/") == "/run/kmodd/io.kmodd.Manager"
    with pytest.raises(Problem):
        socket_of(str(tmp_path / "nothing"))


@pytest.mark.parametrize("length", [20, LONGEST, LONGEST + 1, 200])
def test_names_of_any_length_can_be_bound_and_reached(length: int, tmp_path: Path) -> None:
    directory = tmp_path / ("d" * max(1, length - len(str(tmp_path)) - 3))
    directory.mkdir()
    path = str(directory / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        with short_name(path) as name:
            assert len(name) <= LONGEST
            listener.bind(name)
        listener.listen()
        assert Path(path).is_socket()
        with Client(path):
            listener.accept()[0].close()


def answer(path: Path, data: bytes) -> threading.Thread:
    """Answer one call with some bytes."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with listener, listener.accept()[0] as peer:
            peer.recv(1 << 16)
            peer.sendall(data)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


PROBLEM = b'{"error":"io.kmodd.Manager.Problem","parameters":{"problem":"a-b","message":"m","hint":"h"}}\0'


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "daemon-unreachable"),
        (b'{"parameters": {}}', "daemon-unreachable"),
        (b"garbage\0", "daemon-unreachable"),
        (b'{"parameters": 3}\0', "daemon-unreachable"),
        (PROBLEM, "a-b"),
        (b'{"error":"io.kmodd.Manager.Problem"}\0', "call-refused"),
        (b'{"error":"org.varlink.service.PermissionDenied"}\0', "permission-denied"),
        (b'{"error":"org.varlink.service.MethodNotFound","parameters":{"method":"x"}}\0', "call-refused"),
        (b'{"error":"io.kmodd.Manager.TooManyConnections"}\0', "call-refused"),
    ],
)
def test_bad_answers_are_problems(data: bytes, code: str, tmp_path: Path) -> None:
    thread = answer(tmp_path / "s", data)
    with Client(str(tmp_path / "s"), 20) as client, pytest.raises(Problem) as caught:
        client.call("Status")
    thread.join()
    assert caught.value.code == code


def test_replies_come_one_by_one(tmp_path: Path) -> None:
    replies = [b'{"parameters":{"n":%d},"continues":true}\0' % n for n in range(3)]
    thread = answer(tmp_path / "s", b"".join(replies) + b'{"parameters":{"n":3}}\0')
    with Client(str(tmp_path / "s"), 20) as client:
        found: list[Any] = [reply["n"] for reply in client.stream("Sync")]
    thread.join()
    assert found == [0, 1, 2, 3]


def test_daemon_that_does_not_answer_is_unreachable(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        with Client(str(tmp_path / "s"), 0.1) as client, pytest.raises(Problem) as caught:
            client.call("Status")
        assert caught.value.code == "daemon-unreachable"
        with pytest.raises(Problem) as caught, Client(str(tmp_path / "s"), 0.1):  # nobody accepts it
            Client(str(tmp_path / "s"), 0.1)
        assert caught.value.code == "daemon-unreachable"
