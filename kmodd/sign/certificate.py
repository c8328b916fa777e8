"""X.509 certificates of signing keys: their encodings, what they say, and what is asked of openssl to make one.

Formats: RFC 5280, certs/Makefile and Documentation/admin-guide/module-signing.rst of the kernel. Must not: open a
private key.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import re

from ..system.run import run

COMMON_NAME_LENGTH = 64  # ub-common-name in RFC 5280; openssl refuses more
#: What openssl req is to make. EL8's kernel (4.18) knows no ECDSA signatures, which came with Linux 5.13;
#: P-384 is the curve of the kernel's own generated keys.
ALGORITHMS = {
    "rsa": ("rsa:3072",),
    "ecdsa": ("ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-pkeyopt", "ec_param_enc:named_curve"),
}
#: 1.3.6.1.4.1.2312.16.1.2 says "modules only": shim refuses a boot loader or kernel that is signed by such a key
#: (verify_eku in shim.c), so ours does no more harm than it must when it is stolen. The kernel
#: ignores extended key usages, but SUSE's wants codeSigning (CONFIG_CHECK_CODESIGN_EKU). shim takes only
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


def identity_of(der: bytes) -> str:
    """Return what a key is known by: the sha256 of its certificate (DER), hexadecimal."""
    return hashlib.sha256(der).hexdigest()


def request(host: str) -> str:
    """Return the configuration that openssl req makes a certificate for a host's key from."""
    name = "kmodd {} module signing key"
    plain = re.sub(r"[^A-Za-z0-9._-]", "", host) or "localhost"  # nothing that means something to openssl
    return REQUEST.format(name=name.format(plain[: COMMON_NAME_LENGTH - len(name) + 2]))


async def read_facts(der: bytes) -> dict[str, str]:
    """Return what a certificate says.

    subject (RFC 2253), serial, not_after (ISO 8601, UTC), fingerprint (sha256), algorithm, usage (extended key
    usages, as openssl names them, comma-separated; "" where it has none). Raises ValueError, and Problem tool-missing.
    """
    argv = ["openssl", "x509", "-inform", "DER", "-noout", "-subject", "-nameopt", "RFC2253", "-serial"]
    done = await run([*argv, "-enddate", "-text"], check=False, stdin=der)
    if done.status != 0:
        raise ValueError("not a certificate")

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
        "fingerprint": identity_of(der),
        "algorithm": f"{kind} {bits}".strip(),
        "usage": find(r"X509v3 Extended Key Usage:[^\n]*\n\s*(.*?)$"),
    }
