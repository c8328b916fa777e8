"""Archives for tests, good and hostile, written member by member."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from .command import run

Item = tuple[tarfile.TarInfo, bytes]
COMPRESSIONS = ("gz", "bz2", "xz")  # tarfile's own


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **more: object) -> Item:
    """Return a member of a tar archive; more: further fields of TarInfo."""
    item = tarfile.TarInfo(name)
    item.type, item.size, item.mtime = kind, len(content), 1_600_000_000
    for field, value in more.items():
        setattr(item, field, value)
    return item, content


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Item:
    return entry(name, kind=kind, linkname=target)


def tar(path: Path, items: Iterable[Item], compression: str = "") -> Path:
    """Write a tar archive; compression: "", gz, bz2, xz or zst."""
    plain = compression in ("", "zst")
    with tarfile.open(path, "w" if plain else f"w:{compression}", format=tarfile.GNU_FORMAT) as archive:  # type: ignore[call-overload]
        for item, content in items:
            archive.addfile(item, io.BytesIO(content))
    if compression == "zst":
        run(["zstd", "-q", "--rm", "-f", path, "-o", path.with_name("packed.zst")])
        path.with_name("packed.zst").rename(path)
    return path


def zip_archive(path: Path, files: Iterable[tuple[str, bytes, int]]) -> Path:
    """Write a zip archive of (name, content, mode)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in files:
            item = zipfile.ZipInfo(name, (2020, 9, 13, 12, 26, 40))
            item.create_system, item.external_attr = 3, mode << 16
            archive.writestr(item, content)
    return path


def source(name: str, files: dict[str, str], top: str = "foo-1.2") -> list[Item]:
    """Return a source's members below a directory, as releases have it."""
    return [entry(top, kind=tarfile.DIRTYPE, mode=0o755)] + [
        entry(f"{top}/{path}", text.encode(), mode=0o755 if text.startswith("#!") else 0o644)
        for path, text in files.items()
    ]
