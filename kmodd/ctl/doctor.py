"""doctor: checks whether this host can do what kmodd asks of it, and says how to mend what it cannot."""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import asdict

from ..core.errors import Problem
from ..core.settings import Settings, SettingsSource
from ..core.sysroot import Sysroot
from ..host.settingsfile import read_settings
from ..reconcile.observe import make_observer
from ..system.log import configure
from . import DONE, FAILED, terminal
from .diagnosis import Finding, Host, machine, modules
from .parser import Command, add_nothing

LEVELS = ("fail", "warning", "ok")
COLUMN = max(map(len, LEVELS)) + 2


def run_doctor(options: argparse.Namespace) -> int:
    """kmoddctl doctor"""
    configure("critical")
    findings = asyncio.run(examine(Sysroot.at(options.root)))
    if options.json:
        print(json.dumps({"schema": 1, "checks": [asdict(finding) for finding in findings]}, indent=1))
    else:
        print("\n".join(_line(finding) for finding in findings))
        counts = [(level, sum(f.level == level for f in findings)) for level in LEVELS]
        print("\n" + ", ".join(terminal.paint(f"{count} {level}", level) for level, count in counts if count))
    return FAILED if any(finding.level == "fail" for finding in findings) else DONE


async def examine(sysroot: Sysroot) -> list[Finding]:
    """Return what all checks find on a root, those of the machine first."""
    findings = []
    settings = Settings()
    try:
        settings = read_settings(sysroot)
    except Problem as problem:
        findings.append(Finding("settings", "fail", problem.message, problem.hint))
    observer = make_observer(sysroot, SettingsSource(settings), brief=True)
    try:
        snapshot = await observer.observe()
    except Problem as problem:
        return [*findings, Finding("look", "fail", problem.message, problem.hint)]
    host = Host(sysroot, settings, observer, snapshot)
    for check in (*machine.CHECKS, *modules.CHECKS):
        findings += [finding async for finding in check(host)]
    return findings


def _line(finding: Finding) -> str:
    wrapped = terminal.wrap(f"{finding.level:<{COLUMN}}", terminal.clean(f"{finding.check}: {finding.text}"))
    text = terminal.paint(finding.level, finding.level) + wrapped[len(finding.level) :]
    return f"{text}\n    → {terminal.clean(finding.fix)}" if finding.fix else text


COMMANDS = {"doctor": Command(add_nothing, run_doctor)}
