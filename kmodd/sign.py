"""The signing key: whether it is usable, making it once, and signing objects with the target kernel's own sign-file.

Formats and options: scripts/sign-file.c, certs/Makefile and Documentation/admin-guide/module-signing.rst of the
kernel. Must not: enrol the key, compress or install objects, or retry. The private key's content is read only by
openssl and sign-file.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import datetime
import fcntl
import hashlib
import os
import re
import shutil
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Optional, Union

from .errors import Problem
from .files import TEMPORARY, explained, replace_file, stat_signature, sync_directory
from .model import Fault, Signer
from .paths import Sysroot
from .run import Finished, run

MAGIC = b"~Module signature appended~\n"  # MODULE_SIG_STRING in include/linux/module_signature.h
PIN = "KBUILD_SIGN_PIN"  # where sign-file takes the passphrase from
COMMON_NAME_LENGTH = 64  # ub-common-name in RFC 5280; openssl refuses more
#: What openssl req is told to make. EL8's kernel (4.18) knows no ECDSA signatures, which came with Linux 5.13;
#: P-384 is the curve of the kernel's own generated keys.
ALGORITHMS = {
    "rsa": ("rsa:3072",),
    "ecdsa": ("ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-pkeyopt", "ec_param_enc:named_curve"),
}
#: 1.3.6.1.4.1.2312.16.1.2 says "modules only": shim refuses a boot loader or kernel that is signed by such a key
#: (verify_eku in shim.c), so ours does no more harm than it must when it is stolen. The kernel
#: does not look at extended key usages, but SUSE's wants codeSigning (CONFIG_CHECK_CODESIGN_EKU). shim takes only
#: certificates whose DER begins with 30 82 (verify_x509 in shim.c).
REQUEST = """\
[req]
prompt = no
string_mask = utf8only
distinguished_name = subject
x509_extensions = extensions
[subject]
CN = {name}
[extensions]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = codeSigning,1.3.6.1.4.1.2312.16.1.2
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""
DAYS = 36500
GENERATE = "kmoddctl key generate"


class Keyring:
    """The one key that signs all objects of a root."""

    def __init__(
        self,
        sysroot: Sysroot,
        private: str = "/etc/kmodd/keys/signing.key",
        certificate: str = "/etc/kmodd/keys/signing.x509",
        passphrase_file: Optional[str] = None,
    ) -> None:
        """Take in-root paths; private may be a pkcs11: URI, passphrase_file holds its PIN or the key's passphrase."""
        self.sysroot = sysroot
        self.private = private
        self.certificate = certificate
        self.passphrase_file = passphrase_file
        self._pair: object = None  # stat signatures of a key and a certificate that were found to belong together

    # -- what is there ---------------------------------------------------------------------------------------------
    @property
    def is_token(self) -> bool:
        """Tell whether the private key lies in a PKCS #11 token instead of a file."""
        return self.private.startswith("pkcs11:")

    @property
    def published(self) -> Path:
        """Return where everybody can read the certificate."""
        return self.sysroot.state / "signing.x509"

    def signer(self) -> Signer:
        """Return the identity of the key, or what is wrong with it. Reads no private key and starts nothing.

        Faults: signing-key-absent (none was ever made here), signing-key-missing (a part of it is gone),
        signing-key-unreadable, signing-key-exposed, signing-certificate-invalid.
        """
        try:
            der = self._read()
            if der is None:
                return Signer(fault=self._absence())
            fault = self._private_fault()
            return Signer(fault=fault) if fault else Signer(hashlib.sha256(der).hexdigest())
        except PermissionError:
            return self._published_signer()
        except OSError as error:
            return Signer(fault=_unreadable(self.certificate, error))
        except ValueError:
            return Signer(fault=_invalid(self.certificate))

    def _read(self) -> Optional[bytes]:
        """Return the certificate as DER, None where there is none. Raises OSError and ValueError."""
        try:
            return decode_certificate(self.sysroot.resolve(self.certificate).read_bytes())
        except FileNotFoundError:
            return None

    def _published_signer(self) -> Signer:
        try:
            return Signer(hashlib.sha256(decode_certificate(self.published.read_bytes())).hexdigest())
        except ValueError:
            return Signer(fault=_invalid(self.sysroot.inside(self.published)))
        except OSError:
            text = f"{self.certificate} cannot be read by this user, and no copy of it was published yet"
            return Signer(fault=Fault("signing-key-unreadable", text, "run it as root"))

    def _absence(self) -> Fault:
        """Return why there is no certificate. Raises OSError."""
        there = not self.is_token and self._is_there(self.private)
        if there and not self._is_interrupted():
            text = f"{self.private} is there, but its certificate {self.certificate} is gone"
            copy = self.sysroot.inside(self.published)
            hint = f"cp {copy} {self.certificate}" if self.published.exists() else "put it back"
            return Fault("signing-key-missing", text, f"{hint}, or remove the key and run {GENERATE}")
        if not there and self.published.exists():
            text = f"the signing key {self.private} and its certificate were there once and are gone"
            return Fault("signing-key-missing", text, f"put them back, or run {GENERATE} and enrol the new key")
        return Fault("signing-key-absent", "no signing key was made yet", GENERATE)

    def _private_fault(self) -> Optional[Fault]:
        """Return what is wrong with the private key and its passphrase, as far as stat can tell. Raises OSError."""
        for path in (self.private, self.passphrase_file):
            if path is None or path.startswith("pkcs11:"):
                continue
            try:
                found = self.sysroot.resolve(path).stat()
            except FileNotFoundError:
                hint = f"put it back, or remove {self.certificate}, run {GENERATE} and enrol the new key"
                return Fault("signing-key-missing", f"{path} is gone", hint)
            if found.st_mode & 0o077 or found.st_uid not in (0, os.geteuid()):
                text = f"{path} can be read or changed by others than root"
                hint = f"chown root {path} && chmod 600 {path}; make a new key if somebody may have copied it"
                return Fault("signing-key-exposed", text, hint)
        return None

    def _is_there(self, path: str) -> bool:
        try:
            self.sysroot.resolve(path).stat()
        except FileNotFoundError:
            return False
        return True

    # -- making it -------------------------------------------------------------------------------------------------
    @property
    def _staging(self) -> Path:
        private = self.sysroot.resolve(self.private)
        return private.with_name(f".{private.name}{TEMPORARY}")

    def _is_interrupted(self) -> bool:
        """Tell whether a generation was killed after its key was in place and before its certificate was."""
        try:
            return os.path.samefile(self._staging / "key", self.sysroot.resolve(self.private))
        except FileNotFoundError:
            return False

    def heal(self) -> None:
        """Delete what a killed generation staged, unless its key is in place and only generate can finish it.

        Raises OSError.
        """
        if self.is_token or not self._staging.is_dir():
            return
        if not self._is_interrupted() or self._is_there(self.certificate):
            shutil.rmtree(self._staging)

    async def generate(self, algorithm: str = "rsa") -> Signer:
        """Make the key and its certificate, or finish what a kill interrupted; algorithm is rsa or ecdsa.

        Raises Problem signing-key-exists: nothing is ever overwritten.
        """
        if self.is_token:
            text = "a key in a PKCS #11 token cannot be made by kmodd"
            raise Problem("signing-key-exists", text, "make it with the token's own tools")
        private = self.sysroot.resolve(self.private)
        with explained(f"making {self.private}"):
            private.parent.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                private.parent.mkdir(mode=0o700)
        async with self._locked(private.parent):
            with explained(f"making {self.private}"):
                if not self._is_interrupted() or self._is_there(self.certificate):
                    self._check_absent()
                    await self._stage(ALGORITHMS[algorithm])
                self._commit()
        return self.signer()

    @contextlib.asynccontextmanager
    async def _locked(self, directory: Path) -> AsyncIterator[None]:
        """Keep other generators out; the lock ends with the process."""
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

    def _check_absent(self) -> None:
        """Raise Problem signing-key-exists where a part of a key is."""
        for path in (self.private, self.certificate):
            if self._is_there(path):
                hint = "kmoddctl key show; move both files away to make a new key, which must be enrolled then"
                raise Problem("signing-key-exists", f"{path} exists and is not overwritten", hint, path=path)

    async def _stage(self, kind: tuple[str, ...]) -> None:
        """Write a whole pair, synced, into a directory of its own beside its final place. Raises OSError, Problem."""
        staging = self._staging
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        key, certificate, request = (staging / name for name in ("key", "x509", "request"))
        try:
            os.close(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))  # openssl keeps the mode
            request.write_text(REQUEST.format(name=_common_name(self._host_name())))
            argv = ["openssl", "req", "-new", "-x509", "-batch", "-utf8", "-sha256", "-nodes", "-days", str(DAYS)]
            argv += ["-config", str(request), "-newkey", *kind]
            await run([*argv, "-keyout", key, "-outform", "DER", "-out", certificate])
            decode_certificate(certificate.read_bytes())
            for path in (key, certificate):
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
            sync_directory(staging)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise

    def _commit(self) -> None:
        """Put a staged pair into its place; doing it again after a kill at any step ends the same. Raises OSError."""
        private, staging = self.sysroot.resolve(self.private), self._staging
        with contextlib.suppress(FileExistsError):  # from the interrupted one; _check_absent saw to anything else
            os.link(staging / "key", private)
        sync_directory(private.parent)
        replace_file(self.sysroot.resolve(self.certificate), (staging / "x509").read_bytes())
        self.publish()
        shutil.rmtree(staging)
        sync_directory(private.parent)

    def publish(self) -> None:
        """Let everybody read the certificate, if that is not so already. Raises OSError."""
        try:
            der = self._read()
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

    def _host_name(self) -> str:
        if self.sysroot.is_host:
            return os.uname().nodename
        try:
            return self.sysroot.resolve("/etc/hostname").read_text(errors="replace")
        except OSError:
            return ""

    # -- signing ---------------------------------------------------------------------------------------------------
    async def sign(self, object: Path, build_tree: Path, hash: str) -> None:
        """Sign an object in place with a kernel's own sign-file; hash is its CONFIG_MODULE_SIG_HASH.

        object and build_tree are host paths; the object is a copy that the caller owns, in a directory of its own.
        Raises Problem signing-key-*, signing-certificate-invalid, sign-file-missing, sign-file-unsafe and
        signing-failed.
        """
        fault = self.signer().fault
        if fault:
            raise Problem(fault.problem, fault.message, fault.hint)
        environment = self._environment()
        await self._check_pair(environment)
        with explained("publishing the certificate"):
            self.publish()
        program = self._find_sign_file(build_tree)
        key = self.private if self.is_token else self.sysroot.resolve(self.private)
        partial = object.with_name(f"{object.name}.~signed~")  # sign-file's own name for what it renames at the end
        try:
            argv: list[Union[str, Path]] = [program, hash, key, self.sysroot.resolve(self.certificate), object]
            done = await run(argv, check=False, env=environment)
        except Problem as problem:
            if problem.attributes.get("status") != 126:
                raise
            raise _unusable(program, problem.message) from problem
        finally:
            partial.unlink(missing_ok=True)
        if done.status == 127:  # the dynamic loader misses a library
            raise _unusable(program, _last_line(done))
        if done.status != 0 or not is_signed(object):
            said = _last_line(done) or f"exit status {done.status}"
            raise Problem("signing-failed", f"signing {object.name} with {hash} failed: {said}", _hint(done))

    def _environment(self) -> dict[str, str]:
        if self.passphrase_file is None:
            return {}
        try:
            text = self.sysroot.resolve(self.passphrase_file).read_text()
        except (OSError, ValueError) as error:
            raise _problem(_unreadable(self.passphrase_file, error)) from error
        return {PIN: text.split("\n", 1)[0]}

    async def _check_pair(self, environment: dict[str, str]) -> None:
        """Check that key and certificate belong together, if one changed since. Raises Problem."""
        if self.is_token:
            return
        key, certificate = self.sysroot.resolve(self.private), self.sysroot.resolve(self.certificate)
        try:
            pair = (stat_signature(key), stat_signature(certificate))
            if pair == self._pair:
                return
            with key.open("rb"):  # as root reads everything, this is for the others
                pass
            der = decode_certificate(certificate.read_bytes())
        except OSError as error:
            raise _problem(_unreadable(self.private, error)) from error
        argv: list[Union[str, Path]] = ["openssl", "pkey", "-in", key, "-pubout"]
        argv += ["-passin", f"env:{PIN}"]  # never asks a terminal
        own = await run(argv, check=False, env={PIN: "", **environment})
        if own.status != 0:
            text = f"{self.private} cannot be used: {_last_line(own)}"
            hint = "it must be an unencrypted PEM file, or its passphrase be in the passphrase file"
            raise Problem("signing-key-unreadable", text, hint)
        shown = await run(["openssl", "x509", "-inform", "DER", "-noout", "-pubkey"], check=False, stdin=der)
        if shown.status != 0:
            raise _problem(_invalid(self.certificate))
        if own.stdout.split() != shown.stdout.split():
            text = f"{self.private} and {self.certificate} do not belong together"
            raise Problem("signing-key-mismatch", text, "put back the file that was replaced")
        self._pair = pair

    def _find_sign_file(self, build_tree: Path) -> Path:
        """Return a build tree's sign-file, which root may run. Raises Problem sign-file-missing, sign-file-unsafe."""
        path = build_tree / "scripts/sign-file"
        try:
            path = self.sysroot.resolve(self.sysroot.inside(path))
        except ValueError:  # a tree outside the root
            path = path.resolve()
        if not path.is_file() or not os.access(path, os.X_OK):
            raise _unusable(path, "there is no such program")
        if os.geteuid() == 0:
            for part in (path, *path.parents):
                if part == self.sysroot.root:
                    break
                _check_safe(part)
        return path

    # -- showing it ------------------------------------------------------------------------------------------------
    async def certificate_facts(self) -> dict[str, str]:
        """Return subject, serial, not_after (ISO 8601, UTC), fingerprint (sha256) and algorithm of the certificate.

        Raises Problem signing-key-* and signing-certificate-invalid.
        """
        der = None
        with contextlib.suppress(OSError, ValueError):
            try:
                der = self._read()
            except PermissionError:
                der = decode_certificate(self.published.read_bytes())
        if der is None:
            fault = self.signer().fault or _invalid(self.certificate)
            raise _problem(fault)
        argv = ["openssl", "x509", "-inform", "DER", "-noout", "-subject", "-nameopt", "RFC2253", "-serial"]
        done = await run([*argv, "-enddate", "-text"], check=False, stdin=der)
        if done.status != 0:
            raise _problem(_invalid(self.certificate))

        def find(pattern: str) -> str:
            found = re.search(pattern, done.text, re.MULTILINE)
            return found.group(1) if found else ""

        end = datetime.datetime.strptime(find(r"^notAfter=(.*?)$"), "%b %d %H:%M:%S %Y %Z")
        kind = {"rsaEncryption": "RSA", "id-ecPublicKey": "ECDSA"}.get(find(r"Public Key Algorithm: (\S+)"), "unknown")
        bits = find(r"Public-Key: .(\d+) bit")
        return {
            "subject": find(r"^subject=\s*(.*?)$"),
            "serial": find(r"^serial=(\S+)$").lower(),
            "not_after": end.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "fingerprint": hashlib.sha256(der).hexdigest(),
            "algorithm": f"{kind} {bits}".strip(),
        }


def decode_certificate(data: bytes) -> bytes:
    """Return a certificate, given as DER or PEM, as DER. Raises ValueError."""
    found = re.search(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", data, re.DOTALL)
    try:
        der = base64.b64decode(found.group(1)) if found else data
    except binascii.Error as error:
        raise ValueError("not a certificate") from error
    if der[:2] != b"\x30\x82" or int.from_bytes(der[2:4], "big") + 4 != len(der):
        raise ValueError("not a certificate")
    return der


def is_signed(path: Path) -> bool:
    """Tell whether a file ends as a signed module does. Raises OSError."""
    with path.open("rb") as stream:
        stream.seek(-min(len(MAGIC), path.stat().st_size), os.SEEK_END)
        return stream.read() == MAGIC


def _common_name(host: str) -> str:
    """Return the certificate's name, with nothing in it that means something to openssl's configuration."""
    name = "kmodd {} module signing key"
    plain = re.sub(r"[^A-Za-z0-9._-]", "", host) or "localhost"
    return name.format(plain[: COMMON_NAME_LENGTH - len(name) + 2])


def _check_safe(part: Path) -> None:
    """Raise Problem sign-file-unsafe where others than root could change a file, or what is in a directory."""
    found = part.stat()
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX  # others may add names, not replace them
    if found.st_uid != 0 or (found.st_mode & 0o022 and not sticky):
        text = f"sign-file is not run, since others than root can change {part}"
        raise Problem("sign-file-unsafe", text, f"chown root {part} && chmod go-w {part}", path=str(part))


def _problem(fault: Fault) -> Problem:
    return Problem(fault.problem, fault.message, fault.hint)


def _unreadable(path: str, error: Exception) -> Fault:
    said = getattr(error, "strerror", None) or "it is not text"
    return Fault("signing-key-unreadable", f"{path} cannot be read: {said}", "run it as root")


def _invalid(path: str) -> Fault:
    hint = "put the certificate of the private key there, DER or PEM"
    return Fault("signing-certificate-invalid", f"{path} is not an X.509 certificate", hint)


def _unusable(path: Path, why: str) -> Problem:
    hint = "reinstall the kernel-devel package of this kernel"
    return Problem("sign-file-missing", f"{path} cannot be run: {why}", hint, path=str(path))


def _last_line(done: Finished) -> str:
    lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


def _hint(done: Finished) -> str:
    said = done.stderr.decode(errors="replace")
    if "No space left" in said:
        return "free some space"
    if re.search(r"unsupported|digest|invalid hash", said, re.IGNORECASE):
        return "this openssl does not take the kernel's hash; see update-crypto-policies(8) and FIPS mode"
    return "run the kernel's scripts/sign-file by hand to see more"
