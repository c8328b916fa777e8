"""Source RPMs, signed by a key that rpm trusts or not."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from worlds import kernel, settings_of

from kmodd.core.errors import Problem
from kmodd.core.model import Kernel
from kmodd.core.sysroot import Sysroot
from kmodd.reconcile.srpmsignatures import Signatures
from kmodd.sources.kernelsource import KernelSources
from kmodd.system.reading import Reached

pytestmark = pytest.mark.system

SPEC = "Name: kernel\nVersion: 6.1.0\nRelease: 1\nSummary: x\nLicense: GPL-2.0-only\n%description\nx\n"
NAME = "kernel-6.1.0-1.src.rpm"
USER = "Packager <packager@example.com>"


@dataclass(frozen=True)
class Vendor:
    """Who signs source RPMs: key is the public one."""

    unsigned: Path
    signed: Path
    key: Path


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vendor]:
    top = tmp_path_factory.mktemp("vendor")
    home = top / "gpg"
    home.mkdir(mode=0o700)
    env = {**os.environ, "GNUPGHOME": str(home)}

    def run(*argv: object) -> None:
        subprocess.run([str(word) for word in argv], check=True, capture_output=True, env=env, cwd=top)

    (top / "kernel.spec").write_text(SPEC)
    run("rpmbuild", "-bs", "--quiet", "--define", f"_topdir {top}", "--define", f"_dbpath {top}/db", "kernel.spec")
    unsigned = (top / "SRPMS" / NAME).rename(top / "unsigned.rpm")
    signed = top / "signed.rpm"
    signed.write_bytes(unsigned.read_bytes())
    run("gpg", "--batch", "--passphrase", "", "--quick-generate-key", USER, "rsa2048", "sign", "never")
    run("gpg", "--batch", "--armor", "--output", "key.asc", "--export")
    macros = ("--define", "__gpg /usr/bin/gpg", "--define", f"_gpg_name {USER}", "--define", f"_dbpath {top}/db")
    run("rpmsign", *macros, "--addsign", signed)
    yield Vendor(unsigned, signed, top / "key.asc")
    run("gpgconf", "--kill", "all")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "var/lib/rpm").mkdir(parents=True)
    (tmp_path / "srv/srpms").mkdir(parents=True)
    subprocess.run(["rpm", "--dbpath", tmp_path / "var/lib/rpm", "--initdb"], check=True)
    return tmp_path


def trust(root: Path, vendor: Vendor) -> None:
    subprocess.run(["rpmkeys", "--dbpath", root / "var/lib/rpm", "--import", vendor.key], check=True)


def put(root: Path, content: bytes) -> None:
    (root / "srv/srpms" / NAME).write_bytes(content)


def checking(root: Path) -> tuple[Signatures, KernelSources, Kernel]:
    settings = settings_of()
    sources = KernelSources(Sysroot(root), Reached.digest, settings)
    return Signatures(Sysroot(root), sources, settings), sources, kernel(source_package=NAME)


def problem(signatures: Signatures, of: Kernel) -> str:
    try:
        asyncio.run(signatures.check(of))
    except Problem as found:
        return f"{found.code}: {found.message}"
    return ""


def test_only_what_a_trusted_key_signed_is_taken(root: Path, vendor: Vendor) -> None:
    signatures, _, of = checking(root)
    put(root, vendor.signed.read_bytes())
    assert problem(signatures, of).startswith("kernel-source-unsigned: /srv/srpms/kernel-6.1.0-1.src.rpm has no good")
    trust(root, vendor)
    assert problem(signatures, of) == ""  # the same process sees the new key
    put(root, vendor.unsigned.read_bytes())
    assert problem(signatures, of).startswith("kernel-source-unsigned")
    damaged = bytearray(vendor.signed.read_bytes())
    damaged[-20] ^= 255
    put(root, bytes(damaged))
    assert problem(signatures, of).startswith("kernel-source-unsigned")
    put(root, b"no package")
    assert problem(signatures, of).startswith("kernel-source-unsigned")
    signatures.settings.now = settings_of("[sources]\nallow_unsigned = true\n").now
    assert problem(signatures, of) == ""


@pytest.mark.parametrize("signed", [True, False])
def test_what_is_kept_counts_as_what_it_was_unpacked_from(root: Path, vendor: Vendor, signed: bool) -> None:
    signatures, sources, of = checking(root)
    (root / "unpacked").mkdir()
    sources.keep(of, "0" * 64, root / "unpacked", [], signed=signed)
    assert problem(signatures, of).startswith("" if signed else "kernel-source-unsigned: what is kept of")
    assert bool(problem(signatures, of)) is not signed
    put(root, vendor.signed.read_bytes())
    trust(root, vendor)
    assert problem(signatures, of) == ""


def test_root_without_an_rpm_database_trusts_nobody(root: Path, vendor: Vendor) -> None:
    signatures, _, of = checking(root)
    put(root, vendor.signed.read_bytes())
    for path in (root / "var/lib/rpm").iterdir():
        path.unlink()
    assert "there is no rpm database" in problem(signatures, of)
    assert list((root / "var/lib/rpm").iterdir()) == []
