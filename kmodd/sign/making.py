"""Making the signing key once, taking over another's, and replacing it by a successor.

Must not: sign, or enrol anything.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.model import Signer
from ..system.deleting import delete_tree, remove_tree
from ..system.files import explained, make_directory, sync_directory, temporary_name
from . import Keyring, check_pair
from .certificate import decode_certificate, identity_of
from .pairfiles import PairFiles, Staging, is_whole

#: Where others keep the key that signs their modules: the private key, the certificate.
KNOWN_PAIRS = {
    "dkms": ("/var/lib/dkms/mok.key", "/var/lib/dkms/mok.pub"),
    "akmods": ("/etc/pki/akmods/private/private_key.priv", "/etc/pki/akmods/certs/public_key.der"),
}


class KeyMaker:
    """Makes and replaces the key of a Keyring, whose files it alone writes."""

    def __init__(self, keyring: Keyring) -> None:
        self.keyring = keyring
        self.sysroot = keyring.sysroot
        self.pair = PairFiles(keyring)

    @property
    def next(self) -> Path:
        """Return the directory of the successor, a whole pair that waits for its enrolment."""
        return self.pair.private.parent / "next"

    @property
    def retired(self) -> Path:
        return self.pair.private.parent / "retired"

    # -- the first key ---------------------------------------------------------------------------------------------
    async def generate(self, algorithm: str = "rsa") -> Signer:
        """Make the key and its certificate, or finish what a kill interrupted; algorithm is rsa or ecdsa.

        Raises Problem signing-key-exists: nothing is ever overwritten.
        """
        return await self._begin(self.pair.generation(algorithm))

    async def adopt(self, private: str, certificate: str) -> Signer:
        """Take over a copy of another pair (in-root paths, PEM; the certificate may be DER) as the key.

        Raises Problem signing-key-exists, signing-key-missing, signing-key-unreadable, signing-key-mismatch,
        signing-certificate-invalid.
        """
        return await self._begin(self.pair.adoption(private, certificate))

    async def disown(self, private: str, certificate: str) -> None:
        """Delete the key that was taken over from another pair, which is still there, so that nothing is lost.

        Raises Problem signing-key-elsewhere, signing-key-not-imported, signing-key-missing, signing-key-mismatch.
        """
        self._check_own()
        key, x509 = self.sysroot.resolve(private), self.sysroot.resolve(certificate)
        for path, name in ((key, private), (x509, certificate)):
            if not path.is_file():
                text = f"{name} is not there, so the copy of it stays"
                raise Problem("signing-key-missing", text, "kmoddctl key rotate replaces it by a new key")
        try:
            same = (self.keyring.read() or self.keyring.published.read_bytes()) == decode_certificate(x509.read_bytes())
        except (FileNotFoundError, ValueError):
            same = False
        if not same:
            text, hint = f"the key is no copy of {private}", "kmoddctl key show; kmoddctl key rotate replaces it"
            raise Problem("signing-key-not-imported", text, hint)
        await check_pair(key, private, x509, certificate, self.keyring.secret())
        async with self.pair.locked():
            with explained(f"deleting {self.keyring.private}"):
                # the published certificate last: it tells that a key was there
                for inside in (self.keyring.private, self.keyring.certificate):
                    self.sysroot.resolve(inside).unlink(missing_ok=True)
                sync_directory(self.pair.private.parent)
                self.keyring.published.unlink(missing_ok=True)

    async def _begin(self, stage: Staging) -> Signer:
        self._check_file()
        with explained(f"making {self.keyring.private}"):
            make_directory(self.pair.private.parent, 0o700)
        async with self.pair.locked():
            with explained(f"making {self.keyring.private}"):
                if not self.keyring.is_interrupted() or self.keyring.is_there(self.keyring.certificate):
                    self._check_absent()
                    await self.pair.stage(self.keyring.staging, stage)
                self.pair.commit()
        return self.keyring.signer()

    def _check_file(self) -> None:
        if self.keyring.is_token:
            text = "a key in a PKCS #11 token cannot be made by kmodd"
            hint = "make it with the token's own tools; what sign.key and sign.certificate name is used at once"
            raise Problem("signing-key-in-token", text, hint)

    def _check_absent(self) -> None:
        """Raise Problem signing-key-exists where a part of a key is."""
        for path in (self.keyring.private, self.keyring.certificate):
            if self.keyring.is_there(path):
                hint = "kmoddctl key show; kmoddctl key rotate replaces it"
                raise Problem("signing-key-exists", f"{path} exists and is not overwritten", hint, path=path)

    # -- its successor ---------------------------------------------------------------------------------------------
    def successor(self) -> Optional[bytes]:
        """Return the certificate (DER) of the successor, None where there is none. Raises Problem."""
        with explained(f"reading {self.sysroot.inside(self.next)}"):
            try:
                return decode_certificate((self.next / "x509").read_bytes())
            except (FileNotFoundError, NotADirectoryError):
                return None
            except ValueError:
                text = f"{self.sysroot.inside(self.next)} holds no certificate"
                raise Problem("signing-certificate-invalid", text, "kmoddctl key rotate --abort") from None

    async def prepare(self, algorithm: str = "rsa", pair: Optional[tuple[str, str]] = None) -> bytes:
        """Make a successor, or take over a pair as one; one that waits already is kept. Returns its certificate (DER).

        Raises Problem as adopt does, and signing-key-elsewhere for a key that is not kmodd's own.
        """
        self._check_own()
        async with self.pair.locked():
            found = self.successor()
            if found is None:
                with explained(f"making {self.sysroot.inside(self.next)}"):
                    staging = temporary_name(self.next)
                    await self.pair.stage(
                        staging, self.pair.adoption(*pair) if pair else self.pair.generation(algorithm)
                    )
                    staging.rename(self.next)
                    sync_directory(self.next.parent)
                found = self.successor()
                assert found is not None
            return found

    async def switch(self) -> Signer:
        """Put the successor into the key's place, and the key among the retired. Raises Problem signing-key-missing."""
        self._check_own()
        async with self.pair.locked():
            with explained(f"replacing {self.keyring.private}"):
                if not self.keyring.is_interrupted():
                    if self.successor() is None:
                        raise Problem("signing-key-missing", "no successor was made", "kmoddctl key rotate")
                    self._retire()
                    delete_tree(self.keyring.staging)
                    self.next.rename(self.keyring.staging)
                    sync_directory(self.next.parent)
                self.pair.commit()
        return self.keyring.signer()

    async def withdraw(self) -> bool:
        """Delete the successor; tells whether there was one. Raises Problem."""
        self._check_own()
        async with self.pair.locked():
            if not self.next.is_dir():
                return False
            with explained(f"deleting {self.sysroot.inside(self.next)}"):
                remove_tree(self.next)
            return True

    def _check_own(self) -> None:
        self._check_file()
        for path in (self.keyring.private, self.keyring.certificate):
            if self.sysroot.resolve(path).parent != self.sysroot.keys:
                text = f"{path} is not kmodd's own, which are in {self.sysroot.inside(self.sysroot.keys)}"
                hint = "change sign.key and sign.certificate in kmodd.toml: kmodd then signs everything anew"
                raise Problem("signing-key-elsewhere", text, hint)

    def _retire(self) -> None:
        """Keep the present pair under its identity, so that a firmware that refuses the new one is no disaster."""
        der = self.keyring.read()
        name = identity_of(der)[:16] if der else "unknown"
        make_directory(self.retired, 0o700)
        for path, suffix in ((self.keyring.private, "key"), (self.keyring.certificate, "x509")):
            kept = self.retired / f"{name}.{suffix}"
            with contextlib.suppress(FileNotFoundError):
                kept.unlink()
            with contextlib.suppress(FileNotFoundError):
                os.link(self.sysroot.resolve(path), kept)
        sync_directory(self.retired)

    def heal(self) -> None:
        """Finish or drop what a kill interrupted; a first key is finished by generate alone. Raises OSError."""
        staging = self.keyring.staging
        if self.keyring.is_token or not self.pair.private.parent.is_dir():
            return
        delete_tree(temporary_name(self.next))
        if not staging.is_dir():
            return
        if not self.keyring.is_interrupted():
            if self.keyring.is_there(self.keyring.certificate) and is_whole(staging) and not self.next.exists():
                staging.rename(self.next)  # a successor whose switch was just begun
            else:
                remove_tree(staging)
        elif self.keyring.is_there(self.keyring.certificate):
            self.pair.commit()
