"""A private root with real kernels on which kmodd did its work, and the ways in which it is spoilt afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from ground import kernels, privateroot
from ground.command import run

PROJECT = Path(__file__).resolve().parents[2]
SOURCE = """\
#include <linux/module.h>
{includes}
static int number;
module_param(number, int, 0444);
static char *word = "none";
module_param(word, charp, 0444);
{exports}
static int __init {name}_init(void)
{{
	pr_info("number %d, word %s, sum %d\\n", number, word, {uses});
	return 0;
}}
static void __exit {name}_exit(void) {{ }}
module_init({name}_init);
module_exit({name}_exit);
MODULE_LICENSE("GPL");
MODULE_VERSION("1");
MODULE_DESCRIPTION("{about}");
"""
SIGNATURE = b"~Module signature appended~\n"  # scripts/sign-file puts it at the end
UNPACK = {".xz": "xz", ".zst": "zstd"}
EXPORT = "int {name}_value(int n);\nint {name}_value(int n) {{ return n + 1; }}\nEXPORT_SYMBOL_GPL({name}_value);"


@dataclass(frozen=True)
class Source:
    """A module to register. body: the C expression that its init prints; load: lines of its [load] table."""

    name: str
    includes: str = ""
    uses: str = "0"
    exports: bool = False
    depends: tuple[str, ...] = ()
    load: str = ""
    everywhere: bool = False  # for every kernel, not only the first

    def text(self, about: str = "as registered") -> str:
        """Return the C file; another description makes another srcversion."""
        exports = EXPORT.format(name=self.name) if self.exports else ""
        filled = {"name": self.name, "includes": self.includes, "uses": self.uses, "exports": exports}
        return SOURCE.format(about=about, **filled)

    def module_file(self, release: str) -> str:
        """Return the file of modules.d. release: the first kernel's."""
        depends = json.dumps(list(self.depends))
        match = "" if self.everywhere else f'[kernels]\nmatch = ["{release}"]\n'
        return (
            f'[module]\nversion = "1"\n[source]\npath = "/usr/src/{self.name}"\n[build]\ndepends = {depends}\n'
            f'{match}[[object]]\nname = "{self.name}"\n[load]\n{self.load}'
        )


class Server:
    """One private root. releases: the kernels; of Debian's three the modules are not, xz and zstd compressed."""

    def __init__(self, top: Path, count: int = 3, packages: Optional[Mapping[str, Sequence[Path]]] = None) -> None:
        """Install kernels: so many of Debian's, or the given packages by their release."""
        self.top = top
        self.root = privateroot.make_root(top / "root")
        chosen = packages or _debian(top, count)
        self.releases = tuple(chosen)
        for made in chosen.values():
            privateroot.rpm(self.root, "-i", *made)

    # -- kmodd's side ----------------------------------------------------------------------------------------------
    def register(self, sources: Iterable[Source]) -> None:
        """Put sources and module files where an administrator would."""
        registry = self.root / "etc/kmodd/modules.d"
        registry.mkdir(parents=True)
        for source in sources:
            write_source(self.root / "usr/src" / source.name, source.name, source.text())
            (registry / f"{source.name}.toml").write_text(source.module_file(self.releases[0]))

    def kmoddctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run kmoddctl on the root."""
        argv = [sys.executable, "-m", "kmodd.ctl", *words, "--root", str(self.root)]
        return subprocess.run(argv, capture_output=True, text=True, cwd=PROJECT, stdin=subprocess.DEVNULL)

    def sync(self) -> None:
        """Let kmodd build, sign and install everything."""
        done = self.kmoddctl("sync")
        verdicts = self.verdicts()
        wrong = {key: found for key, found in verdicts.items() if found[0] not in ("ready", "excluded")}
        assert done.returncode == 0 and not wrong, f"sync: {wrong}\n{done.stdout}{done.stderr}"

    def verdicts(self) -> dict[tuple[str, str], tuple[str, str]]:
        """Return (module, kernel) -> verdict and reason, as `kmoddctl status` tells them now."""
        return {(t["module"], t["kernel"]): (t["verdict"], t["reason"]) for t in self._targets()}

    def warnings(self, module: str) -> list[str]:
        """Return what `kmoddctl status` warns of a module on the first kernel."""
        wanted = (module, self.releases[0])
        return [text for t in self._targets() if (t["module"], t["kernel"]) == wanted for text in t["warnings"]]

    def _targets(self) -> list[dict[str, Any]]:
        done = self.kmoddctl("status", "--json")
        assert done.stdout, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return list(document["targets"])

    def _record_path(self, module: str, release: str) -> Path:
        return self.root / "var/lib/kmodd/targets" / release / f"{module}.json"

    def record(self, module: str, release: str) -> dict[str, Any]:
        """Return what kmodd remembers of a target."""
        found: dict[str, Any] = json.loads(self._record_path(module, release).read_text())
        return found

    def object(self, module: str, release: str) -> Path:
        """Return the installed object of a target, by its record."""
        (item,) = self.record(module, release)["installed"]["objects"]
        return self.root / str(item["path"]).lstrip("/")

    def is_signed_by_us(self, content: bytes) -> bool:
        """Tell whether an object's signature is kmodd's over this very content (include/linux/module_signature.h)."""
        if not content.endswith(SIGNATURE):
            return False
        end = len(content) - len(SIGNATURE) - 12
        length = int.from_bytes(content[end + 8 : end + 12], "big")
        body, signature = self.top / "body", self.top / "signature"
        body.write_bytes(content[: end - length])
        signature.write_bytes(content[end - length : end])
        argv = ["openssl", "cms", "-verify", "-noverify", "-nointern", "-binary", "-inform", "DER"]
        argv += ["-certfile", str(self.root / "etc/kmodd/keys/signing.x509"), "-in", str(signature)]
        return subprocess.run([*argv, "-content", str(body), "-out", "/dev/null"], capture_output=True).returncode == 0

    # -- spoiling it -----------------------------------------------------------------------------------------------
    def replace(self, module: str, content: bytes, release: Optional[str] = None) -> None:
        """Put content in an installed object's place as if kmodd had installed it: its record knows the new digest."""
        release = release or self.releases[0]
        self.object(module, release).write_bytes(content)
        record = self.record(module, release)
        record["installed"]["objects"][0]["sha256"] = hashlib.sha256(content).hexdigest()
        self._record_path(module, release).write_text(json.dumps(record))

    def unsigned(self, module: str, release: Optional[str] = None) -> bytes:
        """Return a target's object as it was built, before it was signed."""
        release = release or self.releases[0]
        return (self.root / f"var/lib/kmodd/targets/{release}/{module}.objects/{module}.ko").read_bytes()

    def sign(self, content: bytes, key: Optional[Path] = None, certificate: Optional[Path] = None) -> bytes:
        """Return a signed object: by kmodd's own key, or another."""
        keys = self.root / "etc/kmodd/keys"
        path = self.top / "signed.ko"
        path.write_bytes(content)
        program = self.root / "usr/src/kernels" / self.releases[0] / "scripts/sign-file"
        run([program, "sha256", key or keys / "signing.key", certificate or keys / "signing.x509", path])
        return path.read_bytes()

    def other_key(self) -> tuple[Path, Path]:
        """Return a key and certificate of somebody else."""
        key, certificate = self.top / "other.key", self.top / "other.x509"
        run(["openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=somebody else",
             "-outform", "DER", "-keyout", key, "-out", certificate])  # fmt: skip
        return key, certificate

    def tree_copy(self, name: str) -> Path:
        """Return a copy of the first kernel's build tree, to be changed; files are hard links until replaced."""
        tree = self.top / name
        run(["cp", "-al", self.root / "usr/src/kernels" / self.releases[0], tree])
        return tree

    def build(self, module: str, text: str, tree: Optional[Path] = None) -> bytes:
        """Return an object that kmodd had no part in, stripped as its own are."""
        work = self.top / "build" / module
        shutil.rmtree(work, ignore_errors=True)
        write_source(work, module, text)
        tree = tree or self.root / "usr/src/kernels" / self.releases[0]
        run(["make", "-C", tree, f"M={work}", "modules"])
        run(["strip", "--strip-debug", work / f"{module}.ko"])
        return (work / f"{module}.ko").read_bytes()

    def depmod(self) -> None:
        """Run depmod for every kernel, with the root's configuration, as the next package would.

        kmodd then knows no depmod of its own any more: what was spoilt is recorded as if it had installed it.
        """
        for release in self.releases:
            argv: list[str] = ["depmod", "-b", str(self.root)]
            for directory in ("etc", "run", "usr/lib"):
                argv += ["-C", str(self.root / directory / "depmod.d")]
            subprocess.run([*argv, release], check=True, capture_output=True)
            self.forget_depmod(release)

    def forget_depmod(self, release: str) -> None:
        """Make depmod's files newer than all others, and of nobody known."""
        path = self.root / "var/lib/kmodd/kernels" / f"{release}.json"
        if path.exists():
            record = json.loads(path.read_text())
            path.write_text(json.dumps({**record, "depmod": None}))
        os.utime(self.root / "lib/modules" / release / "modules.dep")

    def boot_entry(self, release: str, options: str) -> None:
        """Write the kernel's boot loader entry (Boot Loader Specification, as grubby and kernel-install do)."""
        entries = self.root / "boot/loader/entries"
        entries.mkdir(parents=True, exist_ok=True)
        (entries / f"{'0' * 32}-{release}.conf").write_text(
            f"title Linux ({release})\nversion {release}\nlinux /vmlinuz-{release}\n"
            f"initrd /initramfs-{release}.img\noptions {options}\ngrub_class rhel\n"
        )


def _debian(top: Path, count: int) -> dict[str, list[Path]]:
    older = kernels.pick("6.1", 2)
    releases = (older[0], older[1], kernels.pick("6.12", 1)[0])[:count]
    return {
        release: kernels.make(release, top / "rpms" / compression, slim=True, compression=compression)
        for release, compression in zip(releases, ("none", "xz", "zstd"))
    }


def write_source(directory: Path, name: str, text: str) -> None:
    """Write a module's source directory."""
    directory.mkdir(parents=True)
    (directory / f"{name}.c").write_text(text)
    (directory / "Makefile").write_text(f"obj-m := {name}.o\n")


def read_object(path: Path) -> bytes:
    """Return an object without its compression."""
    if path.suffix in UNPACK:
        return subprocess.run([UNPACK[path.suffix], "-dc", path], check=True, capture_output=True).stdout
    return path.read_bytes()


def modinfo(path: Path, field: str) -> str:
    """Return what the module says of itself."""
    return run(["modinfo", "-F", field, path]).strip()
