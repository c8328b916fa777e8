"""Set-up on machines whose package lists are empty, old or wrong, or that have no network: make door.

Each test is such a machine: a private mount namespace in which /usr, /etc and /var are overlays, so that lists can be
spoilt and packages removed and installed without this machine's noticing. The cache of the ground is an empty one.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from ground import kernels
from ground.cache import find_cache

TOP = Path(__file__).resolve().parents[2]
SERIES = {"6.1": 1, "6.12": 1}
pytestmark = [pytest.mark.door, pytest.mark.skipif(not kernels.uses_apt(), reason="spoils the lists of apt")]

#: Run first, in the namespace: $1 is the work directory. Afterwards the file lists are the machine's own, to be spoilt.
OVERLAYS = """\
set -eu
mount -t tmpfs tmpfs "$1"
for name in usr etc var; do
    mkdir -p "$1/$name.upper" "$1/$name.work"
    mount -t overlay -o "lowerdir=/$name,upperdir=$1/$name.upper,workdir=$1/$name.work" overlay "/$name"
done
lists=/var/lib/apt/lists
packages() { cat "$lists"/*_Packages; }
unpack_lists() {
    for file in "$lists"/*_Packages.*; do
        /usr/lib/apt/apt-helper cat-file "$file" > "${file%.*}"
        rm "$file"
    done
    rm -f "$lists"/*_InRelease "$lists"/*_Release*  # or apt would take what it has for what the server has
}
keep() { # the stanzas of which awk's expression is true
    for file in "$lists"/*_Packages; do
        awk -v RS= -v ORS='\\n\\n' "$1" "$file" > "$file.new"
        mv "$file.new" "$file"
    done
}
fetched() { touch -d "$1" "$lists/partial" "$lists"/*_Packages*; }
"""
EMPTY = "find $lists -type f -delete\n"
KERNEL = "^Package: linux-(image|headers)-"
#: What was done to the lists -> the shell commands that do it.
SPOILT = {
    "empty": EMPTY,
    "without 6.12": f"unpack_lists; keep '!/{KERNEL}6\\.12/'; fetched now\n",
    "without any kernel": f"unpack_lists; keep '!/{KERNEL}/'; fetched now\n",
    # Older kernels by names of their own, whose files are gone, and none of today's: as after some weeks.
    "of three weeks ago": (
        "unpack_lists\n"
        f"keep '{{ if (/{KERNEL}6\\.1\\./) gsub(/6\\.1\\.0-5/, \"6.1.0-4\"); print }}'\n"
        f"keep '!/{KERNEL}6\\.12/'; fetched '3 weeks ago'\n"
    ),
    "of three weeks ago, fetched in vain since": (
        f"unpack_lists; keep '!/{KERNEL}6\\.1\\.0-4/'\n"  # of those some can be had still
        f"keep '{{ if (/{KERNEL}6\\.1\\./) gsub(/6\\.1\\.0-5/, \"6.1.0-4\"); print }}'; fetched now\n"
    ),
    "that name files which are gone": (
        f"unpack_lists\nkeep '{{ if (/{KERNEL}/) gsub(/_amd64.deb/, \".0_amd64.deb\"); print }}'; fetched now\n"
    ),
}
#: What a newcomer's set-up comes to: everything installed, and kernels picked and at hand.
SET_UP = """\
tests/ground/setup
for of in {series}; do tests/ground/mkkernel --pick "${{of%:*}}" "${{of#*:}}"; done
""".format(series=" ".join(f"{name}:{count}" for name, count in SERIES.items()))


def enter(work: Path, script: str, network: bool = True, cache: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script on a machine of its own, with an empty cache unless one is given."""
    text = f"{OVERLAYS}cd {shlex.quote(str(TOP))}\n{script}"
    argv = ["unshare", "--mount", *([] if network else ["--net"]), "sh", "-c", text, "sh", str(work)]
    environment = {**os.environ, "KMODD_GROUND_CACHE": cache or f"{work}/cache"}
    return subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)


@pytest.fixture(scope="module")
def today() -> list[str]:
    """The kernels that are to be found, whatever was done to the lists."""
    return [release for series, count in SERIES.items() for release in kernels.pick(series, count)]


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_todays_kernels_are_found_whatever_the_lists_are(tmp_path: Path, today: list[str], spoil: str) -> None:
    done = enter(tmp_path, f"{spoil}{SET_UP}ls $1/cache/debs/linux-image-*")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[: len(today)] == today
    assert [f"linux-image-{release}_" in done.stdout for release in today] == [True] * len(today)


@pytest.mark.parametrize(
    "spoil",
    [EMPTY, "unpack_lists; keep '!/^Package: attr\\n/'; fetched now\n",
     "unpack_lists; keep '{ gsub(/attr_/, \"attr_0.\"); print }'; fetched '3 weeks ago'\n"],
    ids=["empty", "without it", "naming a file that is gone"],
)  # fmt: skip
def test_missing_package_is_installed_whatever_the_lists_are(tmp_path: Path, spoil: str) -> None:
    remove = "dpkg --purge --force-depends attr >/dev/null 2>&1; apt-get clean\n"
    done = enter(tmp_path, f"{spoil}{remove}tests/ground/setup; command -v setfattr; tests/ground/setup --check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["installing:", "attr", "/usr/bin/setfattr"]


WARM = {"as they are": "", "empty": EMPTY, "of older kernels": SPOILT["of three weeks ago"]}


@pytest.mark.parametrize("spoil", WARM.values(), ids=WARM)
def test_warm_cache_serves_without_a_network(tmp_path: Path, today: list[str], spoil: str) -> None:
    for release in today:
        kernels.make(release, tmp_path / "rpms")
    make = "".join(f"tests/ground/mkkernel {release} $1/rpms\n" for release in today)
    done = enter(tmp_path, f"{spoil}{SET_UP}{make}", network=False, cache=str(find_cache()))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[: len(today)] == today
    assert done.stdout.count(".rpm\n") == 3 * len(today)


def test_message_says_what_was_looked_for_and_where(tmp_path: Path) -> None:
    done = enter(tmp_path, f"{EMPTY}tests/ground/setup; tests/ground/mkkernel --pick 6.1 2", network=False)
    assert done.returncode == 1
    wanted = ["only 0 kernels of series 6.1 can be had, 2 are wanted", "linux-image-6.1.*", "/var/lib/apt/lists",
              "could not be fetched anew: ", f"{tmp_path}/cache"]  # fmt: skip
    assert [word for word in wanted if word not in done.stderr] == []


def test_message_of_a_package_says_so_too(tmp_path: Path) -> None:
    remove = "dpkg --purge --force-depends attr >/dev/null 2>&1; apt-get clean\n"
    done = enter(tmp_path, f"{EMPTY}{remove}tests/ground/setup", network=False)
    assert done.returncode == 1
    wanted = ["could not install: attr", "/var/lib/apt/lists", "could not be fetched anew: "]
    assert [word for word in wanted if word not in done.stderr] == []
