"""Whether an object's appended signature is a signature over its content by our certificate.

Checked by `openssl cms -verify`, and that the kernel would read it so, too (cms.py). Must not: see the private key.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import BinaryIO, Optional, Union

from ..core.errors import Problem
from ..core.model import Demand, Fault
from ..system.run import explain, find_accident, run
from . import cms
from .content import Signed

#: openssl-env(7): the machine's authorities, which nothing here is compared with, are not read, which takes longer.
NO_AUTHORITIES = {"SSL_CERT_FILE": "/dev/null", "SSL_CERT_DIR": "/dev/null"}
HINT = "kmodd signs it again when it is installed anew: remove the file and run kmoddctl sync"
#: What openssl 3 says of a signature that is none over the content, or is no PKCS #7 message of one signer at all: the
#: reasons of its libraries for CMS, ASN.1 and keys that say so.
BAD = re.compile(
    r":verification failure|:bad signature|:wrong signature length|:messagedigest|:asn1 encoding routines:"
    r"|:content type not signed data|:type not data|:unsupported content type|:content type mismatch|:no content"
    r"|:no signers|:no matching digest"
)
#: And where it may not, or cannot, use what the signature was made by, such as in FIPS mode: it says nothing of that.
UNABLE = re.compile(
    r":unknown digest algorithm|:unsupported(?: algorithm| signature algorithm)?:|:invalid digest|:digest not allowed"
    r"|:not supported for this key type|:no default digest|:operation not supported for this keytype"
)
PEM = b"-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n"


def _in_memory(data: Union[bytes, memoryview]) -> BinaryIO:
    """Return a file that no kill leaves behind, for a program that wants a path."""
    file = os.fdopen(os.memfd_create("kmodd"), "wb")
    file.write(data)
    file.flush()
    return file


def _path(file: BinaryIO) -> str:
    return f"/proc/self/fd/{file.fileno()}"


async def check(name: str, signed: Signed, certificate: bytes) -> list[Fault]:
    """Return what is wrong with the signature of an object. certificate: ours, DER.

    Raises OSError and Problem where it could not be checked.
    """
    if not signed.signature:
        return [Fault("signature-missing", f"{name} is not signed", HINT)]
    damage = cms.find_damage(signed.signature)
    if damage:
        return [Fault("signature-invalid", f"the signature of {name} is damaged: {damage}", HINT)]
    foreign = Fault("signature-foreign", f"{name} is signed by another key than kmodd's", HINT)
    if not cms.is_by(signed.signature, certificate):
        return [foreign]
    parts = (signed.content, signed.signature)
    with contextlib.ExitStack() as stack:
        pem = PEM % base64.encodebytes(certificate)
        content, signature, ours = (stack.enter_context(_in_memory(part)) for part in (*parts, pem))
        argv = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", _path(signature)]
        argv += ["-content", _path(content), "-certfile", _path(ours), "-nointern", "-noverify", "-out", "/dev/null"]
        descriptors = [file.fileno() for file in (content, signature, ours)]
        done = await run(argv, check=False, pass_fds=descriptors, env=NO_AUTHORITIES)
    if done.status == 0:
        return []
    accident = find_accident("openssl", done)
    if accident:
        raise Problem(accident.code, accident.message, transient=True)
    said = done.stderr.decode(errors="replace")
    if "signer certificate not found" in said:
        return [foreign]
    fault = read_refusal(name, said)
    if fault is None:
        problem = explain("openssl", done)
        raise Problem(problem.code, problem.message, transient=True)
    return [fault]


def read_refusal(name: str, said: str) -> Optional[Fault]:
    """Return what openssl's messages say of an object's signature, None where that is not known."""
    if UNABLE.search(said):
        text = f"whether the signature of {name} fits its content is not known: openssl here does not do its algorithm"
        return Fault("signature-untold", text, "openssl list -digest-algorithms; see whether this host is in FIPS mode")
    if BAD.search(said):
        return Fault("signature-invalid", f"the signature of {name} does not fit its content", HINT)
    return None


def judge(faults: Sequence[Fault], demand: Demand) -> tuple[Sequence[Fault], str]:
    """Return what is wrong with a signature in the words that a kernel's demand makes it, and a check's outcome.

    One that is missing, or of a kind that the kernel does not know, keeps from loading only where it demands one: to
    module_sig_check() the object is unsigned.
    """
    if any(fault.problem == "signature-untold" for fault in faults):
        return faults, "untold"
    missing = next((fault for fault in faults if fault.problem == "signature-missing"), None)
    if missing is None or demand.enforced:
        return faults, "failed"
    if demand.doubt:
        text = f"{missing.message}, and whether this kernel takes it cannot be determined: {demand.doubt}"
        return [replace(missing, message=text)], "untold"
    return [replace(missing, message=f"{missing.message}: the kernel takes it all the same, tainted by it")], "warning"
