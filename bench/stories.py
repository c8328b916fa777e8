"""Parts of the kernel's own source: each story by kmodd, and by hand with the same commands, in the same run.

Cold: with the source RPM to be unpacked. Warm: it was unpacked before, the modules are built anew. By hand is what an
administrator's script does: rpmbuild, a copy of kernel-devel's tree with the sources in it, patch, make, strip,
sign-file, depmod; as nice as kmodd's builds are, or the ratio would tell of the machine's other load.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Union

sys.path.insert(0, str(Path(__file__).resolve().parent))

import world
from ground import stories


@dataclass(frozen=True)
class Step:
    """What is built by hand at one place: directory, and the objects of it, empty for all that its Makefile builds."""

    directory: str
    objects: tuple[str, ...] = ()


#: Story -> what is taken of the source, the configuration, the patch, the steps.
BY_HAND: dict[str, tuple[list[str], dict[str, str], str, list[Step]]] = {
    "bcache": (["drivers/md/bcache"], {"CONFIG_BCACHE": "m"}, "", [Step("drivers/md/bcache")]),
    "ceph": (
        ["net/ceph", "fs/ceph", "drivers/block/rbd.c", "drivers/block/rbd_types.h", "drivers/block/Makefile"],
        {},
        "libceph.patches/pool.patch",
        [Step("net/ceph"), Step("fs/ceph"), Step("drivers/block", ("rbd",))],
    ),
    "openvswitch": (["net/openvswitch"], {}, "", [Step("net/openvswitch")]),
    "cifs": (["fs/smb"], {}, "cifs.patches/fix.patch", [Step("fs/smb/common"), Step("fs/smb/client")]),
    "nbd": (["drivers/block/nbd.c", "drivers/block/Makefile"], {}, "", [Step("drivers/block", ("nbd",))]),
}


def run(*words: Union[str, Path]) -> None:
    """Run a program as nice as kmodd runs builds."""
    argv = ["nice", "-n", "10", *(str(word) for word in words)]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, words))}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def unpack(srpm: Path, work: Path) -> Path:
    """Unpack a source RPM by hand."""
    run("rpmbuild", "-rp", "--nodeps", "--define", f"_topdir {work}/rpm", "--define", f"_dbpath {work}/db", srpm)
    (tree,) = work.glob("rpm/BUILD/*/linux-*")
    return tree


def replaced(symvers: str, steps: Iterable[Step]) -> str:
    """Return the kernel's symvers without what the steps build anew."""
    gone = [f"{s.directory}/{o}\t" for s in steps for o in s.objects]
    gone += [f"{s.directory}/" for s in steps if not s.objects]
    return "".join(
        line for line in symvers.splitlines(keepends=True) if not line.split("\t", 2)[2].startswith(tuple(gone))
    )


def build(story: str, root: Path, release: str, source: Path, work: Path) -> None:
    """Build a story's modules by hand and install them."""
    paths, config, patch, steps = BY_HAND[story]
    devel, tree = root / "usr/src/kernels" / release, work / "tree"
    run("cp", "-a", devel, tree)
    for path in paths:
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        run("cp", "-a", source / path, tree / path)
    if patch:
        with (stories.FILES / patch).open() as stream:
            text = stream.read()
        subprocess.run(["patch", "-p1", "-s"], input=text, text=True, cwd=tree, check=True)
    for symbol, value in config.items():
        with (tree / "include/config/auto.conf").open("a") as stream:
            stream.write(f"{symbol}={value}\n")
        with (tree / "include/generated/autoconf.h").open("a") as stream:
            stream.write(f"#define {symbol}_MODULE 1\n")
    symvers = (tree / "Module.symvers").read_text()
    (tree / "Module.symvers").write_text(replaced(symvers, steps))
    compiler = re.findall(r'CONFIG_CC_VERSION_TEXT="(\S+)', (devel / ".config").read_text())[0].split("-gnu-")[-1]
    extra: list[str] = []
    for step in steps:
        if step.objects:
            objects = " ".join(f"{name}.o" for name in step.objects)
            kbuild = f"include $(src)/Makefile\nobj-y :=\nobj-m := {objects}\n"
            (tree / step.directory / "Kbuild").write_text(kbuild)
        words = ["make", f"-j{os.cpu_count()}", "-C", str(tree), f"M={step.directory}", f"CC={compiler}"]
        run(*words, f"KBUILD_EXTRA_SYMBOLS={' '.join(extra)}", "modules")
        extra.append(str(tree / step.directory / "Module.symvers"))
    key, certificate = root / "etc/kmodd/keys/signing.key", root / "etc/kmodd/keys/signing.x509"
    extra_directory = root / "lib/modules" / release / "extra" / story
    extra_directory.mkdir(parents=True)
    for step in steps:
        for path in (tree / step.directory).rglob("*.ko"):
            run("strip", "--strip-debug", path)
            run(devel / "scripts/sign-file", "sha256", key, certificate, path)
            shutil.copy(path, extra_directory)
    run("depmod", "-b", root, release)


def timed(act: Callable[[], object]) -> float:
    """Return the seconds that something took."""
    began = time.monotonic()
    act()
    return time.monotonic() - began


def sync(root: Path) -> None:
    """Let kmodd build what is registered."""
    done = world.kmoddctl(root, "sync")
    if done.returncode != 0:
        raise SystemExit(done.stdout + done.stderr)


def measure(story: str, root: Path, release: str, srpm: Path, work: Path) -> None:
    """Print one story's four times."""
    for module in stories.STORIES[story]:
        stories.register(root, module)
    shutil.rmtree(root / "var/cache/kmodd/kernel-source", ignore_errors=True)
    kmodd_cold = timed(lambda: sync(root))
    shutil.rmtree(root / "var/lib/kmodd/targets")
    kmodd_warm = timed(lambda: sync(root))
    for module in stories.STORIES[story]:
        stories.unregister(root, module)
    sync(root)
    unpacked: list[Path] = []
    unpacking = timed(lambda: unpacked.append(unpack(srpm, work)))
    hand_warm = timed(lambda: build(story, root, release, unpacked[0], work))
    shutil.rmtree(work)
    work.mkdir()
    shutil.rmtree(root / "lib/modules" / release / "extra" / story)
    for state, kmodd, hand in (("cold", kmodd_cold, unpacking + hand_warm), ("warm", kmodd_warm, hand_warm)):
        print(f"{story:<12} {state} {kmodd:7.1f} {hand:8.1f} {kmodd / hand:6.2f}", flush=True)


def main() -> None:
    wanted = sys.argv[1:] or list(stories.STORIES)
    with world.private_root() as spare:
        top = spare.parent
        shutil.rmtree(spare)
        release, packages, srpm = stories.make_packages(top / "packages")
        stories.lay(top / "root", packages, srpm)
        work = top / "work"
        work.mkdir()
        print("story        state kmodd  by hand  ratio   (seconds)")
        run(sys.executable, "-m", "kmodd.ctl", "key", "generate", "--root", top / "root")
        for story in wanted:
            measure(story, top / "root", release, srpm, work)


if __name__ == "__main__":
    main()
