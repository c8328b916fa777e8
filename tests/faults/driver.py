"""make faults: random faults strike a real daemon on a private root, and what must hold is checked after each.

    make faults [SEED=1] [CASES=300] [WORKERS=2] [KIND=name] [FIRST=0]

Case N of a seed is the same fault at the same moment each time, as far as a moment can be repeated: FIRST=N CASES=1
repeats one. Each worker has an arena of its own, a new one every 20 cases, on ext4, on ext4 with its riskiest options
and on xfs. Prints how many cases of each kind there were, and each violation with its number; ends with status 1 if
there was one. Cases in which there was nothing to strike are told apart.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Optional

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from arena import Arena, Guard, Violation, make_template  # noqa: E402
from faults import KINDS, deal  # noqa: E402
from ground import kernels, privateroot  # noqa: E402
from powercut import KINDS as DISKS  # noqa: E402

SERIES = "6.1"
CASES_OF_AN_ARENA = 20
COMPRESSIONS = ("xz", "zstd")


def begin(arena: Arena, rng: random.Random) -> bool:
    """Give the daemon work; tells whether objects stay where they are meanwhile."""
    if rng.random() < 0.25:
        shutil.rmtree(arena.root / "usr/lib/modules" / arena.kernel / "extra/good", ignore_errors=True)
        arena.ring()
        return False
    for name in rng.choice((("good",), ("two",), ("good", "two", "bad"), ("good", "two"))):
        arena.write_sources(name)
    arena.ring()
    return True


def run_case(arena: Arena, kind: str, number: int, seed: int) -> dict[str, Any]:
    """Strike once, and check. Returns what came of it."""
    rng = random.Random(seed * 1_000_003 + number)
    began, said, wrong = time.monotonic(), "", ""
    try:
        if not arena.is_alive():
            arena.start()
        arena.settle()
        arena.check_log()
        with Guard(arena) as guard:
            stays = begin(arena, rng)
            said = KINDS[kind][1](arena, rng)
            if not arena.is_alive():
                if arena.child is not None and arena.child.returncode not in (0, -9):
                    raise Violation(f"the daemon ended by itself with status {arena.child.returncode}")
                arena.start()
            arena.ring()
            arena.settle()
        if stays:
            guard.check()
        arena.check()
    except Violation as violation:
        wrong = str(violation)
    except Exception:
        wrong = f"the driver failed: {traceback.format_exc()}"
    result = {"number": number, "kind": kind, "said": said, "wrong": wrong, "took": time.monotonic() - began}
    return {**result, "stop": arena.slowest_stop}


def work(options: argparse.Namespace) -> None:
    """Do the cases of one worker, and print what came of each as a line of JSON."""
    dealt = deal(options.seed, options.first + options.cases)
    mine = range(options.first + options.worker, options.first + options.cases, options.workers)
    top = Path(options.ground)
    arena: Optional[Arena] = None
    made = 0
    try:
        for count, number in enumerate(mine):
            if arena is None or count % CASES_OF_AN_ARENA == 0:
                if arena:
                    arena.close()
                kind = list(DISKS)[(options.worker + made) % len(DISKS)]
                template = top / COMPRESSIONS[(options.worker + made) % len(COMPRESSIONS)]
                arena = Arena(top / f"arena-{options.worker}-{made}", template, options.kernel, kind)
                made += 1
            result = run_case(arena, options.kind or dealt[number], number, options.seed)
            if result["wrong"]:
                result["where"] = keep(arena, options, result)
                arena.close()
                arena = None
            print(json.dumps(result), flush=True)
    finally:
        if arena:
            arena.close()


def keep(arena: Arena, options: argparse.Namespace, result: dict[str, Any]) -> str:
    """Keep the log of a case that went wrong; returns where."""
    place = Path(options.report)
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{options.seed}-{result['number']}.log"
    path.write_text(f"{json.dumps(result, indent=1)}\n{arena.log.read_text(errors='replace')}")
    return str(path)


def prepare(top: Path) -> str:
    """Make the templates, one for each compression; returns the kernel's release."""
    (release,) = kernels.pick(SERIES, 1)
    for compression in COMPRESSIONS:
        files = kernels.make(release, top / f"rpms-{compression}", slim=True, compression=compression)
        make_template(top / compression, files)
        shutil.rmtree(top / f"rpms-{compression}")
    return release


def report(results: list[dict[str, Any]], seconds: float) -> int:
    """Print the table, and what went wrong; returns the exit status."""
    kinds: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in KINDS}
    for result in results:
        outcome = "wrong" if result["wrong"] else "struck" if result["said"] else "missed"
        kinds[result["kind"]][outcome] += 1
    print(f"\n{'fault':<26}{'struck':>8}{'nothing there':>15}{'violations':>12}")
    for name, counts in kinds.items():
        if counts:
            print(f"{name:<26}{counts['struck'] + counts['wrong']:>8}{counts['missed']:>15}{counts['wrong']:>12}")
    total = collections.Counter(o for counts in kinds.values() for o in counts.elements())
    struck = total["struck"] + total["wrong"]
    print(f"{'together':<26}{struck:>8}{total['missed']:>15}{total['wrong']:>12}")
    slowest = max((result["stop"] for result in results), default=0)
    print(f"{seconds / 60:.1f} min; the slowest stop took {slowest:.1f} s")
    for result in results:
        if result["wrong"]:
            print(f"\ncase {result['number']}, {result['kind']} {result['said']}: {result['where']}\n{result['wrong']}")
    return 1 if total["wrong"] else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="random faults on a private root")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kind", default="", choices=["", *KINDS])
    parser.add_argument("--report", default="/tmp/kmodd-faults", help="where logs of what went wrong are put")
    parser.add_argument("--worker", type=int, default=-1, help=argparse.SUPPRESS)
    parser.add_argument("--ground", default="", help=argparse.SUPPRESS)
    parser.add_argument("--kernel", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker >= 0:
        work(options)
        return 0
    began = time.monotonic()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="kmodd-faults.", dir=privateroot.find_scratch(4096)) as name:
        Path(name).chmod(0o755)
        kernel = prepare(Path(name))
        own = ["--ground", name, "--kernel", kernel]
        workers = [
            subprocess.Popen(
                [sys.executable, __file__, *sys.argv[1:], *own, "--worker", str(number)], stdout=subprocess.PIPE
            )
            for number in range(options.workers)
        ]
        try:
            collect(workers, results, options.cases)
        finally:
            for worker in workers:
                worker.terminate()
                worker.wait()
    return report(results, time.monotonic() - began)


def collect(workers: list[subprocess.Popen[bytes]], results: list[dict[str, Any]], cases: int) -> None:
    """Take the results of all workers as they come, and print a line for each."""
    import selectors

    with selectors.DefaultSelector() as selector:
        for worker in workers:
            assert worker.stdout is not None
            selector.register(worker.stdout, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                line = key.fileobj.readline()  # type: ignore[union-attr]
                if not line:
                    selector.unregister(key.fileobj)
                    continue
                result = json.loads(line)
                results.append(result)
                mark = "WRONG " + result["wrong"][:200] if result["wrong"] else "held" if result["said"] else "missed"
                said = f"{result['kind']} {result['said']}"
                print(
                    f"{len(results):>4}/{cases} case {result['number']}: {said}: {mark} ({result['took']:.0f} s)",
                    flush=True,
                )


if __name__ == "__main__":
    sys.exit(main())
