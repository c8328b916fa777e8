"""When what could not be read is read again. Must not: know what that is."""

from __future__ import annotations

from collections.abc import Collection
from typing import Generic, TypeVar

from ..core.settings import SettingsSource

_Subject = TypeVar("_Subject")


class Pauses(Generic[_Subject]):
    """The pauses of subjects: the first one, then twice as long each time that reading fails again after it."""

    def __init__(self, settings: SettingsSource) -> None:
        self.settings = settings
        self._pauses: dict[_Subject, tuple[float, float]] = {}  # its length, and when it is over

    def note(self, failed: Collection[_Subject], now: float) -> dict[_Subject, float]:
        """Note those that could not be read; returns when each is read again. Times in s since the epoch.

        What happens to be read meanwhile, for other reasons, makes no pause longer.
        """
        retry = self.settings.now.retry
        for subject in self._pauses.keys() - set(failed):
            del self._pauses[subject]
        for subject in failed:
            length, over = self._pauses.get(subject, (0.0, now))
            if now >= over or over - now > retry.longest:  # the clock was changed
                length = min(max(2 * length, retry.first), retry.longest)
                self._pauses[subject] = (length, now + length)
        return {subject: over for subject, (_, over) in self._pauses.items()}
