"""What may be wrong with the files of the signing key. Must not: read a private key."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Optional

from ..core.fault import Fault
from ..core.sysroot import Sysroot

GENERATE = "kmoddctl key generate"


def find_private_fault(sysroot: Sysroot, paths: Sequence[Optional[str]], certificate: str) -> Optional[Fault]:
    """Return what is wrong with the private key and its passphrase, as far as stat can tell. Raises OSError."""
    for path in paths:
        if path is None or path.startswith("pkcs11:"):
            continue
        try:
            found = sysroot.resolve(path).stat()
        except FileNotFoundError:
            hint = f"put it back, or remove {certificate}, run {GENERATE} and enrol the new key"
            return Fault("signing-key-missing", f"{path} is gone", hint)
        if found.st_mode & 0o077 or found.st_uid not in (0, os.geteuid()):
            text = f"{path} can be read or changed by others than root"
            hint = f"chown root {path} && chmod 600 {path}; make a new key if somebody may have copied it"
            return Fault("signing-key-exposed", text, hint)
    return None


def unreadable(path: str, error: Exception) -> Fault:
    """Return that a file of the key cannot be read."""
    said = getattr(error, "strerror", None) or "it is not text"
    return Fault("signing-key-unreadable", f"{path} cannot be read: {said}", "run it as root")


def invalid(path: str) -> Fault:
    """Return that a file is no certificate."""
    hint = "put the certificate of the private key there, DER or PEM"
    return Fault("signing-certificate-invalid", f"{path} is not an X.509 certificate", hint)
