"""The source RPM of a ground kernel: Debian's patched tree, one more patch over it, and a spec file that unpacks both.

Its name is what rpm wrote into the kernel's own packages as SOURCERPM; its tree is what they were built from.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import debian
from .command import GroundError, run
from .rpmfile import split_release

#: What the ground's vendor patches in his kernel: to be seen in what is built from it.
VENDOR_PATCH = """\
The description tells that the distribution's own patches are in.

--- a/drivers/block/nbd.c
+++ b/drivers/block/nbd.c
@@ -{line},3 +{line},3 @@
 {before}
-MODULE_DESCRIPTION("Network Block Device");
+MODULE_DESCRIPTION("Network Block Device, patched by the vendor");
 {after}
"""
#: What a tree is known by as a kernel's.
TOP_FILES = ("Makefile", "Kbuild", "Kconfig", "include/linux/kernel.h")
SPEC = """\
%global debug_package %{{nil}}
%global _source_payload w0.gzdio

Name: kernel{flavour}
Version: {version}
Release: {rpm_release}
Summary: The Linux kernel {release}, repacked for tests
License: GPL-2.0-only
Source0: {tarball}
Patch1: vendor.patch
BuildRequires: a-tool-that-is-not-here
ExclusiveArch: x86_64
%description
%{{summary}}.

%prep
%setup -q -n kernel-%{{version}}-%{{release}} -c
mv {top} linux-%{{version}}-%{{release}}.%{{_target_cpu}}
cd linux-%{{version}}-%{{release}}.%{{_target_cpu}}
%patch1 -p1 -F0
{prep}
%build
exit 1
"""


def _version(package: Path) -> str:
    return run(["dpkg-deb", "--field", package, "Version"]).strip()


def find_source(release: str, cache: Path) -> Path:
    """Return Debian's package of the source that a kernel was built from. Raises GroundError where it is gone.

    An archive may offer a newer source already, whose kernels are not signed yet.
    """
    headers = debian.fetch(f"linux-headers-{release}", cache)
    return debian.fetch(f"linux-source-{'.'.join(release.split('.')[:2])}", cache, _version(headers))


def vendor_patch(nbd: str) -> str:
    """Return the vendor's patch for a tree's drivers/block/nbd.c."""
    lines = nbd.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("MODULE_DESCRIPTION("))
    return VENDOR_PATCH.format(line=at, before=lines[at - 1], after=lines[at + 1])


def build_srpm(release: str, tarball: Path, output: Path, prep: str = "", more: str = "") -> Path:
    """Wrap a tar archive of a kernel's source as that kernel's source RPM.

    prep: more lines of %prep. more: put behind rpm's Release, for the source of another build.
    """
    version, rpm_release, flavour = split_release(release)
    names = run(["tar", "-tf", tarball, "--wildcards", "*/drivers/block/nbd.c", "--occurrence=1"]).split()
    if len(names) != 1:
        raise GroundError(f"{tarball} holds {len(names)} drivers/block/nbd.c")
    top = names[0].split("/")[0]
    with tempfile.TemporaryDirectory(prefix=".srpm.", dir=output) as name:
        work = Path(name)
        (work / "SOURCES").mkdir()
        (work / "SOURCES" / tarball.name).symlink_to(tarball)
        (work / "SOURCES/vendor.patch").write_text(vendor_patch(run(["tar", "-xOf", tarball, names[0]])))
        spec = work / "kernel.spec"
        spec.write_text(
            SPEC.format(
                flavour=flavour, version=version, rpm_release=rpm_release + more, release=release,
                tarball=tarball.name, top=top, prep=prep,
            )
        )  # fmt: skip
        run(["rpmbuild", "-bs", "--quiet", "--target", "x86_64", "--define", f"_topdir {work}",
             "--define", f"_dbpath {work}/db", spec])  # fmt: skip
        (made,) = work.glob("SRPMS/*.src.rpm")
        return made.rename(output / made.name)


@contextlib.contextmanager
def tarball_of(release: str, cache: Path, work: Path) -> Iterator[Path]:
    """Yield the tar archive of a kernel's source, unpacked below work for as long as it is used."""
    with tempfile.TemporaryDirectory(prefix=".source.", dir=work) as name:
        debian.unpack([find_source(release, cache)], Path(name))
        (tarball,) = Path(name).glob("usr/src/linux-source-*.tar.xz")
        yield tarball


def make_tarball(release: str, cache: Path, output: Path, only: Sequence[str] = ()) -> Path:
    """Put a kernel's source into output as a tar archive; only: these files and directories of it."""
    with tarball_of(release, cache, output) as tarball:
        final = output / tarball.name
        if only:
            names = [f"*/{path}" for path in (*TOP_FILES, *only)]
            run(["tar", "-xf", tarball, "-C", tarball.parent, "--wildcards", *names])
            run(["tar", "-cf", final, "-C", tarball.parent, "-I", "xz -0", tarball.name.split(".tar")[0]])
        else:
            tarball.rename(final)
        return final


def make_srpm(release: str, cache: Path, output: Path, only: Sequence[str] = ()) -> None:
    """Build a kernel's source RPM below output; only: of these files and directories."""
    tarball = make_tarball(release, cache, output, only)
    build_srpm(release, tarball, output)
    tarball.unlink()


def build_asn1_compiler(release: str, cache: Path, scripts: Path) -> None:
    """Build a kernel's scripts/asn1_compiler."""
    with tarball_of(release, cache, scripts) as tarball:
        work = tarball.parent
        names = ["*/scripts/asn1_compiler.c", "*/include/linux/asn1*.h"]
        run(["tar", "-xf", tarball, "-C", work, "--strip-components=1", "--wildcards", *names])
        source, include = work / "scripts/asn1_compiler.c", work / "include"
        run(["gcc", "-O2", "-o", scripts / "asn1_compiler", "-I", include, source])
