"""The ground on a machine with dnf: the distribution's own kernel packages serve unchanged.

Written after dnf's documentation; not run so far, for want of such a machine.
"""

from __future__ import annotations

from pathlib import Path

from . import lists
from .command import GroundError, run


def find_offered(series: str = "") -> list[str]:
    """Return the kernel releases that the enabled repositories offer, in the repositories' order."""
    form = "%{version}-%{release}.%{arch}\n"
    shown = run(["dnf", "-q", "repoquery", "--show-duplicates", "--qf", form, "kernel-core"], check=False)
    releases = list(dict.fromkeys(shown.split()))
    return [release for release in releases if not series or release.startswith((f"{series}.", f"{series}-"))]


def download(release: str, directory: Path, cache: Path) -> None:
    """Download the three packages of a kernel release, found by what they provide.

    Where they are not to be found, or a file is gone, the repositories' lists are fetched anew once.
    """
    names = [f"{name}-uname-r = {release}" for name in ("kernel-core", "kernel-modules-core", "kernel-devel")]
    argv = ["dnf", "-q", "download", "--destdir", directory, *names]
    try:
        run(argv)
    except GroundError:
        looked = lists.refresh(cache)
        try:
            run(argv)
        except GroundError as error:
            raise GroundError(f"{error}\nLooked in {looked}") from error
