"""The words of dkms: what they mean, which are refused and how, and that its man page has them all."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmodd.core.sysroot import Sysroot
from kmodd.ctl.dkms import arguments, outcome
from kmodd.ctl.dkms import scriptlet as transaction
from kmodd.ctl.dkms.arguments import Arguments, Refusal, parse

HOLD = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"
PAGE = (Path(__file__).resolve().parents[2] / "packaging/man/dkms.8").read_text()


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("add -m a -v 1", "title", "a/1"),
        ("add -m a/1", "title", "a/1"),
        ("a/1 add", "title", "a/1"),
        ("build --module=a/1 -k 6.1/x86_64 -k=6.2", "kernels", ["6.1", "6.2"]),
        ("install a/1 -k 6.1/x86_64", "architectures", ["x86_64"]),
        ("install a/1 -j 4 --no-depmod --verbose --kernelver 6.1", "kernels", ["6.1"]),
        ("remove a/1 --all --rpm_safe_upgrade", "safe_upgrade", True),
        ("install -q a/1", "quiet", True),
        ("add a/1 --no-initrd", "deprecated", ["--no-initrd"]),
        ("add a/1 b/2", "surplus", ["b/2"]),
        ("install a/1 --directive=X=y", "directives", ["X=y"]),
        ("--version nonsense --bogus", "show_version", True),
        ("status -m", "module", ""),
    ],
)
def test_words_mean_what_they_mean_to_dkms(line: str, field: str, value: Any) -> None:
    assert getattr(parse(line.split()), field) == value


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("add --bogus", 2),
        ("add build", 4),
        ("remove a/1 --all -k 6.1", 2),
        ("remove a/1 --all -a x86_64", 3),
        ("status -a x -a y -k 6.1", 1),
        ("add --source-only --binaries-only", 8),
        ("remove -m .. -v 1", 1),
        ("remove -m a -v ../../etc", 1),
        ("remove -m a -v ..", 1),
        ("build a/1 -k ../x", 1),
    ],
)
def test_contradictions_end_with_the_exit_code_of_dkms(line: str, code: int) -> None:
    with pytest.raises(Refusal) as caught:
        parse(line.split())
    assert caught.value.code == code


@given(st.lists(st.one_of(st.text(max_size=8), st.sampled_from([*arguments.VALUES, *arguments.ACTIONS, "a/1"]))))
def test_whatever_is_asked_is_taken_or_refused(words: list[str]) -> None:
    try:
        found = parse([word for word in words if "\0" not in word])
    except Refusal as refusal:
        assert refusal.lines
        return
    for part in (found.module, found.version, *found.kernels):
        assert "/" not in part and part not in (".", "..")


def test_man_page_has_every_option_action_and_exit_code() -> None:
    for word in (*arguments.VALUES, *arguments.FLAGS, *arguments.IGNORED, *arguments.DEPRECATED):
        macros = "Fl Fl " if word.startswith("--") else "Fl "
        assert re.search(rf"{macros}{re.escape(word.lstrip('-'))}\b", PAGE), word
    for action in arguments.ACTIONS:
        assert re.search(rf"^\.(?:It )?Cm .*\b{action}\b", PAGE, re.MULTILINE), action
    listed = set(re.findall(r"^\.It (\d+)$", PAGE, re.MULTILINE))
    used = {0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 21, 77}
    assert listed == {str(code) for code in used} and {*outcome.CODES.values(), *outcome.LINES} <= used
    assert set(vars(Arguments())) >= {*arguments.VALUES.values(), *arguments.FLAGS.values()}


def test_only_a_transaction_above_this_process_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "var/lib/rpm/.rpm.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    sysroot = Sysroot(tmp_path)
    assert transaction.find_transaction(sysroot) is None
    holder = subprocess.Popen(["python3", "-c", HOLD, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout and holder.stdout.readline()
        assert transaction.find_transaction(sysroot) is None, "that of a stranger"
        monkeypatch.setattr(transaction, "_ancestors", lambda: {os.getppid(), holder.pid})
        assert transaction.find_transaction(sysroot) == holder.pid
        monkeypatch.undo()
        monkeypatch.setattr(transaction, "PROCESSES", tmp_path)  # nothing is known
        assert transaction.find_transaction(sysroot) == holder.pid
        mark = transaction.SafeUpgrade(sysroot, "a", "1")
        mark.mark(holder.pid)
        assert not transaction.SafeUpgrade(sysroot, "a", "2").claim(holder.pid)
        assert (mark.claim(holder.pid), mark.claim(holder.pid)) == (True, False)
        mark.mark(holder.pid)
        monkeypatch.undo()
        assert not mark.claim(holder.pid), "another process of that pid"
    finally:
        holder.communicate(b"\n")
