"""DKMS itself and kmodd side by side: the same packages, the same kernels, the same objects and verdicts.

All of Debian 12's DKMS packages but DKMS's own tests. DKMS, as Debian packages it, runs in a mount namespace of its
own, in which the root's /usr/src and /lib/modules lie over the host's, which may have none. It takes half an hour:
make dkms-truth.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ground import debian
from ground.cache import find_cache
from ground.dkmssource import fetch_source
from patience import LIMIT
from test_dkms import take
from world import World

pytestmark = pytest.mark.dkms
PACKAGES = """
acpi-call adv-17v35x apfs bbswitch dahdi ddcci digimend dm-writeboost dpdk-kmods evdi falcosecurity-scap gost-crypto
iptables-netflow jool langford librem-ec-acpi lime-forensics lttng-modules nat-rtsp openafs-modules openrazer-driver
openvpn-dco rapiddisk rtpengine-kernel tp-smapi v4l2loopback vpoll west-chamber xtables-addons xtrx
"""
#: Its conf looks for another package below /var/lib/dkms and writes to /usr/src: kmodd does not take it.
REFUSED = "west-chamber"
#: What is of the one that made it and not of the object.
PRIVATE = ("sig_id", "signer", "sig_key", "sig_hashalgo", "signature")
SIDE = r"""
set -e
mount --bind "$1/usr/src" /usr/src
mkdir "$2/over"
mount -t tmpfs none "$2/over"
mkdir "$2/over/upper" "$2/over/work"
mount -t overlay -o "lowerdir=/usr/lib,upperdir=$2/over/upper,workdir=$2/over/work" overlay /usr/lib
mkdir -p /usr/lib/modules
mount --bind "$1/lib/modules" /usr/lib/modules
cd /
shift
out=$1 dkms=$2
shift 2
mkdir "$out/tree"
value() { sed -n 's/^'$1'="\?\([^"]*\)"\?$/\1/p' "$conf"; }
for conf in /usr/src/*/dkms.conf; do
    name=$(value PACKAGE_NAME) version=$(value PACKAGE_VERSION)
    for release in "$@"; do
        mkdir -p "$out/$name/$release"
        status=0
        "$dkms" build -m "$name" -v "$version" -k "$release" -a x86_64 --dkmstree "$out/tree" \
            >"$out/$name/$release/log" 2>&1 || status=$?
        echo $status >"$out/$name/$release/status"
        cp "$out/tree/$name/$version/$release"/x86_64/module/*.ko* "$out/$name/$release" 2>/dev/null || true
    done
done
"""


def build_by_dkms(world: World, out: Path, *releases: str) -> None:
    """Have DKMS build everything in /usr/src; leaves OUT/NAME/RELEASE/{status,log,*.ko*}."""
    debian.unpack([debian.fetch("dkms", find_cache(""))], out / "dkms")
    dkms = out / "dkms/usr/sbin/dkms"
    argv = ["unshare", "--mount", "bash", "-c", SIDE, "bash", str(world.root), str(out), str(dkms), *releases]
    subprocess.run(argv, check=True, timeout=6 * LIMIT)


def fields(path: Path) -> Iterator[tuple[str, str]]:
    """Yield what modinfo says of an object, but for its place and signature."""
    said = subprocess.run(["modinfo", "-0", path], check=True, capture_output=True, text=True).stdout
    for line in said.split("\0"):
        name, _, value = line.partition("=")
        if name and name not in PRIVATE and not line.startswith("filename:"):  # which has no = even so
            yield name, value.strip()


def test_dkms_and_kmodd_build_the_same(world: World, tmp_path: Path) -> None:
    for name in PACKAGES.split():
        fetch_source(name, world.root)
    world.install(world.releases.other)
    releases = (world.releases.new, world.releases.other)
    taken = take(world)
    assert [name for name, one in taken.items() if one["error"]] == [REFUSED]
    for name, one in taken.items():
        if one["enabled"] is False:  # its conf does not say AUTOINSTALL
            assert world.ctl("enable", name).returncode == 0
    world.sync(timeout=6 * LIMIT)
    build_by_dkms(world, tmp_path, *releases)
    targets = {(t["module"], t["kernel"]): t for t in world.status()["targets"]}
    rows, differing = [], []
    for name in sorted(taken):
        for release in releases:
            side = tmp_path / name / release
            target = targets.get((name, release), {"verdict": "refused", "objects": []})
            ours = {o["name"]: world.root / o["path"].lstrip("/") for o in target["objects"]}
            theirs = {path.name.partition(".ko")[0]: path for path in side.glob("*.ko*")}
            status, verdict = int((side / "status").read_text()), target["verdict"]
            rows.append(f"{name:16}  {release:22}{verdict:9}{len(ours):3} | exit {status:3}{len(theirs):3}")
            # DKMS does not ask whether what it built would load: what is blocked here is done there.
            if (verdict in ("ready", "blocked")) != (status == 0) or ours.keys() != theirs.keys():
                differing.append(f"{name} {release}: {target.get('reason')} | {(side / 'log').read_text()[-400:]}")
            for key in ours.keys() & theirs.keys():
                here, there = sorted(fields(ours[key])), sorted(fields(theirs[key]))
                if here != there:
                    differing.append(f"{key}: {set(here) ^ set(there)}")
    print("", "package           kernel                kmodd verdict, objects | DKMS", *rows, sep="\n")
    assert not differing, "\n".join(differing)
    assert len(rows) == 2 * len(PACKAGES.split())
