"""The owner of a source swaps it for links to the signing key, over and over, while root copies it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from guarded import OWNER, leaked, make_guarded

from kmodd.core.errors import Problem
from kmodd.core.modulefile import Module, ModuleFile
from kmodd.core.sysroot import Sysroot
from kmodd.sources import SourceReader

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ROUNDS = 150

#: Swaps sub-directories and files for links to the keys, as fast as it can; writes a byte when it has begun.
SWAPPER = """
import os, sys
top, keys, owner = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.setresgid(owner, owner, owner); os.setresuid(owner, owner, owner)
os.chdir(top)
os.write(1, b"x")
while True:
    for name, to in (("sub", keys), ("m.c", keys + "/signing.key"), ("fix.patch", keys + "/signing.key")):
        os.rename(name, "aside"); os.symlink(to, name); os.unlink(name); os.rename("aside", name)
"""


@pytest.fixture
def root(open_path: Path) -> Path:
    return make_guarded(open_path)


@contextmanager
def swapping(root: Path) -> Iterator[None]:
    argv = [sys.executable, "-c", SWAPPER, str(root / "usr/src/m"), str(root / "etc/kmodd/keys"), str(OWNER)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.read(1) == b"x"
        try:
            yield
        finally:
            child.send_signal(signal.SIGKILL)


#: What such a copy may end with: the source is seen to change, or not to be there.
EXPECTED = ("source-changed", "source-missing", "source-not-file", "patch-missing")


def _module(**source: object) -> Module:
    return Module(name="m", file=ModuleFile.model_validate({"source": source}), path="/etc/kmodd/modules.d/m.toml")


@pytest.mark.parametrize("kind", ["directory", "archive", "patch"])
def test_no_swapping_of_a_source_makes_root_copy_the_key(root: Path, tmp_path: Path, kind: str) -> None:
    reader = SourceReader(Sysroot(root))
    said = {"path": "/usr/src/m", "patches": ({"file": "/usr/src/m/fix.patch"},)} if kind == "patch" else {}
    said = {"archive": "/usr/src/m/m.c"} if kind == "archive" else said or {"path": "/usr/src/m"}
    what = _module(**said, trust_owner=True)
    with swapping(root):
        for number in range(ROUNDS):
            place = tmp_path / str(number)
            (place / "tmp").mkdir(parents=True)
            try:
                if kind == "patch":
                    reader.copy_beside(what, "6.1", place / "beside", None)
                else:
                    reader.copy(what, place / "source", None)
            except Problem as problem:
                assert problem.code in ("source-changed", "source-missing", "source-not-file", "patch-missing"), problem
            assert leaked(place) == []
