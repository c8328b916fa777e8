"""Real kernels as RPMs: which there are, and making them through the shared cache."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from . import debian, dnf, lists, modules, rpmfile, srpm, tree
from .cache import find_cache, hand_out, provide
from .command import GroundError

RECIPE = 3  # raise it with every change of what the packages hold
SOURCE_RECIPE = 1  # likewise of what the source RPM holds


def uses_apt() -> bool:
    """Say whether this machine's kernels come from apt; else they come from dnf."""
    return shutil.which("apt-get") is not None


def cache_key(release: str, slim: bool, compression: str, disabled: Sequence[str] = (), complete: bool = False) -> str:
    """Return the name that identifies one kernel's packages in the cache."""
    without = "".join(f"_without-{symbol}" for symbol in disabled)
    variant = f"{'_complete' if complete else ''}{without}"
    return f"{release}_{'slim' if slim else 'full'}_{compression}{variant}_r{RECIPE}"


def find_cached(series: str, cache: Path, flavour: str = "") -> list[str]:
    """Return the releases of a series and flavour of which the cache has packages, oldest first."""
    made = {path.name.split("_")[0] for path in (cache / "kernels").glob(f"{series}.*_r{RECIPE}")}
    wanted = (name for name in made if not uses_apt() or debian.flavour_of(name) == flavour)
    return sorted(wanted, key=debian.version_key)


def find_kernels(series: str = "", cache: str = "", flavour: str = "") -> list[str]:
    """Return the releases that the machine's package manager offers, oldest first. flavour: of Debian's."""
    lists.refresh_old(find_cache(cache))
    return debian.find_offered(series, flavour) if uses_apt() else dnf.find_offered(series)


def pick(series: str, count: int, cache: str = "", flavour: str = "", source: bool = False) -> list[str]:
    """Return the newest `count` releases of a series such as "6.1", newest first. flavour: "rt" or "cloud", of Debian.

    source: with the very source that they were built from.
    Only what can be had counts: what the cache has, and what can be downloaded. Where that is too little, the package
    lists are fetched anew once. Raises GroundError when it is too little then, too.
    """
    where = find_cache(cache)
    found, problem = _find_obtainable(series, count, where, flavour, source, tries=1)
    if problem or len(found) < count:
        looked = lists.refresh(where)
        found, problem = _find_obtainable(series, count, where, flavour, source, tries=2)
        if len(found) < count:
            raise GroundError(
                f"only {len(found)} kernels of series {series} can be had, {count} are wanted. "
                f"Looked for linux-image-{series}.* and linux-headers-{series}.* in {looked}, and in {where}. {problem}"
            )
    return found


def _find_obtainable(
    series: str, count: int, cache: Path, flavour: str, source: bool, tries: int
) -> tuple[list[str], str]:
    """Return the newest `count` releases that can be had, and what kept newer ones from it.

    tries: after so many that cannot be had, what is wrong is not the release: only those in the cache count then.
    """
    cached = find_cached(series, cache, flavour)
    found: list[str] = []
    problem = ""
    for release in sorted({*find_kernels(series, str(cache), flavour), *cached}, key=debian.version_key, reverse=True):
        try:
            if release not in cached and uses_apt():
                if tries == 0:
                    continue
                debian.fetch_kernel(release, cache)
            if source and uses_apt():
                srpm.find_source(release, cache)
            found.append(release)
        except GroundError as error:
            problem = str(error)
            tries -= 1
        if len(found) == count:
            break
    return found, problem


def make(
    release: str,
    output: Path,
    slim: bool = False,
    compression: str = "keep",
    cache: str = "",
    disabled: Sequence[str] = (),
    complete: bool = False,
) -> list[Path]:
    """Put the RPMs of one kernel into the output directory and return their paths: core, modules-core, devel.

    slim keeps only the modules that tests and the demo need; compression is "keep" (as the distribution has them),
    "none", "xz", "zstd" or "gzip". disabled: configuration symbols that the kernel is to come without, of those that
    modules.DISABLEABLE knows. complete: the build tree has what RHEL's has and Debian's lacks, scripts/asn1_compiler.
    On a machine with dnf all four are ignored: its packages come unchanged.
    """
    where = find_cache(cache)

    def fill(work: Path) -> None:
        if not uses_apt():
            dnf.download(release, work, where)
            return
        modules.check_compression(compression)
        unpacked, staged = work / "unpacked", work / "staged"
        debian.unpack(debian.fetch_kernel(release, where), unpacked)
        tree.stage(unpacked, release, staged, slim, compression, disabled)
        if complete:
            srpm.build_asn1_compiler(release, where, staged / "usr/src/kernels" / release / "scripts")
        shutil.rmtree(unpacked)
        rpmfile.build_rpms(staged, release, work)
        shutil.rmtree(staged)
        for path in work.glob("*.rpm"):
            path.chmod(0o444)  # they are handed out as hard links

    made = provide(where, "kernels", cache_key(release, slim, compression, disabled, complete), fill)
    output.mkdir(parents=True, exist_ok=True)
    results = []
    for path in sorted(made.glob("*.rpm"), key=lambda path: ("-devel-" in path.name, "-modules-" in path.name)):
        hand_out(path, output / path.name)
        results.append(output / path.name)
    return results


def make_source(release: str, output: Path, cache: str = "", only: Sequence[str] = ()) -> Path:
    """Put the source RPM of one kernel into the output directory and return its path.

    only: files and directories, to make a small one that is quick to unpack.
    """
    where = find_cache(cache)

    def fill(work: Path) -> None:
        srpm.make_srpm(release, where, work, only)
        for path in work.glob("*.rpm"):
            path.chmod(0o444)

    part = "".join(f"_{path.replace('/', '-')}" for path in only)
    (made,) = provide(where, "srpms", f"{release}{part}_r{SOURCE_RECIPE}", fill).glob("*.src.rpm")
    output.mkdir(parents=True, exist_ok=True)
    hand_out(made, output / made.name)
    return output / made.name
