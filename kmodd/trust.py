"""Whether a kernel takes only modules signed by a key that it trusts, and whether ours is one.

Sources: kernel/module/signing.c, kernel-parameters (module.sig_enforce, lockdown), the Boot Loader Specification
(loader/entries), grub2's grubenv, mokutil(1), keyctl(1). What another kernel than the running one will do is told
from its configuration and its boot entry. Must not: enrol anything.
"""

from __future__ import annotations

import re
from pathlib import Path

from .errors import Problem
from .files import stat_signature
from .model import Fault, Kernel, Signer
from .paths import Sysroot
from .run import find_program, run

ENFORCING = re.compile(r"(?:^|\s)module\.sig_enforce(?:=(?:1|y|Y|on))?(?=\s|$)")
LOCKDOWN = re.compile(r"(?:^|\s)lockdown=(integrity|confidentiality)(?=\s|$)")
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
    """Reads what a root's kernels demand. vouched: the administrator says that every kernel trusts our key."""

    def __init__(self, sysroot: Sysroot, vouched: bool) -> None:
        self.sysroot = sysroot
        self.vouched = vouched
        self._enrolments: dict[Path, tuple[object, str]] = {}

    # -- enforcement -----------------------------------------------------------------------------------------------
    def command_line(self, kernel: Kernel) -> str:
        """Return the kernel command line that a kernel has, or will boot with as far as can be told."""
        if kernel.running:
            return self._read("/proc/cmdline")
        entries = self.sysroot.resolve("/boot/loader/entries")
        for path in sorted(entries.glob("*.conf")) if entries.is_dir() else []:
            fields: dict[str, str] = {}
            for line in path.read_text(errors="replace").splitlines():
                key, _, value = line.strip().partition(" ")
                fields[key] = f"{fields.get(key, '')} {value.strip()}".strip()
            if fields.get("version") == kernel.release or fields.get("linux", "").endswith(f"-{kernel.release}"):
                return fields.get("options", "").replace("$kernelopts", self._grub_variable("kernelopts"))
        return self._read("/etc/kernel/cmdline")

    def _grub_variable(self, name: str) -> str:
        found = re.search(rf"^{name}=(.*)$", self._read("/boot/grub2/grubenv"), re.MULTILINE)
        return found[1] if found else ""

    def _read(self, path: str) -> str:
        try:
            return self.sysroot.resolve(path).read_text(errors="replace").strip()
        except OSError:
            return ""

    def enforcement(self, kernel: Kernel) -> str:
        """Return why a kernel refuses modules without a trusted signature, "" where it takes them."""
        if not kernel.signature_hash:
            return ""
        if kernel.config.get("CONFIG_MODULE_SIG_FORCE") == "y":
            return "its configuration has CONFIG_MODULE_SIG_FORCE"
        words = self.command_line(kernel)
        if ENFORCING.search(words):
            return "its command line has module.sig_enforce"
        locked = LOCKDOWN.search(words)
        if locked and kernel.config.get("CONFIG_SECURITY_LOCKDOWN_LSM") == "y":
            return f"its command line has lockdown={locked[1]}"
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
        """Tell whether a kernel trusts a certificate (DER): vouched for, enrolled as a MOK, or in its keyrings."""
        if self.vouched or await self.enrolment(certificate) == "enrolled":
            return True
        return kernel.running and await self.is_in_keyring(certificate)

    async def is_in_keyring(self, certificate: Path) -> bool:
        """Tell whether the running kernel checks modules with a certificate (DER); False without keyctl(1) or root.

        It is known by its subject key identifier, which the kernel calls the key by.
        """
        if not self.sysroot.is_host or find_program("keyctl") is None:
            return False
        argv = ["openssl", "x509", "-inform", "DER", "-noout", "-ext", "subjectKeyIdentifier", "-in"]
        try:
            found = await run([*argv, certificate], check=False, timeout=20)
            identifier = re.search(r"^ *((?:[0-9A-F]{2}:)+[0-9A-F]{2})$", found.text, re.MULTILINE)
            if identifier is None:
                return False
            for keyring in KEYRINGS:
                shown = await run(["keyctl", "show", f"%:{keyring}"], check=False, timeout=20)
                if shown.status == 0:
                    return identifier[1].replace(":", "").lower() in read_identifiers(shown.text)
        except Problem:
            pass
        return False

    async def enrolment(self, certificate: Path) -> str:
        """Return whether this machine's firmware has a certificate (DER) as a MOK.

        enrolled, pending (asked for, to be confirmed at the console of the next boot), absent, or unknown: of another
        root than the running one, without EFI variables, without mokutil(1).
        """
        if not self.sysroot.is_host or find_program("mokutil") is None:
            return "unknown"
        try:
            key: object = (stat_signature(certificate), stat_signature(self.sysroot.efivars))
        except OSError:
            return "unknown"
        known = self._enrolments.get(certificate)
        if known is None or known[0] != key:
            try:
                done = await run(["mokutil", "--test-key", certificate], check=False, timeout=20)
                state = next((state for words, state in ENROLMENTS.items() if words in done.text), "unknown")
            except Problem:
                state = "unknown"
            known = self._enrolments[certificate] = (key, state)
        return known[1]

    async def faults(self, kernel: Kernel, signer: Signer, certificate: Path, signed: bool) -> tuple[Fault, ...]:
        """Return what keeps a kernel from taking modules as we sign them."""
        why = self.enforcement(kernel)
        if not why:
            return ()
        if not signed or not signer.identity:
            text = f"this kernel takes only signed modules ({why}), and this one is not"
            return (Fault("signature-required", text, "kmoddctl key show"),)
        if await self.is_trusted(certificate, kernel):
            return ()
        text = f"this kernel takes only modules signed by a key that it trusts ({why}), and kmodd's is not enrolled"
        where = self.sysroot.inside(certificate)
        hint = f"kmoddctl key enroll asks the firmware to trust {where}"
        return (Fault("signature-untrusted", text, hint),)


def read_identifiers(shown: str) -> set[str]:
    """Return the subject key identifiers (hexadecimal) of the certificates in what `keyctl show` printed.

    The kernel describes a certificate as "SUBJECT: IDENTIFIER" (x509_key_preparse in x509_public_key.c).
    """
    return set(re.findall(r" asymmetric: .*: ([0-9a-f]+)$", shown, re.MULTILINE))
