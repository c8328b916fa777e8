"""What the generated files say, and that nothing but them is ever written or removed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from worlds import module

from kmodd.core.dropincontent import MARK, dropins
from kmodd.core.errors import Problem
from kmodd.core.model import Dropin
from kmodd.core.sysroot import Sysroot
from kmodd.deploy.dropins import DropinFiles
from kmodd.system.files import temporary_name

HEADER = f"{MARK} for module m; do not edit, changes are overwritten.\n# Edit /etc/kmodd/modules.d/m.toml instead.\n"
CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"at_boot": ("a-b", "c")}, "modules-load", "a_b\nc\n"),
    ({"blacklist": ("x-y",)}, "modprobe", "blacklist x_y\n"),
    ({"options": {"m-x": 'a=1 b="2 3"'}}, "modprobe", 'options m_x a=1 b="2 3"\n'),
    ({"debug": ("m",)}, "modprobe", "options m dyndbg=+p\n"),
    ({"softdeps": {"m": "pre: a post: b"}}, "modprobe", "softdep m pre: a post: b\n"),
    ({"aliases": {"char-major-81-*": "m-x"}}, "modprobe", "alias char-major-81-* m_x\n"),
    (
        {"options": {"m": "a=1"}, "blacklist": ("x",), "aliases": {"p": "m"}},
        "modprobe",
        "blacklist x\noptions m a=1\nalias p m\n",
    ),
]


@pytest.mark.parametrize(("load", "kind", "lines"), CASES)
def test_content(load: dict[str, Any], kind: str, lines: str) -> None:
    assert dropins(module(load=load), {}) == [Dropin(kind, "m", HEADER + lines)]


def test_nothing_to_say_is_no_file() -> None:
    assert dropins(module(), {}) == []
    assert dropins(module(), {"6.1": set()}) == []


def test_overrides_are_sorted_whatever_order_they_came_in() -> None:
    (found,) = dropins(module(), {"6.2": {"b", "a"}, "6.1": ["c"]})
    assert found == Dropin(
        "depmod",
        "m",
        HEADER + "# Kernels: 6.1 6.2\n"
        "override c ^6[.]1$ extra/m\noverride a ^6[.]2$ extra/m\noverride b ^6[.]2$ extra/m\n",
        ("6.1", "6.2"),
    )


def test_modprobe_understands_what_is_written(tmp_path: Path) -> None:
    """modprobe -c prints its configuration as it read it."""
    load = {"options": {"m-x": "a=1"}, "blacklist": ("y",), "softdeps": {"m": "pre: a"}, "aliases": {"char-*": "m"}}
    (found,) = dropins(module(load=load), {})
    (tmp_path / "etc/modprobe.d").mkdir(parents=True)
    DropinFiles(Sysroot(tmp_path)).write(found)
    directory = tmp_path / "etc/modprobe.d"
    done = subprocess.run(["/sbin/modprobe", "-C", directory, "-c"], capture_output=True, text=True, check=True)
    said = set(done.stdout.splitlines())
    assert {"options m_x a=1", "blacklist y", "softdep m pre: a", "alias char_* m"} <= {
        line.replace("char-", "char_") for line in said
    }


# -- on disk ---------------------------------------------------------------------------------------------------------
OURS = Dropin("modprobe", "m", HEADER + "blacklist x\n")


def test_what_is_written_is_read_back_and_removed(tmp_path: Path) -> None:
    files = DropinFiles(Sysroot(tmp_path))
    assert files.read() == ()
    files.write(OURS)
    assert (tmp_path / "etc/modprobe.d/kmodd-m.conf").read_text() == OURS.content
    assert files.read() == (OURS,)
    files.remove(OURS)
    files.remove(OURS)
    assert files.read() == ()


@pytest.mark.parametrize("content", [b"options x\n", b"", b"\xff\xfe"])
def test_file_of_somebody_else_is_neither_taken_nor_overwritten(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "etc/modprobe.d/kmodd-m.conf"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    files = DropinFiles(Sysroot(tmp_path))
    assert files.read() == ()
    with pytest.raises(Problem) as caught:
        files.write(OURS)
    assert caught.value.code == "dropin-foreign"
    assert path.read_bytes() == content


def test_leftovers_are_healed_and_others_stay(tmp_path: Path) -> None:
    files = DropinFiles(Sysroot(tmp_path))
    files.write(OURS)
    path = tmp_path / "etc/modprobe.d/kmodd-m.conf"
    temporary_name(path).write_text("half")
    other = path.with_name(".foreign.kmodd-new")
    other.write_text("x")
    files.heal()
    assert sorted(path.parent.iterdir()) == [other, path]
