"""The signing key: whether it is usable, and signing objects with the target kernel's own sign-file.

Formats and options: scripts/sign-file.c and Documentation/admin-guide/module-signing.rst of the kernel. Must not:
enrol the key, compress or install objects, or retry. The private key's content is read only by openssl and sign-file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Optional, Union

from ..core.errors import Problem
from ..core.model import Fault, Signer
from ..core.sysroot import Sysroot
from ..system.files import TEMPORARY, explained, replace_file, stat_signature
from ..system.run import Finished, run
from . import token
from .certificate import decode_certificate, identity_of, read_facts
from .keyfaults import GENERATE, find_private_fault, invalid, unreadable
from .signfile import find_hint, find_sign_file, is_signed, last_line, run_sign_file

PIN = "KBUILD_SIGN_PIN"  # where sign-file takes the passphrase from


class Keyring:
    """The one key that signs all objects of a root."""

    def __init__(
        self,
        sysroot: Sysroot,
        private: str = "/etc/kmodd/keys/signing.key",
        certificate: str = "/etc/kmodd/keys/signing.x509",
        passphrase_file: Optional[str] = None,
        environment: Optional[Mapping[str, str]] = None,
    ) -> None:
        """The paths are in-root; private may be a pkcs11: URI, passphrase_file holds its PIN or the key's passphrase.

        environment: more variables for sign-file, such as PKCS11_MODULE_PATH.
        """
        self.sysroot = sysroot
        self.private = private
        self.certificate = certificate
        self.passphrase_file = passphrase_file
        self.environment = dict(environment or {})
        self._pair: object = None  # stat signatures of a key and a certificate that were found to belong together

    # -- what is there ---------------------------------------------------------------------------------------------
    @property
    def is_token(self) -> bool:
        """Tell whether the private key lies in a PKCS #11 token instead of a file."""
        return self.private.startswith("pkcs11:")

    @property
    def published(self) -> Path:
        """Return where everybody can read the certificate."""
        return self.sysroot.below(self.sysroot.state, "signing.x509")

    def signer(self) -> Signer:
        """Return the identity of the key, or what is wrong with it. Reads no private key and starts nothing.

        Faults: signing-key-absent (none was ever made here), signing-key-missing (a part of it is gone),
        signing-key-unreadable, signing-key-exposed, signing-certificate-invalid.
        """
        try:
            der = self.read()
            if der is None:
                return Signer(fault=self._absence())
            fault = find_private_fault(self.sysroot, (self.private, self.passphrase_file), self.certificate)
            return Signer(fault=fault) if fault else Signer(identity_of(der), means=self._means())
        except PermissionError:
            return self._published_signer()
        except OSError as error:
            return Signer(fault=unreadable(self.certificate, error))
        except ValueError:
            return Signer(fault=invalid(self.certificate))

    def _means(self) -> str:
        """Return what changes with the way to the private key. Raises OSError."""
        if not self.is_token and self.passphrase_file is None:
            return ""
        secret = stat_signature(self.sysroot.resolve(self.passphrase_file)) if self.passphrase_file else None
        return hashlib.sha256(repr((self.private, secret, sorted(self.environment.items()))).encode()).hexdigest()[:16]

    def read(self) -> Optional[bytes]:
        """Return the certificate as DER, None where there is none. Raises OSError and ValueError."""
        try:
            return decode_certificate(self.sysroot.resolve(self.certificate).read_bytes())
        except FileNotFoundError:
            return None

    def _published_signer(self) -> Signer:
        try:
            return Signer(identity_of(decode_certificate(self.published.read_bytes())))
        except ValueError:
            return Signer(fault=invalid(self.sysroot.inside(self.published)))
        except OSError:
            text = f"{self.certificate} cannot be read by this user, and no copy of it was published yet"
            return Signer(fault=Fault("signing-key-unreadable", text, "run it as root"))

    def _absence(self) -> Fault:
        """Return why there is no certificate. Raises OSError."""
        there = not self.is_token and self.is_there(self.private)
        if there and not self.is_interrupted():
            text = f"{self.private} is there, but its certificate {self.certificate} is gone"
            copy = self.sysroot.inside(self.published)
            hint = f"cp {copy} {self.certificate}" if self.published.exists() else "put it back"
            return Fault("signing-key-missing", text, f"{hint}, or remove the key and run {GENERATE}")
        if not there and self.published.exists():
            text = f"the signing key {self.private} and its certificate were there once and are gone"
            return Fault("signing-key-missing", text, f"put them back, or run {GENERATE} and enrol the new key")
        return Fault("signing-key-absent", "no signing key was made yet", GENERATE)

    def is_there(self, path: str) -> bool:
        try:
            self.sysroot.resolve(path).stat()
        except FileNotFoundError:
            return False
        return True

    @property
    def staging(self) -> Path:
        """Return where a new pair, as key and x509, lies until it is in its place."""
        private = self.sysroot.resolve(self.private)
        return private.with_name(f".{private.name}{TEMPORARY}")

    def is_interrupted(self) -> bool:
        """Tell whether a change was killed after its key was in place and before its certificate was."""
        try:
            return os.path.samefile(self.staging / "key", self.sysroot.resolve(self.private))
        except FileNotFoundError:
            return False

    # -- the published copy --------------------------------------------------------------------------------------------
    def publish(self) -> None:
        """Let everybody read the certificate, if that is not so already. Raises OSError."""
        try:
            der = self.read()
        except ValueError:
            return
        if der is None:
            return
        try:
            if self.published.read_bytes() == der:
                return
        except FileNotFoundError:
            pass
        replace_file(self.published, der)

    # -- signing ---------------------------------------------------------------------------------------------------
    async def sign(self, object: Path, build_tree: Path, hash: str) -> None:
        """Sign an object in place with a kernel's own sign-file; hash is its CONFIG_MODULE_SIG_HASH.

        object and build_tree are host paths; the object is a copy that the caller owns, in a directory of its own.
        Raises Problem signing-key-*, signing-certificate-invalid, sign-file-missing, sign-file-unsafe and
        signing-failed, and token-unsupported for a key in a token.
        """
        fault = self.signer().fault
        if fault:
            raise Problem.of(fault)
        secret = self.secret()
        await self._check_pair(secret)
        with explained("publishing the certificate"):
            self.publish()
        program = find_sign_file(self.sysroot, build_tree)
        certificate = self.sysroot.resolve(self.certificate)
        partial = object.with_name(f"{object.name}.~signed~")  # sign-file's own name for what it renames at the end
        unsigned = object.stat().st_size
        try:
            if self.is_token:
                environment = {**self.environment, **secret}
                done = await _sign_by_token(program, object, self.private, certificate, hash, environment)
            else:
                private = self.sysroot.resolve(self.private)
                argv: list[Union[str, Path]] = [program, hash, private, certificate, object]
                done = await run_sign_file(argv, {**self.environment, **secret})
        finally:
            partial.unlink(missing_ok=True)
        if done.status != 0 or not is_signed(object, unsigned):
            said = last_line(done) or f"exit status {done.status}"
            raise Problem(
                "signing-failed", f"signing {object.name} with {hash} failed: {said}", find_hint(done, self.is_token)
            )

    def secret(self) -> dict[str, str]:
        """Return the environment that gives openssl and sign-file the passphrase. Raises Problem."""
        if self.passphrase_file is None:
            return {}
        try:
            text = self.sysroot.resolve(self.passphrase_file).read_text()
        except (OSError, ValueError) as error:
            raise _problem(unreadable(self.passphrase_file, error)) from error
        return {PIN: text.split("\n", 1)[0]}

    async def check(self) -> None:
        """Check that the private key can be used and belongs to the certificate. Raises Problem."""
        await self._check_pair(self.secret())

    def find_pair(self) -> Optional[list[list[int]]]:
        """Return what changes with the files that the check is of, as JSON has it; None for a token. Raises OSError."""
        if self.is_token:
            return None
        paths = [self.private, self.certificate, *([self.passphrase_file] if self.passphrase_file else [])]
        return [list(stat_signature(self.sysroot.resolve(path))) for path in paths]

    async def _check_pair(self, secret: Mapping[str, str]) -> None:
        """Check that key and certificate belong together, if one changed since. Raises Problem."""
        if self.is_token:
            return
        key, certificate = self.sysroot.resolve(self.private), self.sysroot.resolve(self.certificate)
        try:
            pair = self.find_pair()
            if pair == self._pair:
                return
            await check_pair(key, self.private, certificate, self.certificate, secret)
        except OSError as error:
            raise _problem(unreadable(self.private, error)) from error
        except Problem as problem:
            if problem.code == "signing-key-mismatch" and self.is_interrupted():
                raise Problem(problem.code, problem.message, "kmoddctl key rotate finishes the change") from problem
            raise
        self._pair = pair


async def _sign_by_token(
    program: Path, object: Path, private: str, certificate: Path, hash: str, environment: Mapping[str, str]
) -> Finished:
    """Sign by a key in a token: openssl signs the message, sign-file appends that. Raises Problem."""
    message = token.message_of(object)
    try:
        done = await token.sign(object, message, private, certificate, hash, PIN, environment)
        if done.status == 0:
            done = await run_sign_file([program, "-s", message, hash, certificate, object], {})
    finally:
        message.unlink(missing_ok=True)
    return done


async def certificate_facts(keyring: Keyring) -> dict[str, str]:
    """Return what the certificate says (certificate.read_facts).

    Raises Problem signing-key-* and signing-certificate-invalid.
    """
    der = None
    with contextlib.suppress(OSError, ValueError):
        try:
            der = keyring.read()
        except PermissionError:
            der = decode_certificate(keyring.published.read_bytes())
    if der is None:
        raise _problem(keyring.signer().fault or invalid(keyring.certificate))
    try:
        return await read_facts(der)
    except ValueError as error:
        raise _problem(invalid(keyring.certificate)) from error


async def check_pair(key: Path, named: str, certificate: Path, certified: str, secret: Mapping[str, str]) -> None:
    """Check that a private key and a certificate, host paths with the names to print, belong together.

    Raises OSError, Problem signing-key-unreadable, signing-certificate-invalid and signing-key-mismatch.
    """
    with key.open("rb"):  # as root reads everything, this is for the others
        pass
    try:
        der = decode_certificate(certificate.read_bytes())
    except ValueError:
        raise _problem(invalid(certified)) from None
    argv: list[Union[str, Path]] = ["openssl", "pkey", "-in", key, "-pubout"]
    argv += ["-passin", f"env:{PIN}"]  # never asks a terminal
    own = await run(argv, check=False, env={PIN: "", **secret})
    if own.status != 0:
        text = f"{named} cannot be used: {last_line(own)}"
        hint = "it must be an unencrypted PEM file, or its passphrase be in sign.passphrase_file"
        raise Problem("signing-key-unreadable", text, hint)
    shown = await run(["openssl", "x509", "-inform", "DER", "-noout", "-pubkey"], check=False, stdin=der)
    if shown.status != 0:
        raise _problem(invalid(certified))
    if own.stdout.split() != shown.stdout.split():
        text = f"{named} and {certified} do not belong together"
        raise Problem("signing-key-mismatch", text, "put back the file that was replaced")


def _problem(fault: Fault) -> Problem:
    return Problem.of(fault)
