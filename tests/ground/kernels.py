"""Real kernels as RPMs in the layout of RHEL 9: kernel-core, kernel-modules-core and kernel-devel.

On a Debian machine they are made from its packages, since those are a download away; where dnf is, the
distribution's own are downloaded (that way was written after dnf's manual and not run here).
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

RECIPE = "4"  # part of the cache's key: raise it when what is made changes
PACKAGES = ("kernel-core", "kernel-modules-core", "kernel-devel")
#: What a slim kernel keeps, with all that it depends on: what the tests load, shadow or depend on.
SLIM = (
    "videodev v4l2-common videobuf2-* virtio* nbd bcache crc32c* crc64 dummy null_blk ext4 overlay libceph ceph rbd "
    "openvswitch cifs nf_tables x_tables ip_tables ip6_tables ip_set hid hid-generic backlight video wmi dm-* zram "
    "loop cdrom isofs button ac battery acpi_* i2c-core i2c-dev led-class nf_conntrack nfnetlink ebtables arp_tables "
    "usbhid usbcore usb-common input-* joydev ff-memless sparse-keymap platform_profile snd* libcrc32c xor raid6_pq"
).split()
SUFFIX = {"none": "", "xz": ".xz", "zstd": ".zst", "gzip": ".gz"}
SYMBOL = {"none": "NONE", "xz": "XZ", "zstd": "ZSTD", "gzip": "GZIP"}
COMPRESSORS = {
    "xz": ["xz", "--check=crc32", "--lzma2=dict=1MiB"],
    "zstd": ["zstd", "-q", "--rm"],
    "gzip": ["gzip", "-n"],
}

SPEC = """
%define _binary_payload w1.gzdio
%define __os_install_post %{{nil}}
%define debug_package %{{nil}}
%define _build_id_links none
%define __strip /bin/true
%define _missing_doc_files_terminate_build 0
AutoReqProv: no
Name: kernel
Version: {version}
Release: {rpm_release}
Summary: Linux {release}, repackaged for tests
License: GPL-2.0-only
BuildArch: x86_64
%description
The kernel {release}.

%package core
Summary: The kernel image
AutoReqProv: no
Provides: kernel-core-uname-r = {provided}
Provides: kernel-uname-r = {provided}
Requires: kernel-modules-core-uname-r = {provided}
%description core
The kernel image.

%package modules-core
Summary: Its modules
AutoReqProv: no
Provides: kernel-modules-core-uname-r = {provided}
%description modules-core
Its modules.

%package devel
Summary: What modules are built against
AutoReqProv: no
Provides: kernel-devel-uname-r = {provided}
%description devel
Headers, configuration and symvers.

# In a distribution kernel-install runs depmod from %posttrans; a bare private root has no program that it could run,
# so depmod's output is shipped, as %config(noreplace) so that ours is neither overwritten nor kept at removal.
%files core
/lib/modules/{release}/vmlinuz
/lib/modules/{release}/System.map
/lib/modules/{release}/config
/lib/modules/{release}/symvers.gz
%files modules-core
%dir /lib/modules/{release}
/lib/modules/{release}/kernel
/lib/modules/{release}/build
/lib/modules/{release}/source
/lib/modules/{release}/modules.order
/lib/modules/{release}/modules.builtin
/lib/modules/{release}/modules.builtin.modinfo
{ghosts}
%files devel
/usr/src/kernels/{release}
"""
GHOSTS = ("dep", "dep.bin", "alias", "alias.bin", "symbols", "symbols.bin", "softdep", "devname", "builtin.bin",
          "builtin.alias.bin", "weakdep")  # fmt: skip


def cache_directory() -> Path:
    """Return where downloads and RPMs are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("KMODD_GROUND_CACHE") or Path(base) / "kmodd-ground")


def call(*argv: str, cwd: Path | None = None) -> str:
    """Run a program and return what it printed; its stderr is part of the error."""
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(argv[:4])} … failed ({done.returncode}):\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock, so that two processes share one making."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


# -- Debian's packages --------------------------------------------------------------------------------------------------
def download(package: str, cache: Path) -> Path:
    """Return a Debian package's file, downloaded once."""
    debs = cache / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    with locked(debs / ".lock"):
        known = sorted(debs.glob(f"{package}_*.deb"), key=lambda p: p.stat().st_mtime)
        if known:
            return known[-1]
        with tempfile.TemporaryDirectory(dir=debs) as work:
            call("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package, cwd=Path(work))
            (file,) = Path(work).glob("*.deb")
            return Path(shutil.move(str(file), str(debs)))


def dependencies(package: str) -> list[str]:
    """Return the names that a Debian package depends on, the first of alternatives."""
    text = call("apt-cache", "show", "--no-all-versions", package)
    line = next((x for x in text.splitlines() if x.startswith("Depends:")), "Depends:")
    return [word.split("|")[0].split("(")[0].strip() for word in line[8:].split(",")]


def offered() -> list[str]:
    """Return the releases of the plain amd64 kernels that apt has both image and headers of."""
    names = set(call("apt-cache", "pkgnames", "linux-").split())
    found = []
    for name in names:
        match = re.fullmatch(r"linux-headers-(\d+\.\d+\.\d+(?:-\d+|\+deb\d+)-amd64)", name)
        if match and f"linux-image-{match[1]}" in names:
            found.append(match[1])
    return sorted(found, key=lambda r: [int(x) for x in re.findall(r"\d+", r)])


def pick(series: str, count: int) -> list[str]:
    """Return the newest kernels of a series such as 6.1, oldest first; those in the cache where apt has no answer."""
    made = {path.name.partition("=")[0] for path in cache_directory().glob("*=*")}
    try:
        known = [r for r in offered() if apt_has(r)]
    except (SystemExit, FileNotFoundError):
        known = sorted(made, key=lambda r: [int(x) for x in re.findall(r"\d+", r)])
    found = [r for r in known if r.startswith(f"{series}.")]
    if len(found) < count:
        raise SystemExit(f"only {len(found)} kernels of {series} can be had: {found}")
    return found[-count:]


def apt_has(release: str) -> bool:
    """Tell whether a kernel's packages can be downloaded, not only named by another's dependencies."""
    done = subprocess.run(
        ["apt-cache", "policy", f"linux-image-{release}", f"linux-headers-{release}"], capture_output=True, text=True
    )
    return done.stdout.count("Candidate:") == 2 and "Candidate: (none)" not in done.stdout


def unpack(release: str, cache: Path, into: Path) -> None:
    """Unpack all of a kernel's Debian packages into one directory."""
    headers = f"linux-headers-{release}"
    needed = [n for n in dependencies(headers) if re.match(r"linux-(headers-.*-common|kbuild-)", n)]
    for package in (f"linux-image-{release}", headers, *needed):
        call("dpkg", "-x", str(download(package, cache)), str(into))


def flatten(deb: Path, release: str, tree: Path) -> None:
    """Make one self-contained build tree: the common headers, the flavour's over them, kbuild's programs."""
    flavour = deb / "usr/src" / f"linux-headers-{release}"
    (common,) = (deb / "usr/src").glob("linux-headers-*-common")
    tree.mkdir(parents=True)
    ignore = shutil.ignore_patterns("scripts", "tools")
    shutil.copy(common / "Makefile", tree / "Makefile")
    shutil.copytree(common / "include", tree / "include", symlinks=True)
    shutil.copytree(common / "arch/x86", tree / "arch/x86", symlinks=True)
    for name in ("include", "arch"):
        shutil.copytree(flavour / name, tree / name, symlinks=True, dirs_exist_ok=True, ignore=ignore)
    for name in (".config", ".kernelvariables", "Module.symvers"):
        shutil.copy(flavour / name, tree / name)
    for name in ("scripts", "tools"):
        link = os.readlink(flavour / name)
        kbuild = Path(os.path.normpath(flavour / link)) if not link.startswith("/") else deb / link.lstrip("/")
        shutil.copytree(kbuild, tree / name, symlinks=False, ignore_dangling_symlinks=True)


def keep_slim(modules: Path) -> None:
    """Delete the modules that a slim kernel does without."""
    files = {path.name.partition(".ko")[0].replace("-", "_"): path for path in modules.glob("kernel/**/*.ko*")}
    needs: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        names = [Path(w.rstrip(":")).name.partition(".ko")[0].replace("-", "_") for w in line.split()]
        needs[names[0]] = names[1:]
    wanted = {n for n in files for glob in SLIM if fnmatch.fnmatchcase(n, glob.replace("-", "_"))}
    wanted |= {need for name in wanted for need in needs.get(name, [])}
    for name, path in files.items():
        if name not in wanted:
            path.unlink()
    for directory, _, _ in os.walk(modules / "kernel", topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(directory)
    lines = (modules / "modules.order").read_text().splitlines()
    kept = [x for x in lines if Path(x).name.partition(".ko")[0].replace("-", "_") in wanted]
    (modules / "modules.order").write_text("\n".join(kept) + "\n")


def recompress(modules: Path, tree: Path, kind: str) -> None:
    """Compress a kernel's own modules in another way and let its configuration say so."""
    for path in list(modules.glob("kernel/**/*.ko*")):
        plain = path
        if path.suffix in (".xz", ".zst", ".gz"):
            tool = {".xz": "xz", ".zst": "zstd", ".gz": "gzip"}[path.suffix]
            call(tool, "-d", *(["-q", "--rm"] if tool == "zstd" else []), str(path))
            plain = path.with_suffix("")
        if kind != "none":
            call(*COMPRESSORS[kind], str(plain))
    for name in (".config", "include/config/auto.conf"):
        file = tree / name
        lines = [x for x in file.read_text().splitlines() if not re.match(r"(# )?CONFIG_MODULE_COMPRESS_(NONE|GZIP|XZ|ZSTD)\b", x)]
        file.write_text("\n".join([*lines, f"CONFIG_MODULE_COMPRESS_{SYMBOL[kind]}=y"]) + "\n")


def provided_version(release: str) -> str:
    """Return a release as rpm can provide it: Debian's 6.1.0-56-amd64 has a dash too many for a version."""
    return release if release.count("-") < 2 else ".".join(release.rsplit("-", 1))


def build_rpms(release: str, cache: Path, work: Path, slim: bool, compress: str) -> list[Path]:
    """Make the three RPMs of a kernel."""
    deb, root = work / "deb", work / "root"
    unpack(release, cache, deb)
    tree = root / "usr/src/kernels" / release
    flatten(deb, release, tree)
    modules = root / "lib/modules" / release
    modules.parent.mkdir(parents=True)
    (source,) = (p for base in ("lib", "usr/lib") for p in (deb / base / "modules").glob(release))
    shutil.move(str(source), str(modules))
    for name in ("build", "source"):
        with contextlib.suppress(FileNotFoundError):
            (modules / name).unlink()
    (modules / "build").symlink_to(f"/usr/src/kernels/{release}")
    (modules / "source").symlink_to("build")
    if slim:
        call("depmod", "-b", str(root), release)
        keep_slim(modules)
    if compress != "keep":
        recompress(modules, tree, compress)
    call("depmod", "-b", str(root), release)
    shutil.copy(deb / f"boot/vmlinuz-{release}", modules / "vmlinuz")
    shutil.copy(deb / f"boot/System.map-{release}", modules / "System.map")
    shutil.copy(tree / ".config", modules / "config")
    with gzip.open(modules / "symvers.gz", "wb") as stream:
        stream.write((tree / "Module.symvers").read_bytes())
    match = re.fullmatch(r"([\d.]+(?:\+[a-z0-9]+)?)-(?:(\d+)-)?\w+", release)
    assert match, release
    ghosts = "\n".join(
        f"%config(noreplace) /lib/modules/{release}/modules.{n}" for n in GHOSTS if (modules / f"modules.{n}").exists()
    )
    spec = work / "kernel.spec"
    spec.write_text(SPEC.format(version=match[1], rpm_release=match[2] or "1", release=release, ghosts=ghosts,
                                 provided=provided_version(release)))
    call("rpmbuild", "-bb", "--quiet", "--buildroot", str(root), "--define", f"_topdir {work}/rpm",
         "--define", "__spec_install_pre %{nil}", "--define", "_dbpath " + str(work / "db"),
         "--define", "__spec_clean_cmd /bin/true", "--target", "x86_64", str(spec))  # fmt: skip
    return sorted((work / "rpm").glob("RPMS/**/*.rpm"))


def make(release: str, out: Path, *, slim: bool = False, compress: str = "keep", cache: Path | None = None) -> list[Path]:
    """Put the RPMs of a kernel into a directory and return them; they are made once and then come from the cache."""
    cache = cache or cache_directory()
    out.mkdir(parents=True, exist_ok=True)
    if shutil.which("apt-get") is None and shutil.which("dnf"):
        call("dnf", "-q", "download", "--destdir", str(out), *(f"{name}-{release}" for name in PACKAGES))
        return sorted(out.glob("kernel-*.rpm"))
    key = hashlib.sha256(f"{RECIPE} {' '.join(SLIM) if slim else 'full'} {compress}".encode()).hexdigest()[:12]
    kept = cache / f"{release}={key}"
    with locked(cache / f".{release}.lock"):
        if not kept.is_dir():
            with tempfile.TemporaryDirectory(dir=cache) as work:
                made = build_rpms(release, cache, Path(work), slim, compress)
                fresh = Path(work) / "out"
                fresh.mkdir()
                for file in made:
                    file.rename(fresh / file.name)
                fresh.rename(kept)
    files = []
    for file in sorted(kept.glob("*.rpm")):
        target = out / file.name
        if target.exists():
            target.unlink()
        try:
            os.link(file, target)
        except OSError:
            shutil.copy(file, target)
        files.append(target)
    return files
