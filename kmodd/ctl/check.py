"""kmoddctl check: one line and an exit status for a monitoring system, by the convention of the Monitoring Plugins.

OK 0, WARNING 1, CRITICAL 2, UNKNOWN 3; then "|" and performance data, label=value;warn;crit;min;max; further lines are
details (https://www.monitoring-plugins.org/doc/guidelines.html).
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from ..core.documents.grouping import group
from ..core.errors import Problem
from ..core.model import Judgement, Target, Verdict
from ..core.planner import find_refusals
from ..core.rootwarnings import summarize
from ..watch.transaction import transaction_holder
from .answers import as_row, read_warnings
from .daemonunit import UnitState, ask_unit
from .gate import choose_kernel, required_targets
from .inprocess import Observed, observe
from .parser import Command, add_choice_of_kernel
from .terminal import clean

OK, WARNING, CRITICAL, UNKNOWN = 0, 1, 2, 3
WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
HELD, HELD_LONG = 3600.0, 7 * 86400.0  # seconds for which a kernel may be held: then a warning, then critical
COUNTED = (Verdict.READY, Verdict.BUILDING, Verdict.WAITING, Verdict.BLOCKED, Verdict.FAILED)


@dataclass(frozen=True)
class Answer:
    """The answer to a monitoring system."""

    state: int
    text: str
    counts: dict[str, int] = field(default_factory=dict)
    details: tuple[str, ...] = ()


def run_check(options: argparse.Namespace) -> int:
    """kmoddctl check [--kernel R | --default | --all]"""
    try:
        seen = observe(options)
        answer = grade(seen, options, transaction_holder(seen.sysroot), read_warnings(options.root, seen))
        answer = with_unit(answer, asyncio.run(ask_unit(seen.sysroot)), has_held(seen.status()))
    except Problem as problem:
        answer = Answer(UNKNOWN, problem.message, details=(problem.hint,) if problem.hint else ())
    except Exception as error:  # a monitoring system must learn that its check is broken, whatever the error is
        answer = Answer(UNKNOWN, f"internal error: {type(error).__name__}: {error}")
    print(as_json(answer) if options.json else as_text(answer))
    return answer.state


def grade(
    seen: Observed,
    options: argparse.Namespace,
    transaction: Optional[int],
    warnings: Sequence[dict[str, Any]] = (),
) -> Answer:
    """Return the answer to an observation. Raises Problem kernel-unknown.

    transaction: pid of the process that is in an rpm transaction. warnings: of the whole root, as JSON has them.
    """
    present = {kernel.release for kernel in seen.snapshot.present()}
    if not present and options.kernel is None:
        return Answer(OK, "no kernel is installed")
    following, chosen = choose_kernel(seen.snapshot, options.kernel)
    looked_at = {following} if options.kernel or options.default else present
    grave = {following, *(present if options.all else {r for r in present if seen.snapshot.kernels[r].running})}
    targets = {t: j for t, j in sorted(seen.judgements.items()) if t.kernel in looked_at}
    required = required_targets(seen.snapshot, targets)
    state = OK
    details: list[str] = []
    rows = []  # of the targets that are not ready
    for target, judgement in targets.items():
        if judgement.verdict in (Verdict.READY, Verdict.EXCLUDED):
            unsafe = seen.snapshot.refusal(target)
            refusals = [*([unsafe] if unsafe else []), *find_refusals(target, seen.snapshot)]
            for refusal in refusals if judgement.verdict is Verdict.READY else ():
                state = max(state, WARNING)
                details.append(f"WARNING: {target}: ready, but not built again: {refusal.message} -> {refusal.hint}")
            continue
        passing = judgement.verdict is Verdict.BUILDING and seen.holder is not None
        passing = passing or (judgement.verdict is Verdict.WAITING and transaction is not None)
        graded = CRITICAL if target in required and target.kernel in grave and not passing else WARNING
        state = max(state, graded)
        rows.append({**as_row(target, judgement, seen.holder), "grade": graded})
    details += [f"{WORDS[one.rows[0]['grade']]}: {one.subject}: {one.text}" for one in group(rows, "grade")]
    for warning in warnings:
        state = max(state, WARNING)
        details.append(f"WARNING: {warning['message']}" + (f" -> {warning['hint']}" if warning["hint"] else ""))
    boot = _boot_findings(seen)
    state = max((state, *(graded for graded, _ in boot)))
    details += [f"{WORDS[graded]}: {text}" for graded, text in boot]
    counts = {verdict.value: sum(j.verdict is verdict for j in targets.values()) for verdict in COUNTED}
    text = _summary(seen, targets, rows, following, chosen)
    text += f"; {summarize(warnings)}" if warnings else ""
    text += f"; an rpm transaction is running (pid {transaction})" if transaction is not None else ""
    return Answer(state, text + ("" if seen.holder else "; kmodd is not running"), counts, tuple(details))


def with_unit(answer: Answer, unit: Optional[UnitState], holds: bool) -> Answer:
    """Return an answer to which the state of the daemon's unit is added. holds: a kernel is held for want of modules.

    Only an unattended host is graded by it, one on which the unit is enabled.
    """
    if unit is None or not unit.is_dead:
        return answer
    graded = CRITICAL if unit.is_grave or holds else WARNING
    detail = f"{WORDS[graded]}: {unit.text} -> {unit.hint}"
    text = answer.text.replace("; kmodd is not running", "")
    return replace(
        answer, state=max(answer.state, graded), text=f"{text}; {unit.text}", details=(*answer.details, detail)
    )


def has_held(status: Mapping[str, Any]) -> bool:
    """Tell whether a status has a kernel that is kept from booting until its modules are ready."""
    return any(kernel.get("held") is not None for kernel in status["kernels"])


def _boot_findings(seen: Observed) -> list[tuple[int, str]]:
    """Return what is wrong with how the server boots, each with its grade."""
    guarding = seen.guarding
    found = []
    for standing in guarding.standings().values():
        if standing.held is not None:
            held_for = seen.looked - standing.held.since
            graded = CRITICAL if held_for > HELD_LONG else WARNING if held_for > HELD else OK
            hint = f"kmoddctl boot release {standing.release} --force makes it bootable as it is"
            text = f"{standing.release} is held, not bootable, since it is not ready: {standing.why} -> {hint}"
            found.append((graded, text))
    behind = guarding.find_behind()
    if behind is not None and behind.held is None:
        found.append((OK, f"{behind.fault.message} -> {behind.fault.hint}"))
    for fault in guarding.faults():
        graded = CRITICAL if fault.problem == "no-proven-kernel" else WARNING
        found.append((graded, f"{fault.message} -> {fault.hint}"))
    return found


def _summary(
    seen: Observed, targets: dict[Target, Judgement], rows: Sequence[Mapping[str, Any]], following: str, chosen: str
) -> str:
    if not seen.snapshot.modules and not seen.snapshot.broken:
        return "no modules are registered"
    held = [r for r, k in sorted(seen.snapshot.kernels.items()) if k.present and r in seen.snapshot.booting.held]
    more = f"; {', '.join(held)} held" if held else ""
    if not rows:
        kernels = len({target.kernel for target in targets})
        ready = sum(judgement.verdict is Verdict.READY for judgement in targets.values())
        return f"{ready} ready on {kernels} kernel{'s' if kernels != 1 else ''}{more}"
    word = {"default-boot": "boots next", "newest": "newest"}.get(chosen)
    parts = []
    for release in sorted({row["kernel"] for row in rows}, key=lambda r: (r != following, r)):
        marks = [word] if word and release == following else []
        marks += ["running"] if seen.snapshot.kernels[release].running else []
        mark = f" ({', '.join(marks)})" if marks else ""
        parts.append(f"{release}{mark}: {', '.join(_lacking(rows, release))}")
    return "; ".join(parts) + more


def _lacking(rows: Sequence[Mapping[str, Any]], release: str) -> list[str]:
    """Return what a kernel lacks, such as "alpha failed", "33 modules waiting"."""
    return [f"{one.modules} {one.verdict}" for one in group(row for row in rows if row["kernel"] == release)]


def as_text(answer: Answer) -> str:
    """Return the lines that the convention asks for: "|" begins performance data, a line break ends the first line."""
    total = sum(answer.counts.values())
    performance = " ".join(f"{name}={count};;;0;{total}" for name, count in answer.counts.items())
    lines = [f"KMODD {WORDS[answer.state]} - {answer.text}", *answer.details]
    plain = [clean(" ".join(line.replace("|", "/").splitlines())) for line in lines]
    plain[0] += f" | {performance}" if performance else ""
    return "\n".join(plain)


def as_json(answer: Answer) -> str:
    """Return the same as JSON."""
    document = {"schema": 1, "state": WORDS[answer.state], "exit": answer.state, "text": answer.text}
    return json.dumps({**document, "counts": answer.counts, "details": answer.details}, indent=1)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    group = add_choice_of_kernel(parser)
    group.add_argument("--all", action="store_true", help="every kernel, each as if it booted next")


COMMANDS = {"check": Command(_add_arguments, run_check)}
