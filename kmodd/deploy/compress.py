"""Compressing objects as a kernel's own modules are, and undoing it, with the tools and options of the kernel's
scripts/Makefile.modinst. Must not: choose a kind, or touch anything that is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path

from ..core.errors import Problem
from ..system.run import run

#: kind: suffix, command to compress, command to decompress; all replace FILE by FILE + suffix or the other way.
#: The kernel's own xz decoder knows crc32 only; gzip -n leaves out the time, so that equal objects stay equal.
TOOLS = {
    "xz": (".xz", ("xz", "-q", "-f", "--check=crc32", "--lzma2=dict=1MiB"), ("xz", "-q", "-f", "-d")),
    "zst": (".zst", ("zstd", "-q", "-f", "--rm"), ("zstd", "-q", "-f", "--rm", "-d")),
    "gz": (".gz", ("gzip", "-n", "-f"), ("gzip", "-f", "-d")),
}


async def compress(object: Path, kind: str) -> Path:
    """Replace an object by its compressed form and return that one's path; kind is "", xz, zst or gz.

    Raises Problem tool-missing and compression-failed; the object is still there then.
    """
    if not kind:
        return object
    suffix, argv, _ = TOOLS[kind]
    result = object.with_name(object.name + suffix)
    await _replace([*argv, str(object)], result, f"compressing {object.name}")
    return result


async def decompress(path: Path, to: Path) -> None:
    """Write an object without compression, whose kind its suffix names, to another path.

    Raises Problem tool-missing and compression-failed; nothing is left at the other path then.
    """
    for suffix, _, argv in TOOLS.values():
        if path.name.endswith(suffix):
            copy = to.with_name(to.name + suffix)
            try:
                await _copy(path, copy)
                await _replace([*argv, str(copy)], to, f"decompressing {path.name}")
            finally:
                copy.unlink(missing_ok=True)
            return
    await _copy(path, to)


async def _copy(source: Path, to: Path) -> None:
    try:
        await asyncio.to_thread(shutil.copyfile, source, to)
    except OSError as error:
        text = f"copying {source.name} failed: {error.strerror}"
        raise Problem("compression-failed", text, "free some space", transient=True) from error


async def _replace(argv: list[str], result: Path, doing: str) -> None:
    """Run a tool that makes a file of another; a half written result does not stay."""
    try:
        await run(argv, timeout=600)
    except BaseException as error:
        with contextlib.suppress(OSError):
            result.unlink()
        if not isinstance(error, Problem) or error.code == "tool-missing":
            raise
        raise Problem("compression-failed", f"{doing} failed: {error.message}", transient=True) from error
