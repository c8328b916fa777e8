"""The commands that bring a root to what its registry says: sync and rebuild, by the daemon where it runs.

Imports nothing heavy: what observes and changes the root is imported when there is no daemon.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from ..core.documents.choosing import Document, check_names, choose
from ..core.errors import Problem
from . import DONE, FAILED
from .answers import exit_code
from .connection import ask
from .parser import Command, add_dry_run, add_optional_target
from .plan import print_plan
from .status import print_status
from .watch import sync_by_daemon


def run_sync(options: argparse.Namespace) -> int:
    """kmoddctl sync"""
    options.module = options.kernel = None
    if options.dry_run:
        from .inprocess import observe

        print_plan(observe(options).plan(), options.json)
        return DONE
    document = sync_by_daemon(options.root, options.verbose)
    if document is None:
        from .applying import sync_here

        document = sync_here(options)
    return _show(options, document)


def run_rebuild(options: argparse.Namespace) -> int:
    """kmoddctl rebuild [MODULE] [--kernel R]"""
    chosen = {"module": options.module, "kernel": options.kernel}
    began = time.time()
    asked = None if options.dry_run else ask(options.root, "Rebuild", **chosen)
    if asked is not None:
        if not asked["targets"]:
            return _nothing(options)
        document = sync_by_daemon(options.root, options.verbose)
        if document is None:
            raise Problem("daemon-unreachable", "kmodd stopped meanwhile", "it goes on when it is started")
        return _show(options, _with_attempts(document, asked["targets"], began))
    from .applying import repeatable, sync_here
    from .inprocess import observe

    seen = observe(options)
    check_names(seen.status(), options.module, options.kernel)
    targets, plan = repeatable(seen, options.module, options.kernel)
    if not targets:
        return _nothing(options)
    if options.dry_run:
        print_plan(plan, options.json)
        return DONE
    return _show(options, sync_here(options, targets))


def _nothing(options: argparse.Namespace) -> int:
    said = f"{options.module} was not built yet" if options.module else "nothing failed"
    print(json.dumps({"schema": 1, "done": said}) if options.json else said)
    return DONE


def _with_attempts(document: Document, targets: list[dict[str, str]], began: float) -> Document:
    """Return a status whose failures have the attempts at some targets since a moment, which may precede the sync."""
    asked, failures = [(t["module"], t["kernel"]) for t in targets], list(document["failures"])
    for target in document["targets"]:
        attempt = target["last_attempt"] or {"outcome": "", "ended": 0}
        one = {"module": target["module"], "kernel": target["kernel"]}
        is_known = any({**failure, **one} == failure for failure in failures)
        failed = attempt["outcome"] == "failed" and attempt["ended"] >= began
        if failed and not is_known and tuple(one.values()) in asked:
            failures.append({**one, "problem": attempt["problem"], "message": attempt["message"], "hint": ""})
    return {**document, "failures": failures}


def _show(options: argparse.Namespace, document: Document) -> int:
    """Print what a sync left; returns the exit code: that of the state, or 1 if a step failed meanwhile."""
    chosen = choose(document, options.module, options.kernel)
    asked = (("module", options.module), ("kernel", options.kernel))
    failures = [f for f in document["failures"] if all(f[key] in ("", name or f[key]) for key, name in asked)]
    chosen["failures"] = failures
    print_status(chosen, options.module is not None, options.json)
    told = {(target["module"], target["kernel"]) for target in chosen["targets"] if target["verdict"] == "failed"}
    for failure in failures:
        if (failure["module"], failure["kernel"]) not in told:
            where = " on ".join(filter(None, (failure["module"], failure["kernel"])))
            hint = f"\n  hint: {failure['hint']}" if failure["hint"] else ""
            print(f"kmoddctl: {where}: {failure['message']}{hint}", file=sys.stderr)
    return FAILED if failures else exit_code(chosen["targets"], options.module is not None)


def _add_sync(parser: argparse.ArgumentParser) -> None:
    add_dry_run(parser)
    parser.add_argument("--verbose", action="store_true", help="log what is done")


def _add_rebuild(parser: argparse.ArgumentParser) -> None:
    add_optional_target(parser)
    _add_sync(parser)


COMMANDS = {"sync": Command(_add_sync, run_sync), "rebuild": Command(_add_rebuild, run_rebuild)}
