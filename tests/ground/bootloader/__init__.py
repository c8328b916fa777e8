"""A boot loader as the EL family has it, for a root that is booted: GRUB's entries, its environment and its plugins.

What the distribution's plugins do is done by stand-ins of our own, since theirs are not to be had here.
kernel-install is systemd's own.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from ..command import run

HERE = Path(__file__).parent
PLACES = {
    "20-grub.install": "usr/lib/kernel/install.d", "50-dracut.install": "usr/lib/kernel/install.d",
    "dracut": "usr/local/sbin", "grub2-editenv": "usr/bin", "stage": "usr/share",
}  # fmt: skip
#: What the distribution's kernel packages have, and those of the ground do not: kernel-install in the transaction.
SCRIPTLETS = """\
Name: kernel-scriptlets-{release}
Version: 1
Release: 1
Summary: Scriptlets of a kernel
License: MIT
BuildArch: noarch
AutoReqProv: no
%description
%{{summary}}.
%posttrans
kernel-install add {release} /lib/modules/{release}/vmlinuz || exit $?
%preun
kernel-install remove {release} || exit $?
%files
"""


def furnish(root: Path, update_default: bool = True) -> None:
    """Put the boot loader and its plugins into a root."""
    for name, where in PLACES.items():
        (root / where).mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / name, root / where / name)
    for directory in ("boot/grub2", "boot/loader/entries", "etc/sysconfig", "etc/default", "etc/kernel/install.d"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    (root / "etc/kernel/install.conf").write_text("layout=other\n")
    (root / "etc/default/grub").write_text("GRUB_DEFAULT=saved\nGRUB_ENABLE_BLSCFG=true\n")
    (root / "etc/sysconfig/kernel").write_text(f"UPDATEDEFAULT={'yes' if update_default else 'no'}\n")
    run(["chroot", root, "grub2-editenv", "/boot/grub2/grubenv", "set", "boot_success=1"])
    for name in ("stages", "hold-at", "dracut-fails"):
        (root / "usr/share" / name).unlink(missing_ok=True)


def make_scriptlets(release: str, out: Path) -> Path:
    """Build the package of a kernel's scriptlets."""
    with tempfile.TemporaryDirectory() as work:
        spec = Path(work) / "scriptlets.spec"
        spec.write_text(SCRIPTLETS.format(release=release))
        run(["rpmbuild", "-bb", "--quiet", "--nodeps", "--define", f"_topdir {work}", spec])
        (made,) = Path(work).rglob("*.rpm")
        out.mkdir(parents=True, exist_ok=True)
        shutil.copy(made, out / made.name)
        return out / made.name
