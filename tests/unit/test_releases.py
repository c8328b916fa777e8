"""Releases with characters that mean something to patterns, file names and programs: +, ., ~, ^."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shlex
import subprocess
from pathlib import Path
from typing import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families
from worlds import K2, NOW, POLICY, K, T, change, do, installed, kernel, module, record, settings_of, settled, world

from kmodd.alert.metrics import render
from kmodd.core.actions import RemoveDropin, RunDepmod, WriteDropin
from kmodd.core.dropincontent import MARK, dropins, exactly, kernels_of
from kmodd.core.model import Dropin, Target
from kmodd.core.planner import find_exclusion, judge
from kmodd.core.record import KernelRecord
from kmodd.core.remedy import Remedy
from kmodd.core.report import make_report
from kmodd.core.sysroot import Sysroot
from kmodd.ctl.complete import print_names
from kmodd.ctl.dkms.arguments import parse as arguments
from kmodd.deploy.dropins import DropinFiles
from kmodd.deploy.install import Installation, run_depmod
from kmodd.dkms.answer import Answer
from kmodd.dkms.directives import interpret
from kmodd.host.bootloader import BootReader
from kmodd.host.kernels import NEEDED, KernelReader
from kmodd.host.store import Store
from kmodd.kbuild.ccoption import CompilerAnswers
from kmodd.kbuild.logfiles import LogReader
from kmodd.reconcile.logkeeping import LogKeeper
from kmodd.sources.patchfiles import find_patches

#: Those of EL, Debian, rpm's pre-releases and snapshots, self-built ones, and neighbours that are a part of another.
RELEASES = (
    "6.1.0-5",
    "6.1.0-56",
    "6.12.0-124.8.1.el10_1.x86_64+rt",
    "6.12.0-124.8.1.el10_1.x86_64+rt-debug",
    "6.12.0-124.8.1.el10_1.x86_64",
    "6.12.117+deb12-amd64",
    "6.121117+deb12-amd64",
    "6.12.117++deb12-amd64",
    "6.12~rc1-1.x86_64",
    "6.12^20261124git-1.x86_64",
    "6.12-20261124git-1.x86_64",
    "6.1+",
    "6.1",
    "6.1:~root",
)


# -- every other place where a release becomes something else --------------------------------------------------------
# Each tells what comes back for a release where all of RELEASES are there.


def kernel_of_a_directory(root: Path, release: str) -> object:
    """Its directory, build tree, configuration in /boot, and utsrelease.h."""
    for name in RELEASES:
        tree = root / "usr/src/kernels" / name
        for file in ("include/generated/utsrelease.h", *NEEDED):
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            (tree / file).write_text(f'#define UTS_RELEASE "{name}"\n' if file.endswith("release.h") else "")
        (root / "lib/modules" / name).mkdir(parents=True)
        (root / "lib/modules" / name / "modules.order").touch()
        (root / "boot").mkdir(exist_ok=True)
        (root / f"boot/config-{name}").write_text(f'CONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_HASH="{name}"\n')
        (tree / ".config").unlink()
        (tree / ".config").symlink_to(f"/boot/config-{name}")
    found = KernelReader(Sysroot(root)).read((), (), {}, {})[release]
    return found.signature_hash if found.build_tree == f"/usr/src/kernels/{release}" else found.build_tree_fault


def state_file(root: Path, release: str) -> object:
    store = Store(Sysroot(root))
    for name in RELEASES:
        store.write(record(release=name))
        store.write_kernel(KernelRecord(kernel=name))
    again = Store(Sysroot(root))
    found = [target.kernel for target, kept in again.records().items() if kept.kernel == release == target.kernel]
    again.forget(Target("m", release))
    again.forget_kernel(release)
    left = Store(Sysroot(root))
    assert len(left.records()) == len(left.kernel_records()) == len(RELEASES) - 1
    return found[0]


def log_file(root: Path, release: str) -> object:
    keeper, reader = LogKeeper(Sysroot(root), settings_of()), LogReader(Sysroot(root))
    for name in RELEASES:
        keeper.open(Target("m", name)).write_text(name)
    assert sorted(reader.kernels("m")) == sorted(RELEASES) == sorted(target.kernel for target in keeper.targets())
    (attempt,) = reader.attempts("m", release)
    return reader.read(attempt["log"])


def boot_entry(root: Path, release: str) -> object:
    """By an entry, and by a line of grub.cfg."""
    (root / "boot/loader/entries").mkdir(parents=True)
    (root / "boot/grub2").mkdir()
    for number, name in enumerate(RELEASES):
        text = f"title x\nlinux /vmlinuz-{name}\noptions root=/dev/{name}\n"
        (root / f"boot/loader/entries/id{number}.conf").write_text(text)
    saved = RELEASES.index(release)
    (root / "boot/grub2/grubenv").write_text(f"# GRUB Environment Block\nsaved_entry=id{saved}\n{'#' * 900}")
    reader = BootReader(Sysroot(root))
    lines = "".join(f"menuentry x {{\n\tlinux /boot/vmlinuz-{n} root=/dev/{n}\n}}\n" for n in RELEASES)
    by_entry = reader.command_lines(release).texts
    (root / "boot/grub2/grub.cfg").write_text(lines)
    (root / "etc/default").mkdir(parents=True)
    (root / "etc/default/grub").write_text("GRUB_ENABLE_BLSCFG=false\n")
    assert by_entry == reader.command_lines(release).texts == (f"root=/dev/{release}",)
    (root / "etc/default/grub").unlink()
    return reader.default(RELEASES)


def dnf_line(root: Path, release: str) -> object:
    """As a person pastes it into a shell."""
    words = shlex.split(subprocess.run(
        ["bash", "-c", f"printf '%q ' {Remedy('fetch-devel', release).shown(Sysroot(root))}"],
        capture_output=True, text=True, check=True,
    ).stdout)  # fmt: skip
    return words[-1].partition("kernel-devel-uname-r = ")[2]


def exclusion(_: Path, release: str) -> object:
    left = [n for n in RELEASES if find_exclusion(module(kernels={"exclude": (release,)}).file.kernels, kernel(n))]
    taken = [n for n in RELEASES if not find_exclusion(module(kernels={"match": (release,)}).file.kernels, kernel(n))]
    assert left == taken
    return left[0] if len(left) == 1 else left


def patch_choice(root: Path, release: str) -> object:
    patches = tuple({"file": f"{number}.patch", "kernels": (name,)} for number, name in enumerate(RELEASES))
    own = module(source={"path": "/usr/src/m", "patches": patches})
    ((path, _),) = find_patches(own, release)
    return RELEASES[int(Path(path).stem)]


def dkms_option(_: Path, release: str) -> object:
    alone, with_architecture = arguments(["status", "-k", release]), arguments(["status", "-k", f"{release}/x86_64"])
    assert alone.kernels == with_architecture.kernels
    return alone.kernels[0]


def dkms_make_line(_: Path, release: str) -> object:
    """As bash takes it apart."""
    said = {"PACKAGE_NAME": "m", "PACKAGE_VERSION": "1", "BUILT_MODULE_NAME": "m", "DEST_MODULE_LOCATION": "/extra"}
    answer = Answer({name: {0: value} for name, value in said.items()})
    line = interpret(answer, kernel(release), {}, [("dkms.conf", "")]).make
    script = f'make() {{ printf "%s\\n" "$@"; }}; kmodd_makeflags=; {line}'
    done = subprocess.run(["bash", "-c", script], env={"HOME": "/h"}, capture_output=True, text=True, check=True)
    return next(word for word in done.stdout.splitlines() if word.startswith("KERNELRELEASE=")).partition("=")[2]


def metric(_: Path, release: str) -> object:
    snapshot = settled(kernels=tuple(kernel(name) for name in RELEASES))
    snapshot = change(snapshot, records={Target("m", name): record(release=name) for name in RELEASES})
    text = render(make_report(snapshot, judge(snapshot, POLICY, NOW), NOW, None))
    families = {family.name: family for family in text_string_to_metric_families(text)}
    names = [sample.labels["kernel"] for sample in families["kmodd_kernel_ready"].samples]
    assert sorted(names) == sorted(RELEASES)
    return next(name for name in names if name == release)


def installation(root: Path, release: str) -> object:
    work, source = Installation(Sysroot(root)), root / "m.ko"
    for name in RELEASES:
        source.write_text(name)
        mine = installed(release=name)
        (root / "lib/modules" / name).mkdir(parents=True)
        asyncio.run(work.install(Target("m", name), [(source, mine.objects[0])], mine, lambda _: None))
    work.heal()
    there = root / f"lib/modules/{release}/extra/m/m.ko"
    said = there.read_text()
    work.remove(Target("m", release), installed(release=release))
    assert not there.exists() and len([*root.glob("lib/modules/*/extra/m/m.ko")]) == len(RELEASES) - 1
    return said


def completion(root: Path, release: str) -> object:
    for name in RELEASES:
        (root / "lib/modules" / name).mkdir(parents=True)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        print_names(["kernels", "--root", str(root)])
    return next(name for name in out.getvalue().splitlines() if name == release)


def answers_of_the_compiler(root: Path, release: str) -> object:
    """Kept in a file of its own, which goes with its kernel alone."""
    answers = CompilerAnswers(Sysroot(root), lambda *_: contextlib.nullcontext())  # type: ignore[arg-type]
    directory = root / "var/cache/kmodd/cc-option"
    directory.mkdir(parents=True)
    for name in RELEASES:
        (directory / f"{name}.mk").write_text(name)
        (root / "lib/modules" / name).mkdir(parents=True)
    (root / "lib/modules" / release).rmdir()
    answers._forget_removed(directory)
    gone = {*RELEASES} - {path.stem for path in directory.iterdir()}
    return gone.pop() if len(gone) == 1 else gone


PLACES = [
    kernel_of_a_directory, state_file, log_file, boot_entry, dnf_line, exclusion, patch_choice, dkms_option,
    dkms_make_line, metric, installation, completion, answers_of_the_compiler,
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_release_stays_what_it_is(place: Callable[[Path, str], object], tmp_path: Path) -> None:
    for number, release in enumerate(RELEASES):
        root = tmp_path / str(number)
        root.mkdir()
        assert place(root, release) == release


# -- depmod.d --------------------------------------------------------------------------------------------------------
def test_an_override_is_for_one_release_alone(tmp_path: Path) -> None:
    """By real depmod, where nothing else would prefer ours: each release overrides an object of its own."""
    (found,) = dropins(module(), {release: {f"m{number}"} for number, release in enumerate(RELEASES)})
    DropinFiles(Sysroot(tmp_path)).write(found)
    (tmp_path / "etc/depmod.d/order.conf").write_text("search built-in extra\n")
    thing = tmp_path / "m.o"
    subprocess.run(["cc", "-c", "-x", "c", "-o", thing, "-"], input=b"int x;", check=True)
    for number, release in enumerate(RELEASES):
        top = tmp_path / "lib/modules" / release
        for place in ("kernel", "extra/m"):
            (top / place).mkdir(parents=True)
            for other in range(len(RELEASES)):
                os.link(thing, top / place / f"m{other}.ko")
        for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
            (top / name).touch()
        asyncio.run(run_depmod(Sysroot(tmp_path), release))
        listed = (top / "modules.dep").read_text().splitlines()
        assert [line for line in listed if line.startswith("extra/")] == [f"extra/m/m{number}.ko:"], exactly(release)
        argv = ["/sbin/modprobe", "-d", tmp_path, "-S", release, "-C", tmp_path / "etc/depmod.d", "-D", f"m{number}"]
        assert "/extra/m/" in subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_the_releases_of_an_override_are_read_back_as_they_were_given(tmp_path: Path) -> None:
    (found,) = dropins(module(), {release: {"m", "n"} for release in RELEASES})
    assert found.kernels is not None and set(found.kernels) == set(RELEASES)
    files = DropinFiles(Sysroot(tmp_path))
    files.write(found)
    assert files.read() == (found,)
    assert kernels_of(found.content) == found.kernels


def test_an_override_that_an_older_version_wrote_is_replaced(tmp_path: Path) -> None:
    files = DropinFiles(Sysroot(tmp_path))
    files.write(Dropin("depmod", "m", f"{MARK} for module m\noverride m {K} extra/m\n"))
    (old,) = files.read()
    assert old.kernels is None
    own = kernel(in_tree=frozenset({"m"}))
    (new,) = dropins(module(), {K: {"m"}})
    assert do(settled(kernels=(own,), dropins=(old,))) == [
        WriteDropin(new, "says something else"),
        RunDepmod(K, "overrides change"),
    ]


def test_what_an_old_override_spoke_of_cannot_be_told_so_that_depmod_runs_for_all() -> None:
    old = Dropin("depmod", "gone", f"{MARK}\noverride x {K2} extra/gone\n", None)
    found = do(settled(kernels=(kernel(), kernel(K2)), dropins=(old,)))
    assert found == [RemoveDropin(old, "no longer wanted"), *(RunDepmod(k, "overrides change") for k in (K, K2))]


def test_depmod_runs_for_the_release_that_an_override_names_and_for_no_other() -> None:
    names = ("6.1.0-5", "6.1.0-56")
    kernels = tuple(kernel(name, in_tree=frozenset({"m"} if name == names[0] else ())) for name in names)
    records = {Target(T.module, name): record(release=name) for name in names}
    (wanted,) = dropins(module(), {names[0]: {"m"}})
    assert do(world(kernels=kernels, records=records)) == [
        WriteDropin(wanted, "is missing"),
        RunDepmod(names[0], "overrides change"),
    ]
