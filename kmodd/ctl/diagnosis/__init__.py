"""The checks of doctor. Each check is a function that yields findings; none of them changes anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Literal

from ...core.model import Snapshot
from ...core.settings import Settings
from ...core.sysroot import Sysroot
from ...reconcile.observe import Observer


@dataclass(frozen=True)
class Finding:
    """What a check found; fix is a command or sentence that helps, "" where nothing is to be done."""

    check: str
    level: Literal["ok", "warning", "fail"]
    text: str
    fix: str = ""


@dataclass(frozen=True)
class Host:
    """A root that was observed."""

    sysroot: Sysroot
    settings: Settings
    observer: Observer
    snapshot: Snapshot


Check = Callable[[Host], AsyncIterator[Finding]]
