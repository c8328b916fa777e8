"""The administrator's command: what it is told and as whom it runs, and that it holds nobody up."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Optional

import pytest
from patience import LIMIT, skip, until, within_limit
from worlds import K, T, kernel, settings_of, world

from kmodd.alert import notifycommand as room
from kmodd.alert.notifycommand import Command
from kmodd.core.model import Judgement, Snapshot, Verdict
from kmodd.core.report import Report, make_report
from kmodd.core.sysroot import Sysroot

pytestmark = pytest.mark.system

READY, BUILDING, FAILED, EXCLUDED = (
    Judgement(v, v.value, "build-failed" if v is Verdict.FAILED else "")
    for v in (Verdict.READY, Verdict.BUILDING, Verdict.FAILED, Verdict.EXCLUDED)
)
OTHER = Judgement(Verdict.FAILED, "other", "strip-failed")
NOBODY = 65534


@pytest.fixture
def root(open_path: Path) -> Path:
    (open_path / "run/kmodd").mkdir(parents=True)
    (open_path / "out").mkdir()
    (open_path / "out").chmod(0o777)
    return open_path


async def appear(path: Path) -> None:
    """Wait until somebody else made a file."""
    await until(path.exists, path)


def script(root: Path, text: str) -> str:
    path = root / "alert"
    path.write_text(f"#!/bin/sh\ncd {root}/out\n{text}\n")
    path.chmod(0o755)
    return str(path)


def make(root: Path, *argv: str, timeout: float = LIMIT) -> Command:
    table = f'[notify]\ncommand = {json.dumps(argv)}\ntimeout = "{timeout}s"\n'
    return Command(Sysroot(root), settings_of(table), lambda _: (NOBODY, NOBODY))


def look(judgement: Optional[Judgement], previous: Optional[Report]) -> Report:
    """Return the report of a look that found this of the one target; None: kernel and target are gone."""
    snapshot = world() if judgement else Snapshot()
    return make_report(snapshot, {T: judgement} if judgement else {}, 0, previous)


def feed(command: Command, *looks: Optional[Judgement], previous: Optional[Report] = None) -> Report:
    for judgement in looks:
        now = look(judgement, previous)
        command(previous, now)
        previous = now
    assert previous is not None
    return previous


async def finish(command: Command) -> None:
    if command._task is not None:
        await command._task


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(within_limit(work()))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "GATHER", 0.1)
    monkeypatch.setattr(room, "PAUSE", 0.05)


def test_command_gets_the_changes_unprivileged_and_in_a_clean_environment(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "x")
    told = 'cat > told; id -u > uid; id -G > groups; env > env; echo "$#: $1" > words\n'
    told += "grep -E 'NoNewPrivs|Cap(Bnd|Eff)' /proc/self/status > caps"
    command = make(root, script(root, told), "a b; $(touch no)")

    async def work() -> None:
        feed(command, FAILED)
        await finish(command)

    run(work)
    assert (root / "out/words").read_text() == "1: a b; $(touch no)\n"
    document = json.loads((root / "out/told").read_text())
    assert (document["schema"], document["host"], document["summary"]) == (1, os.uname().nodename, "1 failed")
    facts = {"kernel": K, "verdict": "failed", "previous": None, "required": True, "problem": "build-failed"}
    target, whole = document["changes"]
    assert {key: target[key] for key in facts} == facts and target["module"] == "m"
    assert {key: whole[key] for key in facts} == facts and whole["module"] is None
    assert "SECRET" not in (root / "out/env").read_text() and "NOTIFY_SOCKET" not in (root / "out/env").read_text()
    if os.geteuid() == 0:
        assert (root / "out/uid").read_text().strip() == str(NOBODY) == (root / "out/groups").read_text().strip()
        assert set((root / "out/caps").read_text().split()[1::2]) == {"0000000000000000", "1"}
    assert not (root / "run/kmodd/notify.output").exists()


@pytest.mark.parametrize(
    ("looks", "verdicts"),
    [
        ((READY,), []),
        ((FAILED,), [(None, "failed")]),
        ((READY, FAILED), [("ready", "failed")]),
        ((READY, BUILDING, READY), []),
        ((READY, FAILED, READY), []),
        ((READY, FAILED, OTHER), [("ready", "failed")]),
        ((FAILED, BUILDING, READY), [(None, "ready")]),
        ((EXCLUDED,), []),
    ],
    ids=lambda value: "-".join(j.verdict.value for j in value) if value and isinstance(value[0], Judgement) else "",
)
def test_changes_of_one_subject_come_as_one(
    root: Path, looks: tuple[Judgement, ...], verdicts: list[tuple[Optional[str], str]]
) -> None:
    command = make(root, script(root, "cat > told"))

    async def work() -> None:
        feed(command, *looks)
        await finish(command)

    run(work)
    told: dict[str, Any] = {"changes": []}
    if (root / "out/told").exists():
        told = json.loads((root / "out/told").read_text())
    assert [(c["previous"], c["verdict"]) for c in told["changes"] if c["module"]] == verdicts


def test_kernel_that_goes_is_told(root: Path) -> None:
    command = make(root, script(root, "cat >> told"))

    async def work() -> None:
        before = feed(command, FAILED)
        await finish(command)
        feed(command, None, previous=before)
        await finish(command)

    run(work)
    _, last = (json.loads(text) for text in (root / "out/told").read_text().splitlines())
    assert [(c["module"], c["kernel"], c["verdict"]) for c in last["changes"]] == [(None, K, "gone")]


def test_what_changes_while_it_runs_is_told_next(root: Path) -> None:
    command = make(root, script(root, "cat >> told; touch began; while [ ! -e go ]; do sleep 0.05; done"))

    async def work() -> None:
        before = feed(command, FAILED)
        await appear(root / "out/began")
        feed(command, READY, previous=before)
        (root / "out/go").touch()
        await finish(command)

    run(work)
    told = [json.loads(text)["changes"] for text in (root / "out/told").read_text().splitlines()]
    assert [[c["verdict"] for c in changes] for changes in told] == [["failed", "failed"], ["ready", "ready"]]


@pytest.mark.parametrize(
    ("text", "hangs", "said"),
    [
        ("echo oh no >&2; exit 3", False, ["oh no", "problem=tool-failed", "alert failed with exit status 3"]),
        ("sleep 600", True, ["problem=tool-timeout", "alert did not end within 100 s and was killed"]),
        ("kill -9 $$", False, ["problem=tool-killed", "alert was killed by SIGKILL"]),
        ("yes", True, ["line=y", "problem=tool-timeout"]),
    ],
)
def test_failing_command_is_offered_the_changes_again_and_then_no_more(
    root: Path,
    text: str,
    hangs: bool,
    said: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = make(root, script(root, f"echo x >> tried\n{text}"), timeout=100)
    output = root / "run/kmodd/notify.output"

    def is_in_midst_of(number: int) -> bool:
        tried = root / "out/tried"
        begun = tried.exists() and tried.read_text().count("x") == number
        return begun and (text != "yes" or (output.exists() and output.stat().st_size > 0))

    async def work() -> None:
        feed(command, FAILED)
        for number in range(1, room.TRIES + 1) if hangs else ():
            await until(lambda n=number: is_in_midst_of(n), f"try {number}")
            skip(monkeypatch, 101)
        await finish(command)

    run(work)
    printed = capsys.readouterr().out
    assert [word for word in said if word not in printed] == []
    assert (root / "out/tried").read_text().count("x") == room.TRIES == printed.count("notification failed")
    assert printed.count("notification command said") <= room.MOST_LINES * room.TRIES
    assert not output.exists()


def test_missing_command_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = make(root, "/nonesuch/alert")

    async def work() -> None:
        feed(command, FAILED)
        await finish(command)

    run(work)
    assert "/nonesuch/alert" in capsys.readouterr().out


def test_failed_offer_is_repeated_with_what_came_since(root: Path) -> None:
    command = make(root, script(root, "[ -e ok ] || { touch ok; exit 1; }\ncat > told"))

    async def work() -> None:
        before = feed(command, FAILED)
        await appear(root / "out/ok")
        feed(command, READY, previous=before)
        await finish(command)

    run(work)
    changes = json.loads((root / "out/told").read_text())["changes"]
    assert [(c["previous"], c["verdict"]) for c in changes] == [(None, "ready")] * 2


def test_look_is_never_delayed_and_a_stop_ends_the_command(root: Path) -> None:
    command = make(root, script(root, "echo $$ > new; mv new pid; exec sleep 60"))

    async def work() -> None:
        feed(command, FAILED)
        assert not (root / "out/pid").exists()
        await appear(root / "out/pid")
        await command.stop()

    run(work)
    pid = int((root / "out/pid").read_text())
    assert not Path(f"/proc/{pid}").exists()


def test_without_a_command_nothing_is_kept(root: Path) -> None:
    command = make(root)
    feed(command, FAILED)
    assert command._pending == {} and command._task is None


def test_unknown_boot_default_is_told_as_such(root: Path) -> None:
    report = make_report(world(kernels=(kernel(running=True),)), {T: FAILED}, 0, None)
    (change, _) = report.changes(None)
    item = room.make_item(change, report)
    assert (item["running"], item["default_boot"]) == (True, None)
