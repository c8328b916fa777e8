"""Live events for whoever subscribed. Each is rendered once, and not at all where nobody listens.

Must not: wait for a subscriber. One that does not keep up gets TooSlow and no more events.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from .codec import Reply, encode_reply
from .interface import MANAGER, Refusal

MOST_EVENTS = 256  # that wait for one subscriber


class Subscription:
    """The events since somebody subscribed."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[Optional[bytes]] = asyncio.Queue(MOST_EVENTS)

    def put(self, message: bytes) -> None:
        if self._events.full():
            while not self._events.empty():
                self._events.get_nowait()
            self._events.put_nowait(None)
        else:
            self._events.put_nowait(message)

    async def next(self) -> bytes:
        """Return the next event as a reply that others follow. Raises Refusal TooSlow where some were lost."""
        message = await self._events.get()
        if message is None:
            raise Refusal(f"{MANAGER}.TooSlow")
        return message

    def left(self) -> Iterator[bytes]:
        """Yield the events that already wait."""
        while not self._events.empty():
            message = self._events.get_nowait()
            if message is not None:
                yield message


class Feed:
    """Gives each event to all subscriptions."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()

    def __bool__(self) -> bool:
        """Tell whether anybody listens."""
        return bool(self._subscriptions)

    @contextlib.contextmanager
    def subscribed(self) -> Iterator[Subscription]:
        subscription = Subscription()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def publish(self, event: Mapping[str, Any]) -> None:
        """Give an event to everybody. It must be one of the interface's type Event."""
        if self._subscriptions:
            message = render(event)
            for subscription in self._subscriptions:
                subscription.put(message)


def render(event: Mapping[str, Any]) -> bytes:
    """Return an event as a reply that others follow."""
    return encode_reply(Reply({"event": event}, continues=True))
