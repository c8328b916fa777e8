"""The files of a key and its certificate, as a pair: made in a staging directory, then linked into their place.

A pair lies in a staging directory of its own until it is whole; what a kill interrupts is finished or dropped by the
next run. Must not: decide when a pair is made, or which.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from ..core.errors import Problem
from ..system.deleting import delete_tree, remove_tree
from ..system.files import explained, replace_file, sync_directory, temporary_name
from ..system.run import run
from . import PIN, Keyring, check_pair
from .certificate import ALGORITHMS, DAYS, decode_certificate, request

#: Puts a key and its certificate, as key and x509, into a directory.
Staging = Callable[[Path], Awaitable[None]]


class PairFiles:
    """Writes the pair of a Keyring."""

    def __init__(self, keyring: Keyring) -> None:
        self.keyring = keyring
        self.sysroot = keyring.sysroot

    @property
    def private(self) -> Path:
        """Return the host path of the private key."""
        return self.sysroot.resolve(self.keyring.private)

    @contextlib.asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Keep other makers out; the lock ends with the process."""
        directory = self.private.parent
        with explained(f"locking {directory}"):
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(0.05)
            yield
        finally:
            os.close(descriptor)

    async def stage(self, staging: Path, stage: Staging) -> None:
        """Make a whole pair, synced, in a directory of its own. Raises OSError, Problem."""
        delete_tree(staging)
        staging.mkdir(mode=0o700)
        try:
            os.close(os.open(staging / "key", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            await stage(staging)
            for name in ("key", "x509"):
                with (staging / name).open("rb") as stream:
                    os.fsync(stream.fileno())
            sync_directory(staging)
        except BaseException:
            delete_tree(staging)
            raise

    def generation(self, algorithm: str) -> Staging:
        async def stage(staging: Path) -> None:
            key, certificate, words = (staging / name for name in ("key", "x509", "request"))
            words.write_text(request(self._host_name()))
            secret = self.keyring.secret()
            argv = ["openssl", "req", "-new", "-x509", "-batch", "-utf8", "-sha256", "-days", str(DAYS)]
            argv += ["-passout", f"env:{PIN}"] if secret else ["-nodes"]
            argv += ["-config", str(words), "-newkey", *ALGORITHMS[algorithm]]
            # openssl keeps the mode of the key's file, which is there already.
            await run([*argv, "-keyout", key, "-outform", "DER", "-out", certificate], env=secret)
            await check_pair(key, self.keyring.private, certificate, self.keyring.certificate, secret)

        return stage

    def adoption(self, private: str, certificate: str) -> Staging:
        async def stage(staging: Path) -> None:
            key, x509 = self.sysroot.resolve(private), self.sysroot.resolve(certificate)
            for path, name in ((key, private), (x509, certificate)):
                if not path.is_file():
                    raise Problem("signing-key-missing", f"{name} is not there", "give key and certificate")
            await check_pair(key, private, x509, certificate, self.keyring.secret())
            (staging / "key").write_bytes(key.read_bytes())
            (staging / "x509").write_bytes(decode_certificate(x509.read_bytes()))

        return stage

    def _host_name(self) -> str:
        if self.sysroot.is_host:
            return os.uname().nodename
        try:
            return self.sysroot.resolve("/etc/hostname").read_text(errors="replace")
        except OSError:
            return ""

    def commit(self) -> None:
        """Put a staged pair into its place; doing it again after a kill at any step ends the same. Raises OSError."""
        staging = self.keyring.staging
        if not self.keyring.is_interrupted():
            linked = temporary_name(self.private.with_name(f"{self.private.name}.link"))
            linked.unlink(missing_ok=True)
            os.link(staging / "key", linked)
            linked.rename(self.private)
            sync_directory(self.private.parent)
        replace_file(self.sysroot.resolve(self.keyring.certificate), (staging / "x509").read_bytes())
        self.keyring.publish()
        remove_tree(staging)
        sync_directory(self.private.parent)


def is_whole(staging: Path) -> bool:
    """Tell whether a staging directory has both files of a pair."""
    return all((staging / name).is_file() for name in ("key", "x509"))
