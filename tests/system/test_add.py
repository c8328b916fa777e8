"""add takes what is a module's source, says what it found, and refuses what is none with what to give instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from ground.privateroot import make_root

from kmodd import ctl

pytestmark = pytest.mark.system


def source(root: Path, name: str, **files: str) -> Path:
    path = root / "usr/src" / name
    path.mkdir(parents=True)
    for file, text in files.items():
        (path / file.replace("_", ".")).write_text(text)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = make_root(tmp_path / "root")
    source(made, "alpha-1.0", Makefile="ifneq ($(KERNELRELEASE),)\nobj-m := alpha.o\nendif\n")
    source(made, "many-2.0", Kbuild="obj-$(CONFIG_X) += a.o b.o c.o d.o\n")
    source(made, "conf-3.0", dkms_conf="PACKAGE_NAME=conf\n")
    source(made, "empty-1.0")
    source(made, "userland-1.0", Makefile="all:\n\tcc tool.c\n")
    return made


def add(root: Path, path: str, *words: str) -> int:
    return ctl._run(["add", path, *words, "--root", str(root)])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("alpha-1.0", "registered alpha by /etc/kmodd/modules.d/alpha.toml; its Makefile builds alpha.ko"),
        ("many-2.0", "its Kbuild builds a.ko, b.ko, c.ko and 1 more"),
        ("conf-3.0", "it has a dkms.conf; kmoddctl import dkms /usr/src/conf-3.0 would register it by that"),
    ],
)
def test_source_is_registered_and_said_what_was_found(
    root: Path, name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(root, f"/usr/src/{name}") == 0
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/usr/src", "give one of the sources in it: /usr/src/alpha-1.0, /usr/src/conf-3.0, /usr/src/many-2.0"),
        ("/usr/src/empty-1.0", "--force registers it all the same"),
        ("/usr/src/userland-1.0", "--force registers it all the same"),
    ],
)
def test_what_is_no_source_is_refused_unless_forced(
    root: Path, path: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(root, path) == 2
    told = capsys.readouterr().err
    assert f"{path} has no Makefile or Kbuild with obj-m" in told and hint in told
    assert not list((root / "etc").rglob("*.toml"))
    assert add(root, path, "--force", "--name", "forced") == 0
    assert (root / "etc/kmodd/modules.d/forced.toml").is_file()
