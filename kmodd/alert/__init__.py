"""Reports what changed to others: each module is one way, an observer (report.Observer) of reconcile passes.

Must not: decide what is wrong, or delay a pass.
"""

from __future__ import annotations

from typing import Optional

from ..core.report import Report
from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..system.log import get_logger
from .metrics import Metrics
from .motd import Motd
from .notifycommand import Command, FindOwner
from .verdicts import log_boot, log_changes


class Alerts:
    """All ways of reporting. One that cannot write its file stops no other, and is logged once."""

    def __init__(self, sysroot: Sysroot, settings: SettingsSource, find_owner: FindOwner) -> None:
        """find_owner: as Command's."""
        self.metrics = Metrics(sysroot, settings)
        self.motd = Motd(sysroot)
        self.command = Command(sysroot, settings, find_owner)
        self._logged = ""

    def __call__(self, previous: Optional[Report], now: Report) -> None:
        log_changes(previous, now)
        log_boot(previous, now)
        self.command(previous, now)
        self.write(previous, now)

    def write(self, previous: Optional[Report], now: Report) -> None:
        """Bring the files up to date; kmoddctl sync has nothing else to report."""
        faults = []
        for write in (self.metrics, self.motd):
            try:
                write(previous, now)
            except OSError as error:
                faults.append(f"{error.filename}: {error.strerror}")
        text = "; ".join(faults)
        if text and text != self._logged:
            hint = "systemd.exec(5) ReadWritePaths= lets a unit write there; see kmodd.toml(5)"
            get_logger().warning("alert not written", reason=text, hint=hint)
        self._logged = text

    async def stop(self) -> None:
        """Stop a command that runs."""
        await self.command.stop()
