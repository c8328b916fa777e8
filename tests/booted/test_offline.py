"""Without systemd: an image is built, or a system installed, by rpm and kmoddctl on a root that does not run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nspawn import SOURCE, TOP, Machine, Repository, overlay

pytestmark = pytest.mark.booted


class Image:
    """A root that nothing runs in, but what an installer starts by chroot(8)."""

    def __init__(self, directory: Path, repository: Path) -> None:
        self.root = overlay(directory)
        (self.root / "repo").mkdir()
        for name in ("repo", "proc", "dev"):
            source = {"repo": repository, "proc": "/proc", "dev": "/dev"}[name]
            subprocess.run(["mount", "--bind", source, self.root / name], check=True)

    def close(self) -> None:
        for name in ("repo", "proc", "dev", ""):
            subprocess.run(["umount", "-l", self.root / name], check=True)

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the root, as %post of a kickstart does."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        words = ["unshare", "--mount", "chroot", str(self.root), *argv]
        return subprocess.run(words, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)

    def register(self, name: str) -> None:
        """Put down source and module file, as configuration management does."""
        source = self.root / f"usr/src/{name}-1.0"
        source.mkdir(parents=True)
        (source / f"{name}.c").write_text(SOURCE.format(name=name))
        (source / "Makefile").write_text(f"obj-m := {name}.o\n")
        file = self.root / f"etc/kmodd/modules.d/{name}.toml"
        file.write_text(f'[source]\npath = "/usr/src/{name}-1.0"\n[load]\nat_boot = ["{name}"]\n')


@pytest.fixture(scope="module")
def image(machine: Machine, repository: Repository, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    made = Image(tmp_path_factory.mktemp("image"), machine.root / "repo")
    yield made
    made.close()


def verdicts(answer: str) -> dict[tuple[str, str], str]:
    document: dict[str, Any] = json.loads(answer)
    return {(t["module"], t["kernel"]): t["verdict"] for t in document["targets"]}


def check_installed(root: Path, release: str, name: str) -> None:
    assert (root / f"usr/lib/modules/{release}/extra/{name}/{name}.ko").is_file()
    assert name in (root / f"etc/modules-load.d/kmodd-{name}.conf").read_text()
    assert f"extra/{name}/{name}.ko" in (root / f"usr/lib/modules/{release}/modules.dep").read_text()


def test_packages_install_without_systemd_and_the_triggers_are_quiet(image: Image, repository: Repository) -> None:
    """kmodd comes first, so that its triggers fire for the kernels that follow, and for one that goes."""
    for words in (
        ("-i", repository.standing, repository.kmodd),
        ("-i", *repository.kernels[repository.new]),
        ("-i", "--oldpackage", *repository.kernels[repository.old]),
        ("-e", *repository.names(repository.old)),
    ):
        done = image.run("rpm", *words)
        said = re.sub("^rpm: .*\n", "", done.stdout + done.stderr, flags=re.MULTILINE)  # Debian's advice
        assert (done.returncode, said) == (0, "")
    done = image.run("/usr/lib/kernel/install.d/95-kmodd.install", "add", repository.new, "/dev/null")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert image.run("systemctl", "is-enabled", "kmodd.service").stdout.strip() == "enabled"


def test_a_root_is_brought_up_to_date_from_outside(image: Image, repository: Repository) -> None:
    """`kmoddctl --root /mnt/sysimage sync`, as an image build does."""
    image.register("outside")
    words = [sys.executable, "-m", "kmodd.ctl", "sync", "--json", "--root", str(image.root)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=TOP)
    assert done.returncode == 0, done.stdout + done.stderr
    assert verdicts(done.stdout) == {("outside", repository.new): "ready"}
    check_installed(image.root, repository.new, "outside")
    assert (image.root / "etc/kmodd/keys/signing.key").stat().st_mode & 0o777 == 0o600


def test_a_kickstart_does_so_from_inside(image: Image, repository: Repository) -> None:
    """The commands of %post in the example, with a module of its own in place of the vendor's."""
    image.register("inside")
    section = (TOP / "docs/examples/kickstart.cfg").read_text().partition("\n%post")[2].partition("\n%end")[0]
    _, _, script = section.partition("\n")
    assert "kmoddctl" in script
    done = image.run("sh", "-euc", script)
    assert done.returncode == 0, done.stdout + done.stderr
    found = verdicts(image.run("kmoddctl", "status", "--json").stdout)
    assert found == {(name, repository.new): "ready" for name in ("inside", "outside")}
    check_installed(image.root, repository.new, "inside")
    assert image.run("kmoddctl", "gate", "--kernel", repository.new).returncode == 0
