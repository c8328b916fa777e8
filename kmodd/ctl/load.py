"""load: has systemd-modules-load load what is to be loaded at boot, and keeps what the modules' init functions said.

That a driver finds no device is no fault of the module; nothing on the disk tells, so it is kept for the status. Must
not: load anything itself, or judge.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import time
from collections.abc import Collection

from ..core.errors import Problem
from ..core.model import Target
from ..core.modulefile import canonical
from ..core.record import BootRecord, InitRefusal
from ..core.sysroot import MODULES_LOAD, Sysroot
from ..host.registry import RegistryReader
from ..host.store import Store
from ..system.files import explained
from ..system.run import find_accident, run
from . import DONE, FAILED
from .parser import Command, add_nothing

#: What systemd says of a module whose load ended with ENODEV; versions differ in one word.
NO_DEVICE = re.compile(r"Failed to insert (?:module )?'([^']+)': No such device$", re.MULTILINE)
#: sd_notify's log goes to standard error whoever calls.
ENVIRONMENT = {"SYSTEMD_LOG_TARGET": "console", "SYSTEMD_LOG_COLOR": "0", "SYSTEMD_LOG_LEVEL": "info"}


def find_refused(said: str) -> frozenset[str]:
    """Return the canonical names of modules that found no device, by what systemd-modules-load printed."""
    return frozenset(canonical(name) for name in NO_DEVICE.findall(said))


def are_live(sysroot: Sysroot, store: Store, release: str, refused: Collection[str]) -> bool:
    """Tell whether what required modules load at boot is loaded now, but for what found no device."""
    loaded = {line.split(" ", 1)[0] for line in sysroot.loaded_modules.read_text().splitlines()}
    records = store.records()
    found = RegistryReader(sysroot).read()
    for name, module in found.modules.items():
        record = records.get(Target(name, release))
        if not (module.enabled and module.required) or record is None:
            continue  # whether it lacks is the gate's, which comes before this
        names = {canonical(item) for item in module.file.load.at_boot}
        if record.installed is None or names - loaded - {*refused}:
            return False
    return not found.broken


def run_load(options: argparse.Namespace) -> int:
    """kmoddctl load"""
    sysroot = Sysroot.at(options.root)
    if not sysroot.is_host:
        text = "modules are loaded into the running kernel, from its own root alone"
        raise Problem("root-not-running", text, "give the command without --root")
    done = asyncio.run(run([MODULES_LOAD], check=False, env=ENVIRONMENT, timeout=None))
    said = done.stderr.decode(errors="replace")
    sys.stderr.write(said)
    accident = find_accident(MODULES_LOAD.name, done)
    if accident:
        raise accident
    release, refused = os.uname().release, find_refused(said)
    store = Store(sysroot)
    found = [
        InitRefusal(name=canonical(item.name), built=item.built, when=time.time())
        for target, record in sorted(store.records().items())
        if target.kernel == release and record.installed
        for item in record.installed.objects
        if canonical(item.name) in refused
    ]
    live = time.time() if are_live(sysroot, store, release, refused) else None
    with explained("storing what modules said at boot"):
        store.write_boot(BootRecord(kernel=release, refused=tuple(found), live=live))
    return DONE if done.status == 0 else FAILED


COMMANDS = {"load": Command(add_nothing, run_load)}
