"""Whether a kernel takes only modules signed by a key that it trusts, and whether ours is one.

Sources: kernel/module/signing.c, kernel-parameters (module.sig_enforce, lockdown), mokutil(1), keyctl(1). What another
kernel than the running one will do follows from its configuration and its command line. Must not: enrol anything.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Optional

from ..core.commandline import CommandLine
from ..core.errors import Problem
from ..core.model import Demand, Fault, Kernel, Signer
from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..system.files import find_accident, stat_signature
from ..system.run import find_program, run

FORCED = ("CONFIG_LOCK_DOWN_KERNEL_FORCE_INTEGRITY", "CONFIG_LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY")
#: What mokutil --test-key says; its exit status differs between versions.
ENROLMENTS = {
    "is already enrolled": "enrolled",
    "is already in the enrollment request": "pending",
    "is not enrolled": "absent",
}
#: What modules are checked with: the first of these that there is, and the keyrings that it links to, such as .machine
#: (verify_pkcs7_signature in certs/system_keyring.c). Distributions add .platform by a patch, which mokutil tells of.
KEYRINGS = (".secondary_trusted_keys", ".builtin_trusted_keys")
SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


class TrustReader:
    """Reads what a root's kernels demand."""

    def __init__(self, sysroot: Sysroot, settings: SettingsSource) -> None:
        self.sysroot = sysroot
        self.settings = settings
        self._enrolments: dict[Path, tuple[object, str]] = {}

    # -- enforcement -----------------------------------------------------------------------------------------------
    def _read(self, path: str) -> str:
        """Return a file's text, "" where there is none. Raises OSError where it could not be read."""
        try:
            return self.sysroot.resolve(path).read_text(errors="replace").strip()
        except OSError as error:
            if find_accident(error):
                raise
            return ""

    def demand(self, kernel: Kernel) -> Demand:
        """Return what a kernel demands. Raises OSError where that could not be read."""
        enforced = self.enforcement(kernel)
        return Demand(enforced, "" if enforced else self._doubt(kernel))

    def enforcement(self, kernel: Kernel) -> str:
        """Return why a kernel refuses modules without a trusted signature, "" where it takes them or may take them."""
        if not kernel.signature_hash:
            return ""
        if kernel.config.get("CONFIG_MODULE_SIG_FORCE") == "y":
            return "its configuration has CONFIG_MODULE_SIG_FORCE"
        words = self._enforcing(kernel)
        if words and all(words):
            return f"its command line has {words[0]}"
        forced = next((symbol for symbol in FORCED if kernel.config.get(symbol) == "y"), "")
        if forced:
            return f"its configuration has {forced}"
        if kernel.running:
            if self._read("/sys/module/module/parameters/sig_enforce") == "Y":
                return "it enforces signatures now"
            if re.search(r"\[(integrity|confidentiality)\]", self._read("/sys/kernel/security/lockdown")):
                return "it is locked down now"
        if self.has_secure_boot() and kernel.config.get("CONFIG_LOCK_DOWN_IN_EFI_SECURE_BOOT") == "y":
            return "Secure Boot is on"
        return ""

    def _enforcing(self, kernel: Kernel) -> list[str]:
        """Return the word that demands signatures of each command line that a kernel may get, "" where none does."""
        return [CommandLine(text).enforcing(kernel.config) for text in kernel.command_lines]

    def _doubt(self, kernel: Kernel) -> str:
        """Return why it cannot be determined whether a kernel refuses modules that it does not certainly refuse."""
        word = next(filter(None, self._enforcing(kernel)), "") if kernel.signature_hash else ""
        if word:
            return f"only some of its boot entries have {word}"
        return kernel.command_line_unknown if kernel.signature_hash else ""

    def has_secure_boot(self) -> bool:
        """Tell whether the firmware of this machine has Secure Boot on; only of the host itself."""
        if not self.sysroot.is_host:
            return False
        try:
            return (self.sysroot.efivars / SECURE_BOOT).read_bytes()[-1:] == b"\x01"
        except OSError:
            return False

    # -- trust -----------------------------------------------------------------------------------------------------
    async def is_trusted(self, certificate: Path, kernel: Kernel) -> bool:
        """Tell whether a kernel trusts a certificate (DER): vouched for, enrolled as a MOK, or in its keyrings.

        Raises Problem where that could not be asked.
        """
        if self.settings.now.sign.trusted or await self._enrolment(certificate) == "enrolled":
            return True
        return kernel.running and await self.is_in_keyring(certificate)

    async def is_in_keyring(self, certificate: Path) -> bool:
        """Tell whether the running kernel checks modules with a certificate (DER); False without keyctl(1) or root.

        It is known by its subject key identifier, which the kernel calls the key by. Raises Problem.
        """
        if not self.sysroot.is_host or find_program("keyctl") is None:
            return False
        argv = ["openssl", "x509", "-inform", "DER", "-noout", "-ext", "subjectKeyIdentifier", "-in"]
        found = await run([*argv, certificate], check=False, timeout=20)
        identifier = re.search(r"^ *((?:[0-9A-F]{2}:)+[0-9A-F]{2})$", found.text, re.MULTILINE)
        if identifier is None:
            return False
        for keyring in KEYRINGS:
            shown = await run(["keyctl", "show", f"%:{keyring}"], check=False, timeout=20)
            if shown.status == 0:
                return identifier[1].replace(":", "").lower() in read_identifiers(shown.text)
        return False

    async def enrolment(self, certificate: Path) -> str:
        """Return whether this machine's firmware has a certificate (DER) as a MOK.

        enrolled, pending (asked for, to be confirmed at the console of the next boot), absent, or unknown: of another
        root than the running one, without EFI variables, without mokutil(1), or where that could not be asked.
        """
        try:
            return await self._enrolment(certificate)
        except Problem:
            return "unknown"

    async def _enrolment(self, certificate: Path) -> str:
        """Raises Problem where mokutil(1) could not be asked."""
        if not self.sysroot.is_host or find_program("mokutil") is None:
            return "unknown"
        try:
            key: object = (stat_signature(certificate), stat_signature(self.sysroot.efivars))
        except OSError:
            return "unknown"
        known = self._enrolments.get(certificate)
        if known is None or known[0] != key:
            done = await run(["mokutil", "--test-key", certificate], check=False, timeout=20)
            state = next((state for words, state in ENROLMENTS.items() if words in done.text), "unknown")
            known = self._enrolments[certificate] = (key, state)
        return known[1]

    async def find_fault(
        self, kernel: Kernel, demand: Demand, signer: Signer, certificate: Path, signed: bool
    ) -> tuple[Optional[Fault], str]:
        """Return what keeps, or may keep, a kernel from taking modules as we sign them, and a check's outcome.

        demand: of that kernel. Raises OSError and Problem where that could not be read.
        """
        why, doubt = demand.enforced, demand.doubt
        if not why and not doubt:
            return None, "passed"
        fault = None
        if not signed or not signer.identity:
            text = f"this kernel takes only signed modules ({why}), and this one is not"
            fault = Fault("signature-required", text, "kmoddctl key show")
        elif not await self.is_trusted(certificate, kernel):
            text = f"this kernel takes only modules signed by a key that it trusts ({why}), and kmodd's is not enrolled"
            where = self.sysroot.inside(certificate)
            fault = Fault("signature-untrusted", text, f"kmoddctl key enroll asks the firmware to trust {where}")
        if fault is None or why:
            return fault, "failed" if fault else "passed"
        text = f"whether this kernel takes modules signed by kmodd cannot be determined: {doubt}"
        return Fault("command-line-unknown", text, fault.hint), "untold"


def read_identifiers(shown: str) -> set[str]:
    """Return the subject key identifiers (hexadecimal) of the certificates in what `keyctl show` printed.

    The kernel describes a certificate as "SUBJECT: IDENTIFIER" (x509_key_preparse in x509_public_key.c).
    """
    return set(re.findall(r" asymmetric: .*: ([0-9a-f]+)$", shown, re.MULTILINE))
