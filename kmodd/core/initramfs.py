"""What an initramfs has of kernel modules, and how that differs from what is installed. Pure.

A copy in the initramfs is loaded before the root file system is seen, so that what is installed then never is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Optional

from .fault import Fault
from .modulefile import object_name


@dataclass(frozen=True)
class ImageObject:
    """An object in an image. path: below its root, without a leading slash. sha256: of the file as it is there.

    build_id (the note, hexadecimal), srcversion: read for those alone that were asked for by name.
    """

    path: str
    sha256: str
    build_id: str = ""
    srcversion: str = ""

    @property
    def name(self) -> str:
        """Return its canonical name."""
        return object_name(self.path)


@dataclass(frozen=True)
class Image:
    """What was read of an initramfs.

    formats: of its parts in order, such as ("cpio", "zstd"). objects: by path. options: the sha256 of each file of
    modprobe.d by its path. nested: what of it was not looked into, such as a file system image. fault: why it, or the
    rest of it, could not be read.
    """

    path: str
    formats: tuple[str, ...] = ()
    objects: Mapping[str, ImageObject] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    nested: str = ""
    fault: Optional[Fault] = None

    @property
    def is_told(self) -> bool:
        """Tell whether what is not listed is not in it."""
        return self.fault is None and not self.nested

    def named(self, release: str) -> dict[str, list[ImageObject]]:
        """Return the objects for a kernel release by their canonical names."""
        found: dict[str, list[ImageObject]] = {}
        for path, item in sorted(self.objects.items()):
            if f"lib/modules/{release}/" in path:
                found.setdefault(item.name, []).append(item)
        return found


@dataclass(frozen=True)
class OnDisk:
    """An installed object. path: relative to the kernel's directory. sha256: of the file.

    build_id, srcversion: as in ImageObject, "" where it is compressed, since what copies it then changes nothing.
    """

    path: str
    sha256: str
    build_id: str = ""
    srcversion: str = ""

    @property
    def name(self) -> str:
        return object_name(self.path)


def is_same(installed: OnDisk, found: ImageObject) -> bool:
    """Tell whether a copy is what is installed: dracut strips unsigned ones, which changes no code (dracut.sh)."""
    if installed.sha256 == found.sha256:
        return True
    if installed.build_id or found.build_id:
        return installed.build_id == found.build_id
    return bool(installed.srcversion) and installed.srcversion == found.srcversion


def find_stale(image: Image, release: str, installed: Iterable[OnDisk]) -> list[str]:
    """Return what is said of each copy in a kernel's image that is not the object that is installed."""
    said, named = [], image.named(release)
    for item in installed:
        for found in named.get(item.name, ()):
            if not is_same(item, found):
                what = "the kernel's own" if "/kernel/" in found.path else "another build of"
                said.append(f"{image.path} has {what} {item.name} ({found.path}), which would be loaded at boot")
    return said
