"""The key that the settings in force name, and whether it signs. Must not: read it; sign does."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Optional

from ..core.errors import Problem
from ..core.model import Fault
from ..core.planner import FIRST_KEY
from ..core.rootwarnings import KEY
from ..core.settings import Settings, SettingsSource
from ..core.sysroot import Sysroot
from ..sign import Keyring
from ..system.files import read_own, replace_file

SCHEMA = 1
LARGEST = 4096  # bytes of what is remembered


class KeySource:
    """Opens the keyring anew where a reload changed the table sign."""

    def __init__(self, sysroot: Sysroot, settings: SettingsSource) -> None:
        self.sysroot = sysroot
        self.settings = settings
        self.memory = sysroot.cache / "key.json"
        self._signs: object = None  # what the last good check was of
        self._opened = (settings.now.sign, open_keyring(sysroot, settings.now))

    @property
    def now(self) -> Keyring:
        if self._opened[0] != self.settings.now.sign:
            self._opened = (self.settings.now.sign, open_keyring(self.sysroot, self.settings.now))
        return self._opened[1]

    async def find_fault(self) -> Optional[Fault]:
        """Return why the key cannot sign, as far as this user can tell; None where none was ever made."""
        keyring = self.now
        fault = keyring.signer().fault
        if fault is None and os.geteuid() == 0:
            try:
                await self._check(keyring)
            except Problem as problem:
                return problem.fault if problem.code.startswith(KEY) else None
        untold = (FIRST_KEY,) if os.geteuid() == 0 else (FIRST_KEY, "signing-key-unreadable")
        return fault if fault is not None and fault.problem not in untold else None

    async def _check(self, keyring: Keyring) -> None:
        """Check that the key signs, unless the same files did so in an earlier process. Raises Problem."""
        keyring.secret()
        pair = None
        with contextlib.suppress(OSError):
            pair = keyring.find_pair()
        if pair is not None and pair == self._signs:
            return
        if pair is None or pair != self._read():
            await keyring.check()
            if pair is not None:
                with contextlib.suppress(OSError):  # where the cache can be written
                    replace_file(self.memory, json.dumps({"schema": SCHEMA, "pair": pair}).encode())
        self._signs = pair

    def _read(self) -> object:
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            found = json.loads(read_own(self.memory, LARGEST))
            return found["pair"] if found["schema"] == SCHEMA else None
        return None


def open_keyring(sysroot: Sysroot, settings: Settings) -> Keyring:
    """Return the key that the settings name."""
    chosen = settings.sign
    environment = dict(chosen.environment)
    if chosen.pkcs11_module:
        environment["PKCS11_MODULE_PATH"] = chosen.pkcs11_module  # what libp11's engine reads
    return Keyring(sysroot, chosen.key, chosen.certificate, chosen.passphrase_file, environment)
