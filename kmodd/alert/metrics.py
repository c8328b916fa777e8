"""The state as metrics, in a file for node_exporter's textfile collector; kmodd(8) lists them.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (text). Must not: do work of its own; the file is
written after a pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Optional

from .. import __version__
from ..core.model import Verdict
from ..core.report import Report
from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..system.files import replace_file

HELP = {
    "kmodd_info": "The version of kmodd.",
    "kmodd_last_look_timestamp_seconds": "When kmodd last observed everything.",
    "kmodd_module_files_broken": "Module files that cannot be used.",
    "kmodd_kernel_ready": "Whether all required modules are ready for a kernel.",
    "kmodd_kernel_bootable": "Whether a kernel has a boot entry; none where that cannot be told.",
    "kmodd_kernel_held": "Whether a kernel is kept from the boot loader until it is ready.",
    "kmodd_boot_proven": "Kernels that are ready and bootable, and ran once with their required modules.",
    "kmodd_target_ready": "Whether a module is ready for a kernel; none where it is excluded.",
    "kmodd_target_verdict": "1 for the verdict of a module for a kernel, 0 for the others.",
    "kmodd_build_duration_seconds": "How long the last build took, whether it succeeded or not.",
    "kmodd_build_failures": "Attempts that failed in a row.",
}
Samples = Iterable[tuple[Mapping[str, str], float]]


class Metrics:
    """Writes the metrics to metrics.textfile, where that is set."""

    def __init__(self, sysroot: Sysroot, settings: SettingsSource) -> None:
        self.sysroot = sysroot
        self.settings = settings

    def __call__(self, _previous: Optional[Report], now: Report) -> None:
        """Write the file. Raises OSError."""
        textfile = self.settings.now.metrics.textfile
        if textfile is not None:
            path = Path(textfile)
            # the directory may be another user's, whose link is not to be followed
            replace_file(self.sysroot.resolve(path.parent) / path.name, render(now).encode())


def render(report: Report) -> str:
    """Return the metrics of a report."""
    groups = _samples(report)
    lines = []
    for name, text in HELP.items():
        lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
        lines += [f"{name}{_labels(labels)} {value!r}" for labels, value in groups[name]]
    return "\n".join(lines) + "\n"


def _samples(report: Report) -> dict[str, Samples]:
    kernels, targets = report.snapshot.kernels, sorted(report.judgements.items())
    modules = report.snapshot.modules
    standings = report.guarding.standings()
    names = {target: {"module": target.module, "kernel": target.kernel} for target, _ in targets}
    attempts = {t: r.attempt for t, r in sorted(report.snapshot.records.items()) if r.attempt and t in names}
    return {
        "kmodd_info": [({"version": __version__}, 1)],
        "kmodd_last_look_timestamp_seconds": [({}, report.looked)],
        "kmodd_module_files_broken": [({}, len(report.snapshot.broken))],
        "kmodd_kernel_ready": [
            (
                {
                    "kernel": release,
                    "running": _word(kernels[release].running),
                    "default_boot": _word(kernels[release].default_boot),
                },
                int(judgement.verdict is Verdict.READY),
            )
            for release, judgement in report.kernels.items()
        ],
        "kmodd_kernel_bootable": [
            ({"kernel": s.release}, int(s.bootable)) for s in standings.values() if s.bootable is not None
        ],
        "kmodd_kernel_held": [({"kernel": s.release}, int(s.held is not None)) for s in standings.values()],
        "kmodd_boot_proven": [({}, sum(s.proven for s in standings.values()))],
        "kmodd_target_ready": [
            (
                {**names[t], "required": _word(t.module not in modules or modules[t.module].required)},
                int(judgement.verdict is Verdict.READY),
            )
            for t, judgement in targets
            if judgement.verdict is not Verdict.EXCLUDED
        ],
        "kmodd_target_verdict": [
            ({**names[t], "verdict": verdict.value}, int(judgement.verdict is verdict))
            for t, judgement in targets
            for verdict in Verdict
        ],
        "kmodd_build_duration_seconds": [
            (names[t], round(a.ended - a.began, 3)) for t, a in attempts.items() if a.stage == "build"
        ],
        "kmodd_build_failures": [(names[t], a.failures if a.outcome == "failed" else 0) for t, a in attempts.items()],
    }


def _word(value: Optional[bool]) -> str:
    return "unknown" if value is None else "true" if value else "false"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    quoted = (
        '{}="{}"'.format(name, text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n"))
        for name, text in labels.items()
    )
    return "{" + ",".join(quoted) + "}"
