"""The signing key: key generate, key show."""

from __future__ import annotations

import argparse
import asyncio
import json

from ..config import read_settings
from ..errors import Problem
from ..log import configure
from ..paths import Sysroot
from ..sign import Keyring
from . import DONE


def run_key(options: argparse.Namespace) -> int:
    """kmoddctl key generate|show"""
    configure("error")
    sysroot = Sysroot.at(options.root)
    settings = read_settings(sysroot).sign
    keyring = Keyring(sysroot, settings.key, settings.certificate)
    if options.verb == "generate":
        asyncio.run(keyring.generate(options.algorithm or settings.algorithm))
    signer = keyring.signer()
    if signer.fault is not None:
        raise Problem(signer.fault.problem, signer.fault.message, signer.fault.hint)
    facts = asyncio.run(keyring.certificate_facts())
    if options.json:
        print(json.dumps({"schema": 1, "certificate": settings.certificate, "key": settings.key, **facts}))
    else:
        print(f"certificate: {settings.certificate}\nkey:         {settings.key}")
        print("\n".join(f"{name + ':':<12} {value}" for name, value in facts.items()))
    return DONE
