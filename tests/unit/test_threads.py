"""Work in a thread is waited for, also where it is cancelled."""

from __future__ import annotations

import asyncio
import threading

import pytest

from kmodd.system.threads import finish_in_thread


def test_cancellation_comes_into_effect_when_the_work_has_ended() -> None:
    began, goes_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        goes_on.wait()
        ended.set()

    async def main() -> None:
        task = asyncio.ensure_future(finish_in_thread(work))
        await asyncio.to_thread(began.wait)
        task.cancel()
        for _ in range(100):
            await asyncio.sleep(0)
        assert not task.done()
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(main())


def test_result_and_error_are_those_of_the_work() -> None:
    assert asyncio.run(finish_in_thread(divmod, 7, 2)) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(finish_in_thread(divmod, 7, 0))
