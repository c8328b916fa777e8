"""Whether an object's appended signature is a signature over its content by our certificate.

Format: include/linux/module_signature.h: content, PKCS #7, struct module_signature (12 bytes), magic. Checked by
`openssl cms -verify`. Must not: see the private key.
"""

from __future__ import annotations

import base64
import contextlib
import os
from typing import BinaryIO, Optional

from ..model import Fault
from ..run import run

MAGIC = b"~Module signature appended~\n"
TRAILER = 12
PKCS7 = 2  # enum pkey_id_type
#: openssl-env(7): the machine's authorities, which nothing here is compared with, are not read, which takes longer.
NO_AUTHORITIES = {"SSL_CERT_FILE": "/dev/null", "SSL_CERT_DIR": "/dev/null"}
PEM = b"-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n"


def split(data: bytes) -> Optional[tuple[bytes, bytes]]:
    """Return an object's content and its PKCS #7 signature, None where it is not signed. Raises ValueError."""
    if not data.endswith(MAGIC):
        return None
    end = len(data) - len(MAGIC)
    trailer = data[end - TRAILER : end]
    length = int.from_bytes(trailer[8:12], "big")
    if len(trailer) != TRAILER or trailer[2] != PKCS7 or not 0 < length <= end - TRAILER:
        raise ValueError("the appended signature is damaged")
    start = end - TRAILER - length
    return data[:start], data[start : start + length]


def _in_memory(data: bytes) -> BinaryIO:
    """Return a file that no kill leaves behind, for a program that wants a path."""
    file = os.fdopen(os.memfd_create("kmodd"), "wb")
    file.write(data)
    file.flush()
    return file


def _path(file: BinaryIO) -> str:
    return f"/proc/self/fd/{file.fileno()}"


async def check(name: str, data: bytes, certificate: bytes) -> list[Fault]:
    """Return what is wrong with the signature of an uncompressed object. certificate: ours, DER."""
    hint = "kmodd signs it again when it is installed anew: remove the file and run kmoddctl sync"
    try:
        parts = split(data)
    except ValueError as error:
        return [Fault("signature-invalid", f"{name}: {error}", hint)]
    if parts is None:
        return [Fault("signature-missing", f"{name} is not signed", hint)]
    with contextlib.ExitStack() as stack:
        pem = PEM % base64.encodebytes(certificate)
        content, signature, ours = (stack.enter_context(_in_memory(part)) for part in (*parts, pem))
        argv = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", _path(signature)]
        argv += ["-content", _path(content), "-certfile", _path(ours), "-nointern", "-noverify", "-out", "/dev/null"]
        descriptors = [file.fileno() for file in (content, signature, ours)]
        done = await run(argv, check=False, pass_fds=descriptors, env=NO_AUTHORITIES)
    if done.status == 0:
        return []
    said = done.stderr.decode(errors="replace")
    if "signer certificate not found" in said:
        return [Fault("signature-foreign", f"{name} is signed by another key than kmodd's", hint)]
    return [Fault("signature-invalid", f"the signature of {name} does not fit its content", hint)]
