"""Packs a staged kernel as kernel-core, kernel-modules-core and kernel-devel with RHEL 9's provides and requires."""

from __future__ import annotations

import hashlib
import mmap
import re
import struct
import tempfile
from pathlib import Path

from .command import GroundError, run
from .tree import DEPMOD_OUTPUT, SHIPPED

HEADER_MAGIC = b"\x8e\xad\xe8\x01"
LEAD_SIZE = 96
SIG_MD5, SIG_SHA1, SIG_SHA256 = 1004, 269, 273  # rpm/rpmtag.h: header and payload; header; header

SPEC = """\
%global debug_package %{{nil}}
%global __os_install_post %{{nil}}
%global _build_id_links none
%global _binary_payload w1.zstdio

Name: kernel{flavour}
Version: {version}
Release: {rpm_release}
Summary: The Linux kernel {release}, repacked for tests
License: GPL-2.0-only
AutoReqProv: no
ExclusiveArch: x86_64
%description
%{{summary}}.

%package core
Summary: The kernel image of %{{version}}-%{{release}}
AutoReqProv: no
Provides: kernel-uname-r = {token}
Provides: kernel-core-uname-r = {token}
Provides: installonlypkg(kernel)
Requires: kernel-modules-core-uname-r = {token}
%description core
%{{summary}}.

%package modules-core
Summary: The modules of %{{version}}-%{{release}}
AutoReqProv: no
Provides: kernel-modules-core-uname-r = {token}
Provides: installonlypkg(kernel-module)
%description modules-core
%{{summary}}.

%package devel
Summary: What is needed to build modules against %{{version}}-%{{release}}
AutoReqProv: no
Provides: kernel-devel-uname-r = {token}
Provides: installonlypkg(kernel)
%description devel
%{{summary}}.

%install
mv {stage}/* %{{buildroot}}/

# RHEL leaves depmod's output to kernel-core's %posttrans and lists the files as ghosts. A scriptlet runs inside the
# root, and a private root for tests has no programs, so the files are shipped (rpm -e removes them all the same);
# the scriptlet renews them where the root has a depmod.
%posttrans core -p <lua>
if posix.access("/usr/sbin/depmod", "x") then
  rpm.execute("/usr/sbin/depmod", "-a", "{release}")
end

%files core
%defattr(-,root,root)
%dir /lib/modules/{release}
/lib/modules/{release}/vmlinuz
/lib/modules/{release}/System.map
/lib/modules/{release}/config
/lib/modules/{release}/symvers.gz

%files modules-core
%defattr(-,root,root)
%dir /lib/modules/{release}
/lib/modules/{release}/kernel
/lib/modules/{release}/build
/lib/modules/{release}/source
/lib/modules/{release}/updates
/lib/modules/{release}/weak-updates
{modules_files}

%files devel
%defattr(-,root,root)
/usr/src/kernels/{release}
"""


def split_release(release: str) -> tuple[str, str, str]:
    """Return rpm's Version and Release for a Debian kernel release, and the flavour ("" or e.g. "-rt").

    6.1.0-56-amd64 is 6.1.0 and 56; 6.12.117+deb12-amd64 is 6.12.117+deb12 and 1.
    """
    found = re.fullmatch(r"([^-]+)(?:-(\d[^-]*))?(?:-(rt|cloud|trusted))?-amd64", release)
    if not found:
        raise GroundError(f"{release} does not look like a Debian kernel release for amd64")
    return found[1], found[2] or "1", f"-{found[3]}" if found[3] else ""


def build_rpms(staged: Path, release: str, output: Path) -> None:
    """Move the staged tree into three RPMs below output, named as rpm names them."""
    version, rpm_release, flavour = split_release(release)
    directory = staged / "lib/modules" / release
    files = [f"/lib/modules/{release}/{name}" for name in SHIPPED]
    for name in DEPMOD_OUTPUT:
        ghost = "" if (directory / name).exists() else "%ghost "
        (directory / name).touch()
        files.append(f"{ghost}/lib/modules/{release}/{name}")
    # rpmbuild refuses a version with two dashes in a provide, which rpm itself installs and compares happily.
    token = release.replace("-", "_") if release.count("-") > 1 else release
    with tempfile.TemporaryDirectory(prefix=".rpmbuild.", dir=output) as name:
        top = Path(name)
        spec = top / "kernel.spec"
        spec.write_text(
            SPEC.format(
                flavour=flavour, version=version, rpm_release=rpm_release, release=release, token=token, stage=staged,
                modules_files="\n".join(files),
            )
        )  # fmt: skip
        run(["rpmbuild", "-bb", "--quiet", "--target", "x86_64", "--define", f"_topdir {top}",
             "--define", f"_tmppath {top}", "--define", f"_dbpath {top}/db", spec])  # fmt: skip
        for path in top.glob("RPMS/*/*.rpm"):
            if token != release:
                rename_token(path, token, release)
            path.rename(output / path.name)


def _header_end(data: mmap.mmap, start: int) -> int:
    """Return where the header ends that begins at start (rpm's file format: magic, counts, index, store)."""
    if data[start : start + 4] != HEADER_MAGIC:
        raise GroundError(f"no rpm header at offset {start}")
    entries, size = struct.unpack(">II", data[start + 8 : start + 16])
    return start + 16 + 16 * int(entries) + int(size)


def rename_token(path: Path, old: str, new: str) -> None:
    """Replace a string of an RPM's header by another of the same length, and renew the digests over the header."""
    if len(old) != len(new):
        raise ValueError("the strings differ in length")
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        signature = LEAD_SIZE
        start = (_header_end(data, signature) + 7) // 8 * 8
        end = _header_end(data, start)
        header = data[start:end].replace(b"\0%b\0" % old.encode(), b"\0%b\0" % new.encode())
        data[start:end] = header.replace(b"\0%b\0" % old.encode(), b"\0%b\0" % new.encode())
        digest = hashlib.md5()
        digest.update(memoryview(data)[start:])
        values = {
            SIG_MD5: digest.digest(),
            SIG_SHA1: hashlib.sha1(data[start:end]).hexdigest().encode(),
            SIG_SHA256: hashlib.sha256(data[start:end]).hexdigest().encode(),
        }
        entries = struct.unpack(">I", data[signature + 8 : signature + 12])[0]
        store = signature + 16 + 16 * entries
        for index in range(entries):
            at = signature + 16 + 16 * index
            tag, _, offset, _ = struct.unpack(">IIII", data[at : at + 16])
            if tag in values:
                data[store + offset : store + offset + len(values[tag])] = values[tag]
