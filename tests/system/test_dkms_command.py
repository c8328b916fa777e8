"""The command dkms, as people and scriptlets call it: its lines and exit codes, beside DKMS itself and in real RPMs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Optional

import pytest
from ground import debian, dkmspackage, privateroot
from ground.cache import find_cache
from inside import enter
from patience import LIMIT
from test_dkms import put
from world import World

Done = subprocess.CompletedProcess[str]
TOP = Path(__file__).resolve().parents[2]
OWN = [sys.executable, "-m", "kmodd.ctl.dkms"]


def dkms(world: World, *words: str) -> Done:
    """Run kmodd's dkms on the root."""
    done = subprocess.run([*OWN, *words, "--root", world.root], capture_output=True, text=True, timeout=LIMIT)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def status(world: World, *words: str) -> list[str]:
    done = dkms(world, "status", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def installed(world: World, title: str, kernel: str = "") -> str:
    return f"{title}, {kernel or world.kernel}, x86_64: installed"


def test_life_of_a_module_by_the_command(world: World) -> None:
    put(world)
    source = world.root / "var/lib/dkms/own/1.0/source"
    done = dkms(world, "add", "-m", "own", "-v", "1.0")
    assert done.stdout == "Creating symlink /var/lib/dkms/own/1.0/source -> /usr/src/own-1.0\n", done.stderr
    assert (done.returncode, os.readlink(source), status(world)) == (0, "/usr/src/own-1.0", ["own/1.0: added"])
    assert dkms(world, "add", "own/1.0").returncode == 3
    assert world.extra() == []
    done = dkms(world, "build", "own/1.0")
    assert done.returncode == 0, done.stderr
    assert "own.ko:\n - Installation\n" in done.stdout
    assert status(world, "-m", "own", "-v", "1.0", "-k", world.kernel) == [installed(world, "own/1.0")]
    assert world.verdict("own") == "ready"
    done = dkms(world, "install", "own/1.0")
    expected = f"Module own/1.0 already installed on kernel {world.kernel} (x86_64), skip. You may override"
    assert done.stdout.startswith(expected) and done.returncode == 0
    done = dkms(world, "uninstall", "own/1.0", "-k", f"{world.kernel}/x86_64")
    assert (done.returncode, world.extra(), status(world)) == (0, [], ["own/1.0: added"])
    assert dkms(world, "install", "own/1.0", "-k", world.kernel).returncode == 0
    assert status(world) == [installed(world, "own/1.0")]
    assert dkms(world, "unbuild", "own/1.0", "--all").returncode == 0
    assert (world.extra(), world.verdict("own")) == ([], "excluded")
    assert dkms(world, "install", "own/1.0").returncode == 0
    done = dkms(world, "remove", "own/1.0", "--all")
    assert "Deleting module own-1.0 completely from the DKMS tree." in done.stdout
    assert (done.returncode, status(world), world.extra(), source.parent.exists()) == (0, [], [], False)
    assert not world.registry("own").exists()
    assert dkms(world, "remove", "own/1.0", "--all").returncode == 3


def test_newest_version_is_kept_until_another_is_installed(world: World) -> None:
    for version in ("1.9", "1.10"):
        source = put(world)
        source.rename(source.with_name(f"own-{version}"))
        conf = world.root / f"usr/src/own-{version}/dkms.conf"
        conf.write_text(conf.read_text().replace('"1.0"', f'"{version}"'))
    world.registry("own").write_text(
        '# ours\n[source]\ndkms = "/usr/src/own-1.9/dkms.conf"\n\n[load]\nat_boot = ["own"]\n'
    )
    for version in ("1.10", "1.9"):
        dkms(world, "add", f"own/{version}")
    world.sync()
    assert status(world) == [installed(world, "own/1.10"), "own/1.9: added"]
    text = world.registry("own").read_text()
    assert text.startswith("# ours\n") or "# ours\n" in text
    assert 'at_boot = ["own"]' in text
    assert dkms(world, "install", "own/1.9").returncode == 0
    assert status(world) == ["own/1.10: added", installed(world, "own/1.9")]
    assert dkms(world, "remove", "own/1.9", "--all").returncode == 0
    world.sync()
    assert status(world) == [installed(world, "own/1.10")]


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ("MAKE='make none'\n", 10, "Bad return status for module build on kernel: {kernel} (x86_64)"),
        ("DEST_MODULE_NAME=other; BUILT_MODULE_NAME=other\n", 7, "Build of own failed for: {kernel} (x86_64)"),
        ("BUILD_EXCLUSIVE_ARCH=s390x\n", 77, "includes a BUILD_EXCLUSIVE directive which does not match this"),
        ("PATCH=absent.patch\n", 5, "the source has no patches/absent.patch"),
        ("BUILD_DEPENDS=absent\n", 13, "missing BUILD_DEPENDS"),
        ("BUILT_MODULE_NAME[2]=x\n", 8, "does not represent a valid dkms.conf file."),
        ("POST_INSTALL=x.sh\n", 8, "dkms.conf:6: POST_INSTALL='x.sh'"),
    ],
)
def test_what_cannot_be_installed_ends_with_the_exit_code_of_dkms(
    world: World, more: str, code: int, said: str
) -> None:
    put(world, more)
    done = dkms(world, "install", "own/1.0")
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("Error! ")
    assert said.format(kernel=world.kernel) in done.stderr
    assert not any("installed" in line for line in status(world))


def test_autoinstall_takes_up_what_is_added_and_tells_what_failed(world: World) -> None:
    put(world)
    put(world, 'AUTOINSTALL=""\n', name="silent")
    for name in ("own", "silent"):
        link = world.root / f"var/lib/dkms/{name}/1.0/source"
        link.parent.mkdir(parents=True)
        link.symlink_to(f"/usr/src/{name}-1.0")
    done = dkms(world, "autoinstall", "-k", world.kernel)
    assert (done.returncode, status(world)) == (0, [installed(world, "own/1.0"), "silent/1.0: added"]), done.stderr
    put(world, "MAKE=false\n", name="broken")
    dkms(world, "add", "broken/1.0")
    done = dkms(world, "autoinstall", "-k", world.kernel)
    assert done.returncode == 11
    assert done.stderr.startswith("Error! One or more modules failed to install during autoinstall.\nbroken for ")
    done = dkms(world, "status", "broken/1.0")
    assert done.stdout == "broken/1.0: added\n"
    assert done.stderr.startswith(f"Warning: broken failed for {world.kernel}: ")


def test_what_is_adopted_without_the_command_is_known_to_it(world: World) -> None:
    world.settings("[dkms]\nadopt = true\n")
    put(world)
    put(world, 'AUTOINSTALL=""\n', name="silent")
    assert status(world) == ["own/1.0: added", "silent/1.0: added"]
    world.sync()
    assert status(world) == [installed(world, "own/1.0"), "silent/1.0: added"]
    assert dkms(world, "add", "silent/1.0").returncode == 3
    assert dkms(world, "install", "silent/1.0").returncode == 0
    assert status(world) == [installed(world, "own/1.0"), installed(world, "silent/1.0")]
    for name in ("own", "silent"):
        assert dkms(world, "remove", f"{name}/1.0", "--all").returncode == 0
    assert (status(world), world.extra()) == ([], [])
    assert dkms(world, "install", "own/1.0").returncode == 0
    assert status(world) == [installed(world, "own/1.0")]


def test_what_others_wrote_into_a_module_file_outlives_a_removal(world: World) -> None:
    put(world)
    assert dkms(world, "install", "own/1.0").returncode == 0
    file = world.registry("own")
    file.write_text(f'{file.read_text()}\n[load]\nat_boot = ["own"]\n')
    assert dkms(world, "remove", "own/1.0", "--all").returncode == 0
    assert (status(world), world.extra(), world.verdict("own")) == ([], [], "excluded")
    assert dkms(world, "remove", "own/1.0", "--all").returncode == 3
    assert dkms(world, "add", "own/1.0").returncode == 0
    world.sync()
    assert (status(world), 'at_boot = ["own"]' in file.read_text()) == ([installed(world, "own/1.0")], True)


def test_script_of_dkms_that_scriptlets_call_is_served_and_there_is_one_like_it(world: World, theirs: Path) -> None:
    """common.postinst of DKMS tests its tree, parses the status and looks at exit codes; kmodd's own does the same."""
    put(world)
    put(world, "BUILD_EXCLUSIVE_ARCH=s390x\n", name="foreign")
    lay_out(world)
    shutil.copy(theirs.parents[1] / "lib/dkms/common.postinst", world.root / "opt/theirs")
    shutil.copy(TOP / "packaging/dkms-compat/common.postinst", world.root / "opt/ours")

    def run(script: str, name: str, code: int = 0) -> str:
        argv = ["sh", f"/opt/{script}", name, "1.0", "", "x86_64"]
        done = enter(world.root, *argv, env={"PATH": "/opt:/usr/bin:/usr/sbin"}, timeout=LIMIT)
        said = done.stdout + done.stderr  # debconf, where it is there, makes stdout its own
        assert done.returncode == code, said
        return said

    for time in ("at first", "again"):
        said = run("theirs", "own")
        assert f"Building initial module for {world.kernel}\nDone.\n" in said, said
        assert ("Removing old own-1.0 DKMS files..." in said) == (time == "again")
        assert status(world) == [installed(world, "own/1.0")]
    assert "\nSkipped.\n" in run("theirs", "foreign")
    assert "already installed" in run("ours", "own")
    assert dkms(world, "remove", "own/1.0", "--all").returncode == 0
    assert "Installing to" in run("ours", "own")
    assert status(world, "own/1.0") == [installed(world, "own/1.0")]
    assert "BUILD_EXCLUSIVE" in run("ours", "foreign")
    run("ours", "absent", 2)


def test_source_tree_is_copied_and_added(world: World) -> None:
    source = put(world)
    away = source.rename(world.root / "own")
    done = dkms(world, "add", str(away))
    assert (done.returncode, status(world)) == (0, ["own/1.0: added"]), done.stderr
    assert (source / "dkms.conf").is_file()


# -- beside DKMS -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DKMS itself, unpacked."""
    top = tmp_path_factory.mktemp("dkms")
    debian.unpack([debian.fetch("dkms", find_cache(""))], top)
    return top / "usr/sbin/dkms"


#: Command lines in this order, each given to both.
LINES = [
    "status",
    "status -m none",
    "frobnicate",
    "",
    "add -m own",
    "add own/1.0",
    "add -m own -v 1.0",
    "add none/1.0",
    "add noconf/1.0",
    "add bad/1.0",
    "add --all own/1.0",
    "add build own/1.0",
    "build --all own/1.0",
    "install --all own/1.0",
    "status -m own -v 1.0",
    "status own/1.0",
    "status -m own -q",
    "remove none/1.0 --all",
    "remove own/1.0 --all -k 6.1",
    "remove own/1.0 --all -a x86_64",
    "uninstall own/1.0 --all",
    "unbuild own/1.0 --all",
    "uninstall own/1.0 -k absent",
    "unbuild own/1.0 -k absent/x86_64",
    "add own/1.0 --no-initrd",
    "status --bogus",
    "status --binaries-only --source-only",
    "status -a a -a b -k 1",
    "mktarball none/1.0",
    "ldtarball",
    "ldtarball --archive=/none.tar.gz",
    "match",
    "match --templatekernel=6.1 -k 6.1",
    "match --templatekernel=6.1 -k 6.2",
    "install own/1.0 -k absent",
    "remove own/1.0 --all",
    "remove own/1.0 --all",
    "status",
]
#: Where kmodd says otherwise on purpose, and with which exit code: it looks for the kernel before it builds (DKMS 3.0
#: ends with 1), and tells which directive of a conf is wrong (DKMS with 8, too).
OTHERWISE = {"install own/1.0 -k absent": 6, "add bad/1.0": 8}


def test_lines_and_exit_codes_are_those_of_dkms(world: World, theirs: Path, tmp_path: Path) -> None:
    put(world)
    put(world, "BUILT_MODULE_NAME[2]=x\n", name="bad")
    (world.root / "usr/src/noconf-1.0").mkdir()
    trees = ["--dkmstree", str(tmp_path / "tree"), "--sourcetree", str(world.root / "usr/src")]
    (tmp_path / "tree").mkdir()
    differing = []
    for line in LINES:
        here = dkms(world, *line.split())
        there = subprocess.run(
            ["bash", theirs, *trees, *line.split()], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}
        )
        mine = (here.returncode, _lines(here, world, tmp_path))
        yours = (there.returncode, _lines(there, world, tmp_path))
        if mine != yours and OTHERWISE.get(line) != here.returncode:
            differing.append(f"dkms {line}\n  kmodd {mine}\n  DKMS  {yours}")
    assert not differing, "\n".join(differing)


def _lines(done: Done, world: World, tmp_path: Path) -> list[str]:
    """Return what was printed, errors first, without the usage and what depends on the trees' places."""
    text = (done.stderr + done.stdout).partition("Usage: ")[0]
    text = text.replace(str(tmp_path / "tree"), "/var/lib/dkms").replace(str(world.root / "usr/src"), "/usr/src")
    return [line for line in text.splitlines() if line and not line.startswith(("Sign command", "Binary "))]


# -- in rpm transactions -----------------------------------------------------------------------------------------------
def package(world: World, version: str, release: str = "1") -> Path:
    """Build a package for DKMS; returns its path as seen in the root."""
    return Path("/tmp") / dkmspackage.make(world.root / "tmp", version, release).name


def lay_out(world: World) -> None:
    """Put kmodd's dkms to where scripts in the root find it."""
    script = world.root / "opt/dkms"
    if not script.exists():
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -m kmodd.ctl.dkms "$@"\n')
        script.chmod(0o755)


def rpm(world: World, *words: object) -> str:
    """Run rpm with the root as /, where scriptlets find kmodd's dkms; returns what they printed."""
    lay_out(world)
    options = ["--dbpath", privateroot.DBPATH, "--noplugins", "--nosignature", "--nodeps"]
    options += ["--define", "_install_script_path /opt:/usr/bin:/usr/sbin"]
    done = enter(world.root, "rpm", *options, *words, env={}, timeout=LIMIT)
    assert done.returncode == 0 and "scriptlet failed" not in done.stderr, done.stdout + done.stderr
    return done.stdout + done.stderr


def version_of(world: World) -> str:
    """Return the version of the object that is installed, "" where there is none."""
    path = world.root / "lib/modules" / world.kernel / "extra/own/own.ko"
    done = subprocess.run(["modinfo", "-F", "version", path], capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.parametrize("daemon", [False, True], ids=["no daemon", "daemon"])
def test_packages_for_dkms_live_as_with_dkms(world: World, daemon: bool) -> None:
    if daemon:
        world.start()

    def settled(version: Optional[str]) -> None:
        if daemon:
            world.wait(lambda: version_of(world) == (version or ""), f"own {version}")
        else:
            world.sync()
        assert version_of(world) == (version or "")

    said = rpm(world, "-U", package(world, "1.0"))
    assert "Creating symlink /var/lib/dkms/own/1.0/source -> /usr/src/own-1.0" in said
    assert said.count("after the rpm transaction: build own/1.0") == 3
    if not daemon:
        assert not (world.root / "var/log/kmodd").exists(), "something was built in the transaction"
        assert status(world) == ["own/1.0: added"]
    settled("1.0-1")
    assert status(world) == [installed(world, "own/1.0")]
    said = rpm(world, "-U", package(world, "1.0", "2"))
    assert "Module own/1.0 already added." in said
    assert "Remove cancelled because --rpm_safe_upgrade scenario detected." in said
    settled("1.0-2")
    assert "Deleting module own-1.0" in rpm(world, "-U", package(world, "2.0"))
    if not daemon:
        assert version_of(world) == "1.0-2", "what works was taken away before its successor was built"
    settled("2.0-1")
    assert status(world) == [installed(world, "own/2.0")]
    assert sorted(p.name for p in (world.root / "var/lib/dkms/own").iterdir()) == ["2.0"]
    rpm(world, "-U", "--oldpackage", Path("/tmp/own-dkms-1.0-2.noarch.rpm"))
    settled("1.0-2")
    rpm(world, "-e", "own-dkms")
    settled(None)
    assert (status(world), world.registry("own").exists()) == ([], False)
    assert not list((world.root / "run/kmodd").glob("dkms/*"))


def test_removal_of_what_was_never_added_does_not_keep_a_package(world: World) -> None:
    rpm(world, "-U", "--noscripts", package(world, "1.0"))
    assert "is not located in the DKMS tree" in rpm(world, "-e", "own-dkms")
    assert not (world.root / "usr/src/own-1.0").exists()
