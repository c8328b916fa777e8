"""The key that the settings in force name. Must not: read it; sign does."""

from __future__ import annotations

from ..core.settings import Settings, SettingsSource
from ..core.sysroot import Sysroot
from ..sign import Keyring


class KeySource:
    """Opens the keyring anew where a reload changed the table sign."""

    def __init__(self, sysroot: Sysroot, settings: SettingsSource) -> None:
        self.sysroot = sysroot
        self.settings = settings
        self._opened = (settings.now.sign, open_keyring(sysroot, settings.now))

    @property
    def now(self) -> Keyring:
        if self._opened[0] != self.settings.now.sign:
            self._opened = (self.settings.now.sign, open_keyring(self.sysroot, self.settings.now))
        return self._opened[1]


def open_keyring(sysroot: Sysroot, settings: Settings) -> Keyring:
    """Return the key that the settings name."""
    chosen = settings.sign
    environment = dict(chosen.environment)
    if chosen.pkcs11_module:
        environment["PKCS11_MODULE_PATH"] = chosen.pkcs11_module  # what libp11's engine looks at
    return Keyring(sysroot, chosen.key, chosen.certificate, chosen.passphrase_file, environment)
