"""Gives a held kernel its boot entry, such that at no instant one boots that is not ready.

The initramfs is made first, since the entry comes before it otherwise. While kernel-install(8) runs, whose plugins
write the entry, choose the default and make the initramfs again in place, GRUB boots by name what it booted before:
the plugins have a copy of its environment, and what they change there is done at the end, when the image was read
again. Until then the file of the held kernel says what the default was, so that a power cut only makes it be done
again. Must not: run inside an rpm transaction, or decide that it is due.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from ..core.booting import Booting, Hold
from ..core.errors import Problem
from ..core.grubenv import render
from ..core.initramfs import OnDisk, find_stale
from ..core.sysroot import Sysroot
from ..deploy.bootimage import make_image
from ..deploy.grubenvironment import GrubEnvironment
from ..deploy.kernelinstall import install_kernel, settle_boot
from ..host.bootloader import BootReader
from ..host.bootstate import BootStateReader, read_hold
from ..host.initramfs import InitramfsReader
from ..host.loaded import Identity, read_identity
from ..system.files import explained, make_directory, remove_file, replace_file
from ..system.log import get_logger


class Release:
    """The release of one kernel of the running system."""

    def __init__(self, sysroot: Sysroot, release: str, installed: tuple[str, ...]) -> None:
        """installed: all installed kernels."""
        self.sysroot = sysroot
        self.release = release
        self.installed = installed
        self.reader = BootStateReader(sysroot, BootReader(sysroot))
        self.images = InitramfsReader(sysroot)
        self.mark = sysroot.held / release
        self.environment: Optional[GrubEnvironment] = None
        self.copy = GrubEnvironment(sysroot.releasing.with_name("grubenv"))

    async def run(self) -> None:
        """Release it. Raises Problem, and OSError where the state cannot be written."""
        image = self.sysroot.below(self.sysroot.kernel(self.release), "vmlinuz")
        if not image.is_file():
            text = f"{self.sysroot.inside(image)} is not there, so that {self.release} cannot be made bootable"
            raise Problem("kernel-unknown", text, "install its package anew")
        began = time.monotonic()
        before = self.reader.read(self.installed)
        if before.variables:
            self.environment = GrubEnvironment(self.sysroot.resolve(before.variables))
        hold = self._begin()
        with self._marked():
            if self.environment is not None:
                await make_image(self.sysroot, self.release, self._largest(before), self._check_image)
                self._keep_default(before, self.environment)
            await self._install(image)
            await self._check(self.reader.read(self.installed))
            await settle_boot(self.sysroot)
            if self.environment is not None:
                self._set_default(before, hold, self.environment)
        remove_file(self.mark)
        get_logger().info("kernel released", kernel=self.release, seconds=round(time.monotonic() - began, 1))

    # -- what a power cut leaves -----------------------------------------------------------------------------------
    def _begin(self) -> Hold:
        """Note that the release begins, and what the default was when the first try of it did."""
        hold = read_hold(self.mark)
        if not hold.begun:
            was = self.environment.read().get("saved_entry", "") if self.environment is not None else ""
            hold = Hold(hold.since or time.time(), True, was)
            with explained("noting that a kernel is released"):
                make_directory(self.mark.parent)
                replace_file(self.mark, json.dumps({"since": hold.since, "was": hold.was}).encode())
        return hold

    @contextlib.contextmanager
    def _marked(self) -> Iterator[None]:
        """Let others find out that a kernel is being released."""
        with explained("noting that a kernel is released"):
            make_directory(self.sysroot.releasing.parent, durable=False)
            replace_file(self.sysroot.releasing, f"{self.release}\n".encode())
        try:
            yield
        finally:
            for path in (self.sysroot.releasing, self.copy.path):
                with contextlib.suppress(OSError):
                    path.unlink()

    # -- kernel-install --------------------------------------------------------------------------------------------
    async def _install(self, image: Path) -> None:
        hidden = None
        if self.environment is not None:
            replace_file(self.copy.path, render(self.environment.read()))
            hidden = (self.copy.path, self.environment.path)
        await install_kernel(self.sysroot, self.release, hidden)
        if not image.is_file():  # it was removed meanwhile
            await install_kernel(self.sysroot, self.release, hidden, add=False)

    # -- the default -----------------------------------------------------------------------------------------------
    def _keep_default(self, before: Booting, environment: GrubEnvironment) -> None:
        """Have GRUB boot by name what it boots now, where that is another kernel than this one."""
        kept = next((entry for entry in before.entries or () if entry.name == before.default), None)
        if kept is not None and kept.release != self.release:
            environment.set({before.pinnable: kept.name})
        else:
            environment.set({"boot_success": environment.read().get("boot_success", "0")})  # a whole block at least

    def _set_default(self, before: Booting, hold: Hold, environment: GrubEnvironment) -> None:
        """Do in GRUB's environment what plugins did in the copy, and let its default else be what it was."""
        now, copy = environment.read(), self.copy.read()
        changes: dict[str, Optional[str]] = {name: copy.get(name) for name in {*now, *copy}}
        changes = {name: value for name, value in changes.items() if value != now.get(name)}
        if before.pinnable == "saved_entry":
            changes.setdefault("saved_entry", hold.was or None)
        elif now.get("next_entry") == before.default and before.once != before.default:
            changes["next_entry"] = before.once or None
        environment.set(changes)

    # -- what came of it -------------------------------------------------------------------------------------------
    async def _check(self, now: Booting) -> None:
        """Read again what is to boot the kernel. Raises Problem."""
        if now.entries is None:
            return  # of what no file tells, kernel-install's own word counts
        entry = now.of(self.release)
        if entry is None:
            text = f"kernel-install ended with success, and {self.release} has no boot entry"
            hint = f"see what its plugins say: kernel-install --verbose add {self.release}"
            raise Problem("kernel-install-failed", text, hint, transient=True)
        if entry.fault is not None:
            raise Problem("initramfs-failed", entry.fault.message, entry.fault.hint, transient=True)
        for path in entry.initrds:
            await self._check_image(path)

    async def _check_image(self, path: str) -> None:
        await check_image(self.images, self.release, path)

    def _largest(self, before: Booting) -> int:
        """Return the bytes of the largest initramfs that an entry names."""
        sizes = [0]
        for entry in before.entries or ():
            for path in entry.initrds:
                with contextlib.suppress(OSError):
                    sizes.append(self.sysroot.resolve(path).stat().st_size)
        return max(sizes)


async def check_image(images: InitramfsReader, release: str, path: str) -> None:
    """Read an initramfs (in-root path) to its end, and compare its copies of the kernel's extra/ with that.

    Raises Problem initramfs-failed, and transient ones.
    """
    try:
        installed = await asyncio.to_thread(_installed, images.sysroot, release)
        image = await images.read(path, [item.name for item in installed])
    except OSError as error:
        text = f"the initramfs {path} cannot be compared: {error.filename}: {error.strerror}"
        raise Problem("initramfs-failed", text, "dracut --force", transient=True) from error
    said = image.fault.message if image.fault else "; ".join(find_stale(image, release, installed))
    if said:
        raise Problem("initramfs-failed", said, f"dracut --force --kver {release}", transient=True)


def _installed(sysroot: Sysroot, release: str) -> list[OnDisk]:
    """Return the objects below a kernel's extra/. Raises OSError."""
    found = []
    top = sysroot.kernel(release)
    for directory, _, names in os.walk(top / "extra"):
        for name in sorted(names):
            if ".ko" in name:
                path = Path(directory, name)
                content = path.read_bytes()
                identity = read_identity(content) if name.endswith(".ko") else Identity()
                digest = hashlib.sha256(content).hexdigest()
                found.append(OnDisk(str(path.relative_to(top)), digest, identity.build_id, identity.srcversion))
    return found
