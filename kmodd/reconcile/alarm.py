"""When the next pass is due although nothing happens. Must not: set a timer; the daemon does."""

from __future__ import annotations

import time
from typing import Optional


class Alarm:
    """The earliest of the moments that one pass asked for, time.monotonic(); None where only events help."""

    def __init__(self) -> None:
        self.when: Optional[float] = None

    def reset(self) -> None:
        """Forget the moments of the pass before."""
        self.when = None

    def want(self, when: float) -> None:
        """Ask for a pass that begins no later than that, time.monotonic()."""
        self.when = when if self.when is None else min(self.when, when)

    def want_in(self, seconds: float) -> None:
        self.want(time.monotonic() + seconds)
