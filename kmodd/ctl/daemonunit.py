"""The unit of the daemon as systemd has it, and what that means for a server. Must not: start or stop it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..core.sysroot import Sysroot
from ..system.run import run

UNIT = "kmodd.service"
ENABLED = ("enabled", "static", "linked", "alias", "enabled-runtime")
RUNNING = ("active", "reloading", "activating", "deactivating")  # the last two pass by themselves


@dataclass(frozen=True)
class UnitState:
    """What systemctl says: is-enabled ("" where there is no such unit) and is-active."""

    enabled: str
    active: str

    @property
    def is_enabled(self) -> bool:
        """Tell whether it is started at boot: then nobody else looks after the modules of this host."""
        return self.enabled in ENABLED

    @property
    def is_dead(self) -> bool:
        """Tell whether it is to run and does not."""
        return self.is_enabled and self.active not in RUNNING

    @property
    def is_grave(self) -> bool:
        """Tell whether it ended by a failure."""
        return self.is_dead and self.active == "failed"

    @property
    def text(self) -> str:
        return f"{UNIT} is {self.active or 'not running'}, so that new kernels get no modules"

    @property
    def hint(self) -> str:
        return "systemctl restart kmodd; journalctl -b -u kmodd tells why it ended"


def is_booted(sysroot: Sysroot) -> bool:
    """Tell whether systemd runs this very system (sd_booted(3))."""
    return sysroot.is_host and Path("/run/systemd/system").is_dir()


async def ask_unit(sysroot: Sysroot) -> Optional[UnitState]:
    """Return the state of the unit, None where systemd does not run. Raises Problem where it could not be asked."""
    if not is_booted(sysroot):
        return None
    said = [
        (await run(["systemctl", word, UNIT], check=False, timeout=20)).text for word in ("is-enabled", "is-active")
    ]
    return UnitState(said[0].strip(), said[1].strip())
