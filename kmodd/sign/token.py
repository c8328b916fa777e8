"""Signatures by a private key that never leaves a PKCS #11 token.

sign-file reaches tokens through whatever its openssl was when the kernel was built: an engine, or since Linux 6.14 and
in stable trees a provider, which a distribution may not have. So openssl cms(1) makes the signature, by whichever of
the two is here, with the flags that scripts/sign-file.c sets, and sign-file -s appends it. Must not: open a key file.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Union

from ..core.errors import Problem
from ..system.run import Finished, find_accident, run

#: How openssl is made to use the token: for OpenSSL 3 by pkcs11-provider, before and beside it by libp11's engine.
ROADS = (
    (("list", "-providers", "-provider", "pkcs11"), ("-provider", "pkcs11", "-provider", "default")),
    (("engine", "pkcs11"), ("-engine", "pkcs11", "-keyform", "engine")),
)
#: How a program ends that crashes, rather than being killed by somebody.
CRASHES = tuple(-number for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL))
#: A line of ERR_print_errors(3) for which the token itself is to blame, such as "PIN incorrect".
REFUSED = re.compile(rb":PKCS#11 module:|:pkcs11:|could not read signing key", re.IGNORECASE)


async def find_road(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the options that let openssl use tokens. Raises Problem token-unsupported."""
    for question, options in ROADS:
        done = await run(["openssl", *question], check=False, env=environment)
        if done.status == 0 and b"rror" not in done.stderr:
            return options
    text = "openssl can use no PKCS #11 token: it has neither the provider nor the engine"
    raise Problem("token-unsupported", text, "dnf install pkcs11-provider, or on EL8 and EL9 openssl-pkcs11")


def message_of(content: Path) -> Path:
    """Return where the signature of a file lies until it is appended."""
    return content.with_name(f"{content.name}.p7s")


async def sign(
    content: Path, message: Path, uri: str, certificate: Path, hash: str, pin: str, environment: Mapping[str, str]
) -> Finished:
    """Sign a file by the key of a pkcs11: URI; writes the PKCS #7 message (DER), and returns how openssl ended.

    certificate: PEM or DER. pin: the name of the environment variable that holds it. Raises Problem
    token-unsupported, tool-missing, tool-killed, tool-timeout, tool-failed.
    """
    road = await find_road(environment)
    pem = content.with_name(f"{content.name}.pem")
    try:
        done = await run(["openssl", "x509", "-in", certificate, "-out", pem], check=False)
        if done.status == 0:
            argv: list[Union[str, Path]] = ["openssl", "cms", "-sign", "-binary", "-noattr", "-nocerts", "-nosmimecap"]
            argv += ["-keyid", "-md", hash, "-outform", "DER", "-in", content, "-out", message, "-signer", pem]
            argv += ["-inkey", uri, *road, "-passin", f"env:{pin}"]
            done = _end_of(await run(argv, check=False, raw=True, env={pin: "", **environment}, stdin=b""))
    finally:
        pem.unlink(missing_ok=True)
    return done


def _end_of(done: Finished) -> Finished:
    """Return how openssl ended. Raises Problem tool-killed, tool-failed.

    Libraries of tokens crash openssl on its way out, after it said what is wrong (libp11 0.4.12 with SoftHSM 2.6 after
    a wrong PIN). That is no accident, and to try again would lock the token.
    """
    if done.status in CRASHES and REFUSED.search(done.stderr):
        return Finished(1, done.stdout, done.stderr)
    accident = find_accident("openssl", done)
    if accident is not None:
        raise accident
    return done
