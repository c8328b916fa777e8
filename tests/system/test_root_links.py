"""A root whose places are links out of it is worked on as if it were the whole machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from world import World

pytestmark = pytest.mark.system

PLACES = (
    "var/lib/kmodd", "var/log/kmodd", "var/cache/kmodd", "run/kmodd",
    "etc/modules-load.d", "etc/modprobe.d", "etc/depmod.d", "etc/kmodd/keys",
)  # fmt: skip


def content(top: Path) -> dict[str, object]:
    return {
        str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted([top, *top.rglob("*")])
    }


@pytest.mark.parametrize("kind", ["absolute", "relative"])
def test_nothing_outside_a_root_is_touched(world: World, kind: str) -> None:
    canary = world.root.parent / "canary"
    for number, place in enumerate(PLACES):
        outside = canary / str(number)
        for inner in ("", "targets/x", "alpha", "sign/x", "dkms", f"{world.kernel}"):
            (outside / inner).mkdir(parents=True, exist_ok=True)
            (outside / inner / ".x.kmodd-new").write_text("canary")
        link = world.root / place
        if link.is_dir():
            link.rename(link.with_name(f"{link.name}.before"))
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(outside if kind == "absolute" else f"{'../' * 30}{outside.relative_to('/')}")
    before = content(canary)
    world.add("alpha", more='[load]\nat_boot = ["alpha"]\noptions = { alpha = "value=7" }\n')
    assert world.sync().returncode == 0
    assert world.verdict("alpha") == "ready"
    assert world.ctl("key", "rotate").returncode == 0
    assert world.sync().returncode == 0
    assert world.verdict("alpha") == "ready"
    assert content(canary) == before
    world.registry("alpha").unlink()
    world.sync()
    assert world.target("alpha") == {}
    assert content(canary) == before
