"""The key that signs: key generate, import, show, status, enroll, rotate."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple, Optional

from ..core.errors import Problem
from ..core.model import Snapshot
from ..core.settings import Settings, SettingsSource
from ..core.sysroot import Sysroot
from ..deploy import mok
from ..host.settingsfile import read_settings
from ..host.trust import TrustReader
from ..reconcile.keysource import open_keyring
from ..sign import Keyring, certificate_facts
from ..sign.certificate import identity_of, read_facts
from ..sign.making import KNOWN_PAIRS, KeyMaker
from ..system.lock import Lock
from ..system.log import configure
from . import DONE, FAILED, NOT_READY
from .inprocess import Observed, observe
from .parser import AddArguments, Command, Parser, add_command, add_dry_run, add_nothing


class Keys:
    """What the verbs work with."""

    def __init__(self, options: argparse.Namespace, observes: bool) -> None:
        """observes: whether the root's snapshot is needed."""
        configure("error")
        self.options = options
        self.sysroot = Sysroot.at(options.root)
        self.settings: Settings = read_settings(self.sysroot)
        self.keyring: Keyring = open_keyring(self.sysroot, self.settings)
        self.maker = KeyMaker(self.keyring)
        self.trust = TrustReader(self.sysroot, SettingsSource(self.settings))
        self.seen: Optional[Observed] = observe(options) if observes else None

    @property
    def snapshot(self) -> Snapshot:
        assert self.seen is not None
        return self.seen.snapshot

    def check(self) -> None:
        """Raise Problem where the key cannot be used."""
        fault = self.keyring.signer().fault
        if fault is not None:
            raise Problem.of(fault)

    def pair(self) -> Optional[tuple[str, str]]:
        """Return the in-root paths of the pair that the options name. Raises Problem usage-pair."""
        options = self.options
        if options.source:
            if options.paths:
                raise Problem("usage-pair", "give either --from or the two paths")
            return KNOWN_PAIRS[options.source]
        if not options.paths:
            return None
        if len(options.paths) != 2 or not all(path.startswith("/") for path in options.paths):
            raise Problem("usage-pair", "give the absolute paths of a private key and of its certificate")
        return options.paths[0], options.paths[1]

    def say(self, document: dict[str, Any], *lines: str) -> None:
        """Print what was done."""
        print(json.dumps({"schema": 1, **document}) if self.options.json else "\n".join(lines))

    def next_step(self) -> str:
        running = Lock(self.sysroot).holder() is not None
        return "kmodd signs everything anew, without building" if running else "sign everything anew: kmoddctl sync"


def run_key(options: argparse.Namespace) -> int:
    """kmoddctl key VERB"""
    verb = VERBS[options.verb]
    return asyncio.run(verb.run(Keys(options, verb.observes)))


async def _show(keys: Keys) -> int:
    keys.check()
    place = {"certificate": keys.settings.sign.certificate, "key": keys.settings.sign.key}
    facts = {**place, **await certificate_facts(keys.keyring)}
    keys.say(facts, *(f"{name + ':':<12} {value}" for name, value in facts.items() if value))
    return DONE


async def _generate(keys: Keys) -> int:
    algorithm = keys.options.algorithm or keys.settings.sign.algorithm
    if keys.options.dry_run:
        keys.say({"would": "generate", "algorithm": algorithm}, f"would make {keys.settings.sign.key} ({algorithm})")
        return DONE
    await keys.maker.generate(algorithm)
    return await _show(keys)


async def _import(keys: Keys) -> int:
    pair = keys.pair()
    if pair is None:
        raise Problem("usage-pair", "name the key and its certificate, or give --from dkms or --from akmods")
    if keys.options.undo:
        if keys.options.dry_run:
            text = f"would delete {keys.settings.sign.key}, a copy of {pair[0]}"
            keys.say({"would": "undo", "from": list(pair)}, text)
            return DONE
        await keys.maker.disown(*pair)
        text = f"deleted {keys.settings.sign.key}; {pair[0]} stays as it is"
        more = "what it signed stays so until there is another key: kmoddctl key generate, or the next installation"
        keys.say({"deleted": keys.settings.sign.key}, text, more)
        return DONE
    if keys.options.dry_run:
        text = f"would copy {pair[0]} to {keys.settings.sign.key} and {pair[1]} to {keys.settings.sign.certificate}"
        keys.say({"would": "import", "from": list(pair)}, text)
        return DONE
    await keys.maker.adopt(*pair)
    return await _show(keys)


# -- trust -----------------------------------------------------------------------------------------------------------
async def _state(keys: Keys, der: bytes, path: Path) -> dict[str, Any]:
    facts = await read_facts(der)
    return {**facts, "enrolment": await keys.trust.enrolment(path)}


async def _status(keys: Keys) -> int:
    signer = keys.keyring.signer()
    document: dict[str, Any] = {"certificate": keys.settings.sign.certificate, "key": keys.settings.sign.key}
    if signer.fault is not None:
        document["problem"] = {
            "problem": signer.fault.problem, "message": signer.fault.message, "hint": signer.fault.hint,
        }  # fmt: skip
    else:
        document.update(await _state(keys, _read(keys.keyring), keys.keyring.published))
    kernels = []
    for release, kernel in sorted(keys.snapshot.kernels.items()):
        if kernel.present:
            why = keys.trust.enforcement(kernel)
            trusted = signer.fault is None and await keys.trust.is_trusted(keys.keyring.published, kernel)
            kernels.append({"release": release, "enforces": why, "trusted": trusted})
    objects = [o for r in keys.snapshot.records.values() if r.installed for o in r.installed.objects if o.signer]
    own = sum(item.signer == signer.identity for item in objects)
    document |= {"kernels": kernels, "objects": {"signed": own, "signed_by_others": len(objects) - own}}
    successor = _successor(keys)
    if successor is not None:
        document["successor"] = await _state(keys, successor, keys.maker.next / "x509")
    keys.say(document, *_describe(document))
    if signer.fault is not None:
        return FAILED
    return NOT_READY if any(k["enforces"] and not k["trusted"] for k in kernels) else DONE


def _read(keyring: Keyring) -> bytes:
    try:
        der = keyring.read()
    except PermissionError:
        der = keyring.published.read_bytes()
    assert der is not None  # signer() found no fault
    return der


def _successor(keys: Keys) -> Optional[bytes]:
    """Return the successor's certificate; for other users than root there is none to be seen."""
    try:
        return keys.maker.successor()
    except Problem as problem:
        if problem.code == "permission-denied":
            return None
        raise


def _describe(document: dict[str, Any]) -> list[str]:
    lines = [f"{name + ':':<12} {document[name]}" for name in ("certificate", "key")]
    if "problem" in document:
        lines += [f"problem:     {document['problem']['message']}", f"  do: {document['problem']['hint']}"]
    else:
        names = ("subject", "algorithm", "fingerprint", "not_after", "enrolment")
        lines += [f"{name + ':':<12} {document[name]}" for name in names]
    objects = document["objects"]
    lines.append(f"objects:     {objects['signed']} signed by it, {objects['signed_by_others']} by another key")
    for kernel in document["kernels"]:
        said = "takes unsigned modules too"
        if kernel["enforces"]:
            trust = "trusts this key" if kernel["trusted"] else "does NOT trust this key: kmoddctl key enroll"
            said = f"{trust} ({kernel['enforces']})"
        lines.append(f"kernel:      {kernel['release']} {said}")
    if "successor" in document:
        new = document["successor"]
        lines.append(f"successor:   {new['fingerprint'][:16]} ({new['algorithm']}), enrolment {new['enrolment']}")
        lines.append("  do: kmoddctl key rotate goes on, kmoddctl key rotate --abort drops it")
    return lines


async def _enroll(keys: Keys) -> int:
    keys.check()
    waiting = keys.maker.successor()
    certificate = keys.maker.next / "x509" if waiting else keys.keyring.published
    fingerprint = identity_of(waiting or _read(keys.keyring))[:16]
    mok.check_firmware(keys.sysroot)
    state = await keys.trust.enrolment(certificate)
    if state in ("enrolled", "pending"):
        said = {"enrolled": f"{fingerprint} is enrolled already", "pending": f"{fingerprint} waits for the next boot"}
        keys.say({"fingerprint": fingerprint, "enrolment": state}, said[state], *mok.STEPS[: 2 * (state == "pending")])
        return DONE
    if keys.options.dry_run:
        keys.say({"would": "enroll", "fingerprint": fingerprint}, f"would ask the firmware to trust {fingerprint}")
        return DONE
    if waiting is None:
        keys.keyring.publish()
    await mok.ask(certificate, _password(keys.options))
    steps = [f"asked the firmware to trust {fingerprint}; now:", *(f"  {step}" for step in mok.STEPS)]
    keys.say({"fingerprint": fingerprint, "enrolment": "pending", "steps": list(mok.STEPS)}, *steps)
    return DONE


def _password(options: argparse.Namespace) -> Optional[str]:
    """Return the one-time password, None for root's. Raises Problem usage-password."""
    if options.root_password:
        return None
    if options.password_file:
        try:
            return Path(options.password_file).read_text().split("\n", 1)[0]
        except (OSError, ValueError) as error:
            raise Problem("usage-password", f"{options.password_file} cannot be read: {error}") from error
    if not sys.stdin.isatty():
        hint = "give --password-file FILE or --root-password"
        raise Problem("usage-password", "there is no terminal to ask for a password", hint)
    first = getpass.getpass("One-time password, asked for again at the console: ")
    if getpass.getpass("Again: ") != first:
        raise Problem("usage-password", "the two passwords differ")
    return first


# -- rotation --------------------------------------------------------------------------------------------------------
async def _rotate(keys: Keys) -> int:
    options = keys.options
    if options.abort:
        there = await keys.maker.withdraw()
        keys.say({"aborted": there}, "the successor was deleted" if there else "there is no successor")
        return DONE
    if keys.keyring.is_interrupted():
        await keys.maker.switch()
    keys.check()
    algorithm = options.algorithm or keys.settings.sign.algorithm
    enforcing = _enforcing(keys)
    if options.dry_run:
        text = f"would replace {keys.settings.sign.key} by a new {algorithm} key and sign everything anew"
        when = f" once the firmware of this machine trusts it, since {enforcing} would refuse it" if enforcing else ""
        keys.say({"would": "rotate", "algorithm": algorithm, "enforcing": enforcing}, text + when)
        return DONE
    der = await keys.maker.prepare(algorithm, keys.pair())
    fingerprint = identity_of(der)[:16]
    if enforcing and not options.now and await keys.trust.enrolment(keys.maker.next / "x509") != "enrolled":
        lines = [
            f"{enforcing} takes only modules of keys that it trusts, and the new one ({fingerprint}) is none yet:",
            "  kmoddctl key enroll, reboot and confirm it at the console, then kmoddctl key rotate again;",
            "  until then everything stays signed by the present key. kmoddctl key rotate --now does not wait.",
        ]
        keys.say({"rotated": False, "successor": fingerprint, "enforcing": enforcing}, *lines)
        return NOT_READY
    signer = await keys.maker.switch()
    if signer.fault is not None:
        raise Problem.of(signer.fault)
    text = f"the key is now {fingerprint}; the old one is kept in {keys.sysroot.inside(keys.maker.retired)}"
    keys.say({"rotated": True, "fingerprint": signer.identity}, text, keys.next_step())
    return DONE


def _enforcing(keys: Keys) -> str:
    """Return a kernel that refuses modules of a key that it does not trust, "" where none does."""
    kernels = keys.snapshot.kernels
    return next((r for r, kernel in sorted(kernels.items()) if kernel.present and keys.trust.enforcement(kernel)), "")


# -- arguments -------------------------------------------------------------------------------------------------------
class Verb(NamedTuple):
    """observes: whether it needs the root's snapshot."""

    help: str
    add_arguments: AddArguments
    run: Callable[[Keys], Coroutine[Any, Any, int]]
    observes: bool = False


def _add_verbs(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    for name, verb in VERBS.items():
        add_command(verbs, name, verb.help, verb.add_arguments)


def _add_algorithm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--algorithm", choices=["rsa", "ecdsa"], help="default: kmodd.toml's, else rsa")


def _add_pair(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", metavar="KEY CERTIFICATE", help="absolute paths of a pair to copy")
    parser.add_argument("--from", dest="source", choices=["dkms", "akmods"], help="copy that tool's pair")


def _add_generate(parser: argparse.ArgumentParser) -> None:
    _add_algorithm(parser)
    add_dry_run(parser)


def _add_import(parser: argparse.ArgumentParser) -> None:
    _add_pair(parser)
    parser.add_argument("--undo", action="store_true", help="delete the copy again; the original stays")
    add_dry_run(parser)


def _add_enroll(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--password-file", metavar="FILE", help="its first line is the one-time password")
    parser.add_argument("--root-password", action="store_true", help="root's password is the one-time password")
    add_dry_run(parser)


def _add_rotate(parser: argparse.ArgumentParser) -> None:
    _add_algorithm(parser)
    _add_pair(parser)
    parser.add_argument("--now", action="store_true", help="do not wait until the firmware trusts the new key")
    parser.add_argument("--abort", action="store_true", help="drop a new key that waits for its enrolment")
    add_dry_run(parser)


VERBS = {
    "generate": Verb("make the first key", _add_generate, _generate),
    "import": Verb("take over the key of DKMS, akmods or any other as the first key", _add_import, _import),
    "show": Verb("show what is in the certificate", add_nothing, _show),
    "status": Verb("show which kernels trust the key, and what is signed by it", add_nothing, _status, observes=True),
    "enroll": Verb("ask the firmware of this machine to trust the key (MOK)", _add_enroll, _enroll),
    "rotate": Verb(
        "replace the key by a new one and sign everything anew, without building", _add_rotate, _rotate, observes=True
    ),
}

COMMANDS = {"key": Command(_add_verbs, run_key)}
