"""The control socket of a real daemon: foreign clients, who may what, live events, kills and passed sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import varlink
from patience import LIMIT, wait_until, within_limit
from varlinktypes import find_faults
from world import GOOD, World

from kmodd.control.address import LONGEST
from kmodd.control.client import Client
from kmodd.control.interface import MANAGER, METHODS, SERVICE, TEXTS
from kmodd.core.errors import Problem

pytestmark = pytest.mark.system

#: Every method, and with what it is called where alpha is ready.
CALLS: dict[str, dict[str, Any]] = {
    "Status": {"module": "alpha"},
    "Plan": {},
    "Explain": {"module": "alpha"},
    "Logs": {"module": "alpha"},
    "Sync": {"wait": True},
    "Rebuild": {"module": "alpha"},
    "Verify": {},
    "Reload": {},
    "Subscribe": {},
}


def path_of(world: World) -> str:
    return str(world.root / "run/kmodd/io.kmodd.Manager")


def client(world: World) -> Client:
    return Client(path_of(world), 60)


@contextlib.contextmanager
def somebody(world: World) -> Iterator[None]:
    """Be an ordinary user."""
    world.root.parent.chmod(0o755)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def running(world: World) -> World:
    """A root whose daemon has made alpha ready."""
    world.add("alpha")
    world.start()
    world.wait_for("alpha", "ready")
    return world


def test_table_has_every_method() -> None:
    assert {f"{MANAGER}.{name}" for name in CALLS} == {name for name in METHODS if name.startswith(MANAGER)}


# -- foreign clients -------------------------------------------------------------------------------------------------
def test_varlink_client_calls_every_method(running: World) -> None:
    """PyPI's varlink parses the interface that the daemon tells it, and filters all replies by it."""
    with varlink.Client(address=f"unix:{path_of(running)}") as found:
        assert {MANAGER, SERVICE} <= set(found.get_interfaces())
        with found.open(MANAGER) as manager:
            got = {name: getattr(manager, name)(**given) for name, given in CALLS.items() if name != "Subscribe"}
            assert got["Status"]["targets"][0]["verdict"] == "ready"
            assert got["Plan"]["actions"] == []
            assert got["Explain"]["targets"][0]["built"]["objects"] == ["alpha"]
            assert "alpha.ko" in got["Logs"]["text"]
            assert got["Sync"]["status"]["kernels"][0]["verdict"] == "ready"
            assert got["Verify"]["kernels"][0]["release"] == running.kernel
            with pytest.raises(varlink.VarlinkError) as caught:
                manager.Status(module="nothing")
            assert caught.value.error() == f"{MANAGER}.Problem"
            assert caught.value.parameters()["problem"] == "module-unknown"
        with found.open(MANAGER) as manager:
            events = manager.Subscribe(_more=True)
            assert next(events)["event"]["event"] == "activity"


def test_example_of_the_documents_runs(running: World) -> None:
    top = Path(__file__).resolve().parents[2]
    page = (top / "packaging/man/io.kmodd.Manager.7").read_text().replace("\\e\n", "\\\n")
    (manual,) = re.findall(r"^import varlink\n.*?(?=^\.Ed)", page, re.MULTILINE | re.DOTALL)
    (short,) = re.findall(r"^```python\n(.*?)^```", (top / "docs/socket.md").read_text(), re.MULTILINE | re.DOTALL)
    for text in (manual, short):
        script = text.replace("/run/kmodd/io.kmodd.Manager", path_of(running))
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=LIMIT)
        assert (done.stdout, done.stderr) == (f"alpha {running.releases.new} ready\n", "")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncvarlink needs Python 3.11")
def test_asyncvarlink_client_calls_every_method(running: World) -> None:
    from asyncvarlink import VarlinkClientProtocol, VarlinkTransport, connect_unix_varlink
    from asyncvarlink.message import VarlinkMethodCall
    from asyncvarlink.serviceinterface import VarlinkServiceInterface

    async def talk() -> None:
        transport, protocol = await connect_unix_varlink(VarlinkClientProtocol, path_of(running))
        assert isinstance(transport, VarlinkTransport)
        service = protocol.make_proxy(VarlinkServiceInterface)
        assert (await service.GetInfo())["interfaces"] == sorted(TEXTS)
        assert (await service.GetInterfaceDescription(interface=MANAGER))["description"] == TEXTS[MANAGER]
        for name, given in CALLS.items():
            call = VarlinkMethodCall(f"{MANAGER}.{name}", given, more=name == "Subscribe")
            if call.more:
                replies = protocol.call_more(call)
                reply, _ = await replies.__anext__()
                assert reply.continues
                await replies.aclose()
            else:
                answer = await protocol.call(call)
                assert answer is not None
                reply = answer[0]
            assert reply.error is None, (name, reply.parameters)
        transport.close()

    asyncio.run(within_limit(talk()))


def test_documents_are_what_the_interface_says(running: World) -> None:
    """No key that the interface does not tell of, and none missing: for all verdicts, and for events."""
    interface = varlink.scanner.Interface(TEXTS[MANAGER])
    running.add("bad", {"bad.c": "#error no\n"})
    running.registry("broken").write_text("nonsense = [")
    running.install(running.releases.old)
    replies: dict[str, list[dict[str, Any]]] = {}
    with client(running) as found:
        replies["Sync"] = list(found.stream("Sync"))
        for name, given in CALLS.items():
            if name not in ("Sync", "Rebuild", "Subscribe"):
                replies[name] = [found.call(name, **given)]
        replies["Status"] += [found.call("Status")]
        replies["Rebuild"] = [found.call("Rebuild", **CALLS["Rebuild"])]
    kinds = {reply["event"]["event"] for reply in replies["Sync"] if "event" in reply}
    assert {"activity", "started", "compiled", "ended", "verdict"} >= kinds >= {"started", "ended", "verdict"}
    assert {t["verdict"] for t in replies["Status"][1]["targets"]} == {"ready", "failed"}
    for name, given in replies.items():
        for reply in given:
            assert find_faults(interface, interface.get_method(name).out_type, reply) == [], (name, reply)


def test_daemon_and_kmoddctl_tell_the_same(running: World) -> None:
    """The daemon's documents are those of a look in kmoddctl's own process."""
    running.add("bad", {"bad.c": "#error no\n"})
    running.sync()
    words = (("status", "--json"), ("plan", "--json"), ("explain", "bad", "--json"))
    asked = [json.loads(running.ctl(*command).stdout) for command in words]
    assert asked[0]["holder"] == f"kmodd (pid {running.child.pid})"
    running.stop()
    looked = [json.loads(running.ctl(*command).stdout) for command in words]
    for document in (asked[0], looked[0]):
        document.update(looked=None, holder=None, activity=None)  # of the daemon itself
    assert asked == looked


# -- who may what ----------------------------------------------------------------------------------------------------
def test_ordinary_user_reads_and_changes_nothing(running: World) -> None:
    with somebody(running):
        found = client(running)
    with found:
        for name in ("Status", "Plan", "Explain", "Logs"):
            assert found.call(name, **CALLS[name])["schema"] == 1
        assert next(found.stream("Subscribe"))["event"]["event"] == "activity"
    before = running.log.read_text()
    for name in ("Sync", "Rebuild", "Verify", "Reload"):
        with somebody(running):
            found = client(running)
        with found, pytest.raises(Problem) as caught:
            found.call(name)
        assert caught.value.code == "permission-denied"
    assert running.log.read_text() == before


def test_everybody_may_connect_at_once(running: World) -> None:
    assert Path(path_of(running)).stat().st_mode & 0o777 == 0o666


# -- changing --------------------------------------------------------------------------------------------------------
def test_sync_waits_for_the_builds_and_tells_of_them(running: World) -> None:
    slow = {"slow.c": GOOD.format(name="slow"), "Makefile": "obj-m := slow.o\n$(shell sleep 2)\n"}
    running.add("slow", slow)
    with client(running) as found:
        replies = list(found.stream("Sync"))
    events = [reply["event"] for reply in replies[:-1]]
    mine = [event for event in events if event.get("module") == "slow"]
    assert [event["event"] for event in mine if event["event"] != "compiled"] == ["started", "ended", "verdict"]
    assert next(event for event in mine if event["event"] == "ended")["outcome"] == "succeeded"
    assert {t["module"]: t["verdict"] for t in replies[-1]["status"]["targets"]} == {"alpha": "ready", "slow": "ready"}


def test_kmoddctl_rebuild_goes_through_the_daemon(running: World) -> None:
    running.add("bad", {"bad.c": "no C\n"})
    running.sync()
    before = {name: running.target(name)["last_attempt"] for name in ("alpha", "bad")}
    done = running.ctl("rebuild", "--json")
    assert done.returncode == 1, "the build fails again"
    after = {name: running.target(name)["last_attempt"] for name in before}
    assert after["alpha"] == before["alpha"]
    assert after["bad"]["ended"] > before["bad"]["ended"]
    assert running.ctl("rebuild", "alpha", "--kernel", running.kernel).returncode == 0
    assert running.target("alpha")["last_attempt"]["ended"] > before["alpha"]["ended"]
    assert running.log.read_text().count("a rebuild was asked for") == 1


def test_kmoddctl_sync_goes_through_the_daemon(running: World) -> None:
    source = running.source("alpha") / "alpha.c"
    source.write_text(source.read_text().replace("value = 1", "value = 2"))
    assert "its source changed" in running.ctl("sync", "--dry-run").stdout
    done = running.ctl("sync", "--verbose")
    assert done.returncode == 0
    assert f"alpha for {running.kernel}: build succeeded" in done.stderr
    assert running.log.read_text().count("module built") == 2
    source.write_text("#error no\n")
    done = running.ctl("sync", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout)["targets"][0]["verdict"] == "failed"


def test_sync_that_is_not_waited_for_is_done_all_the_same(running: World) -> None:
    source = running.source("alpha") / "alpha.c"
    source.write_text(source.read_text().replace("value = 1", "value = 2"))
    with client(running) as found:
        assert found.call("Sync", wait=False) == {}
    running.wait(lambda: running.log.read_text().count("module built") == 2, "the second build")


def test_reading_causes_no_look(running: World) -> None:
    with client(running) as found:
        found.call("Verify")
        before = running.log.read_text().count("looked again")
        for _ in range(100):
            found.call("Status")
            found.call("Explain", module="alpha")
        assert running.log.read_text().count("looked again") == before
        found.call("Verify")
        assert running.log.read_text().count("looked again") == before + 1


def test_status_after_a_change_knows_of_it(running: World) -> None:
    for number in range(3):
        running.add(f"more{number}")
        with client(running) as found:
            assert found.call("Status", module=f"more{number}")["targets"]


def test_reload_refuses_settings_with_an_error(running: World) -> None:
    running.settings("[daemon]\nquiet = 'nonsense'\n")
    done = running.ctl("reload")
    assert done.returncode == 1
    assert "daemon.quiet" in done.stderr
    running.settings("[build]\njobs = 1\n")
    assert running.ctl("reload").returncode == 0
    running.wait(lambda: "configuration read" in running.log.read_text(), "the settings to be taken over")
    with client(running) as found:
        assert found.call("Status")["targets"][0]["verdict"] == "ready"


def test_commands_that_need_the_daemon_say_that_it_is_missing(world: World) -> None:
    for command in ("watch", "reload"):
        done = world.ctl(command)
        assert done.returncode == 3
        assert "kmodd cannot be reached" in done.stderr


def test_watch_shows_what_happens(running: World) -> None:
    argv = [sys.executable, "-m", "kmodd.ctl", "watch", "--root", str(running.root)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as watching:
        lines: list[str] = []
        assert watching.stdout is not None
        reader = threading.Thread(target=lambda: lines.extend(iter(watching.stdout.readline, "")))
        reader.start()
        running.wait(lambda: bool(lines), "the first line")
        running.add("bad", {"bad.c": "int x = ;\n"})
        running.wait(lambda: any("bad for" in line and "failed," in line for line in lines), "the failure")
        text = "".join(lines)
        assert f"bad for {running.kernel}: building" in text
        assert f"bad for {running.kernel}: build failed after" in text
        assert "| " in text and "error: expected expression" in text
        running.stop()
        assert watching.wait(LIMIT) == 3  # nobody is there any more
        reader.join()


# -- the socket ------------------------------------------------------------------------------------------------------
def test_socket_goes_with_the_daemon_and_a_killed_ones_is_replaced(running: World) -> None:
    assert running.kill(signal.SIGKILL) == -signal.SIGKILL
    stale = os.stat(path_of(running)).st_ino
    with pytest.raises(Problem) as caught:
        client(running)
    assert caught.value.code == "daemon-unreachable"
    assert running.ctl("status").returncode == 0  # by a look of its own
    running.told.clear()
    running.start()
    assert os.stat(path_of(running)).st_ino != stale
    with client(running) as found:
        assert found.call("Status")["targets"][0]["verdict"] == "ready"
    running.stop()
    assert not os.path.exists(path_of(running))


def test_something_else_in_the_sockets_place_is_left_alone(world: World) -> None:
    place = Path(path_of(world))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("mine")
    world.add("alpha")
    world.start()
    world.wait_for("alpha", "ready")  # it does its work without a socket
    assert "socket-unusable" in world.log.read_text()
    world.stop()
    assert place.read_text() == "mine"


def test_root_with_a_long_path_has_a_socket(world: World) -> None:
    deep = world.root.parent / ("d" * LONGEST)
    deep.mkdir()
    world.root = world.root.rename(deep / "root")
    world.add("alpha")
    world.start()
    world.wait_for("alpha", "ready")
    assert len(path_of(world)) > LONGEST
    with client(world) as found:
        assert found.call("Status")["holder"] == f"kmodd (pid {world.child.pid})"
    world.stop()
    assert not os.path.exists(path_of(world))


def test_passed_socket_is_served_and_left(world: World) -> None:
    """As systemd does it: the socket is there before the daemon and after it, and no call is lost."""
    place = Path(path_of(world))
    place.parent.mkdir(parents=True, exist_ok=True)
    world.add("alpha")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        early = client(world)
        passing = f"import os, sys; os.dup2({listener.fileno()}, 3); os.environ['LISTEN_PID'] = str(os.getpid()); "
        argv = [sys.executable, "-c", passing + "os.execv(sys.argv[1], sys.argv[1:])"]
        listener.set_inheritable(True)
        world.start(env={"LISTEN_FDS": "1"}, before=argv, pass_fds=(listener.fileno(),))
        with early:
            assert early.call("Status")["kernels"]
        world.stop()
        assert place.exists()


def test_systemd_starts_the_daemon_at_the_first_call(world: World) -> None:
    Path(path_of(world)).parent.mkdir(parents=True, exist_ok=True)
    world.add("alpha")
    caller = threading.Thread(target=_call_when_there, args=(path_of(world),))
    caller.start()
    world.start(before=["systemd-socket-activate", "--setenv=NOTIFY_SOCKET", "--listen", path_of(world)])
    caller.join()
    with client(world) as found:
        assert found.call("Status")["holder"] == f"kmodd (pid {world.child.pid})"


def _call_when_there(path: str) -> None:
    wait_until(lambda: os.path.exists(path), path)
    with Client(path, LIMIT) as found:
        found.call("Status")
