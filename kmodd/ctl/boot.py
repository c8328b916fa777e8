"""kmoddctl boot: what boots and what is held back, and the release of a kernel that is held."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..core.booting import GRUB, GRUB_CFG, SYSTEMD_BOOT
from ..core.documents.boot import boot_document
from ..core.documents.choosing import Document, check_kernel
from ..core.errors import Problem
from ..core.model import Verdict
from ..core.sysroot import Sysroot
from ..watch.transaction import transaction_holder
from . import DONE, FAILED, NOT_READY, terminal
from .answers import clean
from .inprocess import Observed, observe
from .parser import AddArguments, Command, Parser, add_command, add_nothing
from .terminal import paint

LOADERS = {
    GRUB: "GRUB, with an entry for each kernel",
    GRUB_CFG: "GRUB, whose grub.cfg names the kernels",
    SYSTEMD_BOOT: "systemd-boot",
    "": "none that is known",
}
INDENT = 14
#: Why kernels are kept from the boot loader although kmodd does not hold them: nobody's entry is made anew by itself.
NO_ENTRY = "without an entry"


def run_boot(options: argparse.Namespace) -> int:
    """kmoddctl boot [VERB]"""
    return VERBS[options.verb].run(options) if options.verb else _show(options)


def document_of(seen: Observed) -> Document:
    """Return how an observed root boots."""
    return boot_document(seen.guarding)


def _show(options: argparse.Namespace) -> int:
    document = document_of(observe(options))
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        print("\n".join(_lines(clean(document))))
    codes = {problem["problem"] for problem in document["problems"]}
    return FAILED if "no-proven-kernel" in codes else NOT_READY if document["behind"] or codes else DONE


def _lines(document: Document) -> Iterator[str]:
    yield from _row("boot loader", LOADERS[document["loader"]])
    if document["unknown"]:
        yield from _row("", f"it cannot be determined what boots: {document['unknown']}")
    else:
        default = document["default"]
        yield from _row("boots next", default["kernel"] or default["entry"] or "cannot be determined")
    if document["once"]:
        yield from _row("", f"only once: {document['once']}")
    guard = document["guard"]
    held = (
        f"holds new kernels until {', '.join(guard['modules'])} {'is' if len(guard['modules']) == 1 else 'are'} ready"
    )
    yield from _row(
        "guard", f"{held}; falls back on {guard['fallback']}" if guard["holds"] else f"holds none: {guard['reason']}"
    )
    yield ""
    width = max((len(kernel["release"]) for kernel in document["kernels"]), default=0) + 2
    states = [_state(kernel) for kernel in document["kernels"]]
    room = max(map(len, states), default=0) + 2
    for kernel, state in zip(document["kernels"], states):
        verdict = kernel["verdict"]
        yield f"{kernel['release']:<{width}}{state:<{room}}{paint(verdict, verdict)}"
        if kernel["why"] and (kernel["held"] is not None or kernel["running"] or kernel["default_boot"]):
            yield terminal.wrap("    ", kernel["why"])
        if kernel["last_release"]:
            tried = kernel["last_release"]
            yield terminal.wrap("    ", f"not released {terminal.moment(tried['ended'])}: {tried['message']}")
    for fault in (*([document["behind"]] if document["behind"] else []), *document["problems"]):
        yield ""
        yield terminal.wrap("", fault["message"])
        if fault["hint"]:
            yield f"    → {fault['hint']}"


def _row(name: str, text: str) -> Iterator[str]:
    yield terminal.wrap(f"{name:<{INDENT}}", text)


def _state(kernel: Document) -> str:
    words = [word for key, word in (("running", "running"), ("default_boot", "boots next")) if kernel[key]]
    if kernel["held"] is not None:
        words.append(f"held since {terminal.moment(kernel['held'])}")
    elif kernel["bootable"] is None:
        words.append("cannot be determined")
    elif not kernel["bootable"]:
        words.append(NO_ENTRY)
    else:
        words.append("proven" if kernel["proven"] else "fit" if kernel["fit"] else "not fit")
    return ", ".join(words)


# -- releasing -------------------------------------------------------------------------------------------------------
def _release(options: argparse.Namespace) -> int:
    sysroot = Sysroot.at(options.root)
    if not sysroot.is_host:
        text = "entries of the boot loader are made on the running system alone"
        raise Problem("root-not-running", text, "give the command without --root")
    if transaction_holder(sysroot) is not None:
        text = "an rpm transaction is running, at whose end kernels may come or go"
        raise Problem("transaction-running", text, "give the command when it has ended")
    seen = observe(options)
    check_kernel(options.kernel, {kernel.release for kernel in seen.snapshot.present()})
    if not options.force:
        _check_ready(seen, options.kernel)
    if options.here:
        _release_here(sysroot, seen, options.kernel)
    else:
        from ..reconcile.bootsteps import run_release

        asyncio.run(run_release(options.kernel))
    if options.json:
        print(json.dumps({"schema": 1, "released": options.kernel, "at": time.time()}))
    elif not options.here:
        print(f"{options.kernel} is bootable")
    return DONE


def _check_ready(seen: Observed, release: str) -> None:
    """Raise Problem where a kernel is not ready, which an entry would not change."""
    judgement = seen.guarding.kernels[release]
    if judgement.verdict is not Verdict.READY:
        hint = f"kmoddctl boot release {release} --force makes it bootable as it is"
        raise Problem("kernel-held", f"{release} is not ready: {judgement.reason}", hint)


def _release_here(sysroot: Sysroot, seen: Observed, release: str) -> None:
    from ..reconcile.release import Release

    installed = tuple(kernel.release for kernel in seen.snapshot.present())
    asyncio.run(Release(sysroot, release, installed).run())


def _wait(options: argparse.Namespace) -> int:
    from .waiting import run_wait

    return run_wait(options)


def _hurry(options: argparse.Namespace) -> int:
    from .waiting import run_hurry

    return run_hurry(options)


# -- arguments -------------------------------------------------------------------------------------------------------
class Verb(NamedTuple):
    help: str
    add_arguments: AddArguments
    run: Callable[[argparse.Namespace], int]


def _add_verbs(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)
    for name, verb in VERBS.items():
        add_command(verbs, name, verb.help, verb.add_arguments)


def _add_kernel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kernel", metavar="RELEASE", help="its kernel release")


def _add_release(parser: argparse.ArgumentParser) -> None:
    _add_kernel(parser)
    parser.add_argument("--force", action="store_true", help="as it is, also where it is not ready")
    parser.add_argument("--here", action="store_true", help="in this process, not in a unit of its own")


VERBS = {
    "release": Verb("make a kernel bootable that is held, once it is ready", _add_release, _release),
    "wait": Verb("wait while something changes what boots; for kmodd-shutdown.service", add_nothing, _wait),
    "hurry": Verb("have a reboot that waits go on", add_nothing, _hurry),
}

COMMANDS = {"boot": Command(_add_verbs, run_boot)}
