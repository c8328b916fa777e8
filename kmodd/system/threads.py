"""Work in a thread that is waited for also where nobody wants its result any more.

asyncio.to_thread() cannot stop the thread: once it is cancelled, the thread goes on beside whatever follows, such as
the deletion of the directory that it writes to. Must not: be used for what may take long.
"""

from __future__ import annotations

import asyncio
from typing import Any, Callable, TypeVar

_Result = TypeVar("_Result")


async def finish_in_thread(work: Callable[..., _Result], *words: Any) -> _Result:
    """Do some work in a thread; where this is cancelled, that comes into effect when the work has ended."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *words))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # of what nobody waits for
        raise
