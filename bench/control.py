"""1,000 clients that ask for the status at once, of 20 modules x 3 kernels: time, failures, the daemon's memory."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import world
from idle import read_status

from kmodd.control.client import Client
from kmodd.control.codec import Call, encode_call

CLIENTS = 1000
MODULES = 20
ROUNDS = 5
STATUS = encode_call(Call("io.kmodd.Manager.Status"))


async def ask(path: str, start: asyncio.Event) -> tuple[float, int]:
    """Connect, and ask at the start; returns the seconds that the answer took, and its size."""
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 26)
    await start.wait()
    began = time.monotonic()
    writer.write(STATUS)
    data = await reader.readuntil(b"\0")
    took = time.monotonic() - began
    assert json.loads(data[:-1])["parameters"]["schema"] == 1
    writer.close()
    return took, len(data)


async def ask_all(path: str) -> None:
    start = asyncio.Event()
    calls = [asyncio.ensure_future(ask(path, start)) for _ in range(CLIENTS)]
    await asyncio.sleep(1)
    began = time.monotonic()
    start.set()
    found = await asyncio.gather(*calls, return_exceptions=True)
    took = time.monotonic() - began
    good = sorted(item[0] for item in found if not isinstance(item, BaseException))
    size = next(item[1] for item in found if not isinstance(item, BaseException))
    print(
        f"{CLIENTS} connected clients ask at once: {took:.2f} s for all, median {statistics.median(good):.3f} s, "
        f"slowest {good[-1]:.3f} s, {len(found) - len(good)} failed, {size / 1024:.0f} KiB each"
    )


def status(path: str) -> dict[str, Any]:
    with Client(path) as client:
        return client.call("Status")


def main() -> None:
    with world.private_root() as root:
        for release in world.releases():
            world.install(root, release)
        world.add_modules(root, MODULES)
        log = root.parent / "log"
        with world.daemon(root, log) as child:
            world.wait_ready(root, MODULES * 3)
            path = str(root / "run/kmodd/io.kmodd.Manager")
            with Client(path) as client:
                looked = client.call("Verify")["looked"]
            before = read_status(child.pid)
            for _ in range(ROUNDS):
                asyncio.run(ask_all(path))
            after = read_status(child.pid)
            print(
                f"the daemon's memory: {before['VmRSS'] / 1024:.1f} MiB before, {after['VmRSS'] / 1024:.1f} after "
                f"{ROUNDS} rounds (peak {after['VmHWM'] / 1024:.1f}, {before['VmHWM'] / 1024:.1f} before); "
                f"{(after['ticks'] - before['ticks']) * 10 / CLIENTS / ROUNDS:.2f} ms of its processor a call; "
                f"{'no' if status(path)['looked'] == looked else 'a'} look meanwhile"
            )
            times = []
            for _ in range(200):
                began = time.monotonic()
                status(path)
                times.append(time.monotonic() - began)
            print(f"one client after the other: median {statistics.median(times) * 1000:.2f} ms")
            times = []
            for _ in range(15):
                began = time.monotonic()
                world.kmoddctl(root, "status")
                times.append(time.monotonic() - began)
            print(f"kmoddctl status by the daemon: median {statistics.median(times) * 1000:.0f} ms")
        times = []
        for _ in range(7):
            began = time.monotonic()
            world.kmoddctl(root, "status")
            times.append(time.monotonic() - began)
        print(f"kmoddctl status by a look of its own: median {statistics.median(times) * 1000:.0f} ms")


if __name__ == "__main__":
    main()
