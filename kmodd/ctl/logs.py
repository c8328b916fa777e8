"""logs: what builds printed, through a pager on a terminal. Reads the logs alone, without a look at the root."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ..build.logs import LogReader
from ..errors import Problem
from ..paths import Sysroot
from . import DONE
from .documents import check_kernel, check_module, read_status


def run_logs(options: argparse.Namespace) -> int:
    """kmoddctl logs MODULE [--kernel R]"""
    reader = LogReader(Sysroot.at(options.root))
    attempts = _attempts(options, reader)
    log = attempts[0]["log"]
    text = reader.read(log)
    if options.json:
        print(json.dumps({"schema": 1, "log": log, "text": text}))
    else:
        sys.stdout.write(text)
    return DONE


def _attempts(options: argparse.Namespace, reader: LogReader) -> list[dict[str, Any]]:
    """Return the attempts at a module, newest first. Raises Problem module-unknown, kernel-unknown, log-missing."""
    releases = [options.kernel] if options.kernel else reader.kernels(options.module)
    found = [one for release in releases for one in reader.attempts(options.module, release)]
    if not found:
        known = read_status(options)
        check_module(options.module, {module["name"] for module in known["modules"]})
        if options.kernel:
            check_kernel(options.kernel, {kernel["release"] for kernel in known["kernels"]})
        raise Problem("log-missing", f"{options.module} was not built yet", "kmoddctl explain tells why")
    return sorted(found, key=lambda one: one["began"] or 0, reverse=True)
