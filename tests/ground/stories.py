"""What administrators rebuild by hand, as module files: tests/stories, on a kernel whose vendor left bcache out."""

from __future__ import annotations

import shutil
from pathlib import Path

from . import kernels, privateroot
from .cache import hand_out

FILES = Path(__file__).resolve().parents[1] / "stories"
#: Story -> its modules -> their objects, by file name.
STORIES: dict[str, dict[str, tuple[str, ...]]] = {
    "bcache": {"bcache": ("bcache",)},
    "ceph": {"libceph": ("libceph",), "ceph": ("ceph",), "rbd": ("rbd",)},
    "openvswitch": {"openvswitch": ("openvswitch", "vport-geneve", "vport-gre", "vport-vxlan")},
    "cifs": {"cifs": ("cifs", "cifs_arc4", "cifs_md4")},
    "nbd": {"nbd": ("nbd",)},
}
MODULES = {name: objects for story in STORIES.values() for name, objects in story.items()}
IN_TREE = sorted(o for m, objects in MODULES.items() if m != "bcache" for o in objects)

#: The ground's source RPMs are not signed.
SETTINGS = "[sources]\nallow_unsigned = true\n"


def make_packages(directory: Path) -> tuple[str, list[Path], Path]:
    """Return the kernel release of the stories, its packages and its source RPM, which are put into a directory."""
    (release,) = kernels.pick("6.1", 1, source=True)
    packages = kernels.make(release, directory, slim=True, disabled=["CONFIG_BCACHE"], complete=True)
    return release, packages, kernels.make_source(release, directory)


def lay(root: Path, packages: list[Path], srpm: Path) -> None:
    """Lay out a private root with the kernel and its source RPM."""
    privateroot.make_root(root)
    privateroot.rpm(root, "-i", *packages)
    (root / "srv/srpms").mkdir(parents=True)
    hand_out(srpm, root / "srv/srpms" / srpm.name)
    (root / "etc/kmodd/modules.d").mkdir(parents=True)


def register(root: Path, module: str) -> None:
    """Put a module's file and patches where an administrator would."""
    registry = root / "etc/kmodd/modules.d"
    shutil.copy(FILES / f"{module}.toml", registry)
    if (FILES / f"{module}.patches").is_dir():
        shutil.copytree(FILES / f"{module}.patches", registry / f"{module}.patches", dirs_exist_ok=True)


def unregister(root: Path, module: str) -> None:
    """Take a module's file away again."""
    (root / "etc/kmodd/modules.d" / f"{module}.toml").unlink()
