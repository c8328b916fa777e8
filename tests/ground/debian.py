"""Debian's side of the ground: which kernels apt offers, and fetching and unpacking their packages.

Downloads are kept in CACHE/debs; a package that apt no longer offers is taken from there.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Optional

from . import lists
from .cache import locked
from .command import GroundError, run

RELEASE = re.compile(r"\d+\.\d+\.\d+(?:[+-][a-z0-9.]*\d)?(?:-(?P<flavour>rt|cloud))?-amd64")


def version_key(release: str) -> tuple[int, ...]:
    """Return the numbers of a release, to sort Debian's releases of one series from old to new."""
    return tuple(int(number) for number in re.findall(r"\d+", release.replace("amd64", "")))


def flavour_of(release: str) -> Optional[str]:
    """Return a release's flavour: "" for the plain one, "rt" or "cloud"; None where it is no release of Debian's."""
    found = RELEASE.fullmatch(release)
    return (found["flavour"] or "") if found else None


def find_filename(package: str, version: str = "") -> Optional[str]:
    """Return the file name of a version of a package, by default of the candidate; None where apt does not offer it."""
    words = [f"{package}={version}"] if version else ["--no-all-versions", package]
    shown = run(["apt-cache", "show", *words], check=False)
    found = re.search(r"^Filename: \S*?([^/\s]+)$", shown, re.MULTILINE)
    return found[1] if found else None


def find_offered(series: str = "", flavour: str = "") -> list[str]:
    """Return the releases of one flavour of which apt offers image and headers, oldest first; all series if empty."""
    names = run(["apt-cache", "pkgnames", "linux-headers-"], check=False).split()
    releases = [name[len("linux-headers-") :] for name in names]
    releases = [r for r in releases if flavour_of(r) == flavour and (not series or r.startswith(f"{series}."))]
    if not releases:
        return []
    wanted = [f"linux-{part}-{release}" for release in releases for part in ("image", "headers")]
    # apt-cache also knows names that other packages mention; only what can be downloaded has a file name.
    shown = run(["apt-cache", "show", "--no-all-versions", *wanted], check=False)
    present = {
        stanza.split("\n", 1)[0].strip()
        for stanza in re.split(r"^Package: ", shown, flags=re.MULTILINE)
        if "\nFilename: " in stanza
    }
    both = [r for r in releases if {f"linux-image-{r}", f"linux-headers-{r}"} <= present]
    return sorted(both, key=version_key)


def fetch(package: str, cache: Path, version: str = "") -> Path:
    """Return the package's .deb in the cache, downloading it when it is not there.

    version: the only one that will do, since archives offer several; by default apt's candidate.
    Where apt does not offer it, or offers a file that is gone, the lists are fetched anew once. Where it cannot be
    downloaded all the same, an older one in the cache serves.
    """
    wanted = version.partition(":")[2] or version or "*"  # names of files have no epoch
    kept = sorted((cache / "debs").glob(f"{package}_{wanted}_*.deb"), key=lambda path: version_key(path.name))
    if kept and (version or find_filename(package) is None):
        return kept[-1]
    try:
        return _download(package, cache, version)
    except GroundError:
        looked = lists.refresh(cache)
    try:
        return _download(package, cache, version)
    except GroundError as error:
        if kept:
            return kept[-1]
        name = f"{package} {version}".strip()
        raise GroundError(f"{name} cannot be had: {error}\nLooked in {looked}, and in {cache}/debs") from error


def _download(package: str, cache: Path, version: str) -> Path:
    debs = cache / "debs"
    filename = find_filename(package, version)
    if filename is None:
        raise GroundError("apt does not offer it")
    final = debs / filename
    if final.exists():
        return final
    with locked(cache, "debs"):
        if final.exists():
            return final
        debs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download.", dir=debs) as work:
            wanted = f"{package}={version}" if version else package
            # apt's own unprivileged user cannot write into a private cache; the files are verified all the same.
            run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", wanted], cwd=Path(work))
            got = list(Path(work).glob("*.deb"))
            if len(got) != 1:
                raise GroundError(f"apt-get download {package} left {len(got)} packages")
            got[0].rename(final)
    return final


def depends_of(deb: Path) -> list[str]:
    """Return the names in a package's Depends, the first of each alternative."""
    field = run(["dpkg-deb", "--field", deb, "Depends"])
    return [clause.split("|")[0].split("(")[0].strip() for clause in field.split(",") if clause.strip()]


def unpack(debs: Iterable[Path], destination: Path) -> None:
    """Unpack packages, unchanged and without their scripts, into one directory."""
    destination.mkdir(parents=True, exist_ok=True)
    for deb in debs:
        run(["dpkg", "-x", deb, destination])


def fetch_kernel(release: str, cache: Path) -> list[Path]:
    """Return the packages of one kernel: its image, its headers, and the common headers and kbuild they depend on."""
    headers = fetch(f"linux-headers-{release}", cache)
    pattern = re.compile(r"linux-(headers-.*-common(-rt)?|kbuild-.*)")
    needed = [name for name in depends_of(headers) if pattern.fullmatch(name)]
    return [fetch(f"linux-image-{release}", cache), headers, *(fetch(name, cache) for name in needed)]


def fetch_dkms(name: str, cache: Path) -> Path:
    """Return the Debian package that carries a DKMS source: NAME-dkms, or NAME itself if it is called so."""
    return fetch(name if name.endswith("-dkms") else f"{name}-dkms", cache)
