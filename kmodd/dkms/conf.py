"""Reads a dkms.conf for a kernel: bash evaluates it in the sandbox, and the result is kept.

A conf is read again only when its source, an override in /etc/dkms, or the kernel's build tree changed. Why it is not
parsed: docs/decisions/0005-dkms-conf.md. Must not: run anything itself, or know how the sandbox is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Optional

from ..core.errors import Problem
from ..core.model import Fault, Kernel
from ..core.modulefile import Module
from ..core.recipe import Recipe
from ..core.settings import SettingsSource
from ..core.sysroot import Sysroot
from ..system.files import replace_file
from ..system.log import get_logger
from ..system.reading import reach
from .answer import LARGEST_ANSWER, parse
from .directives import interpret, kernel_tree
from .script import SCRIPT

#: Runs a script: (script, words, directory, what it sees besides, most bytes) -> what it printed. Raises Problem.
Evaluate = Callable[[str, Sequence[str], str, Sequence[tuple[Path, str]], int], Awaitable[bytes]]

LARGEST_CONF = 256 << 10  # bytes; the largest that are known have some ten thousand
LONGEST_LINE = 32 << 10  # characters of a line of it
LARGEST_CONFIG = 16 << 20  # bytes of a kernel's .config
LONGEST_SAID = 1000  # characters of a line that bash and other programs print that are read
MOST_SAID = 2000  # such lines
AGAIN = 600.0  # seconds until a conf that did not end is tried again
OUTSIDE = "/source"  # where a source that is not below /usr/src is seen
OVERRIDES = "/etc/dkms"
SYNTAX = re.compile(r"(?P<file>.+): line (?P<line>\d{1,9}): (?P<what>(?:syntax error|unexpected).*)")
#: What the sandbox says to what it denies: writing, others' files, networks.
DENIED = re.compile(
    r"Read-only file system|Permission denied|Operation not permitted|Network is unreachable|Connection refused"
    r"|[Nn]ame resolution|[Nn]ame or service not known|[Cc]ould not resolve"
    r"|[\s'\"‘]/(?:boot|etc|home|mnt|opt|root|run|srv|var)/\S*: No such file"
    r"|cannot (?:open|access|stat) ['\"‘]?/(?:boot|etc|home|mnt|opt|root|run|srv|var)/"
)
VERSIONED = re.compile(r"(?P<name>.+?)-v?(?P<version>\d[\w.+~-]*)")
LITERAL = re.compile(r"""["']?([\w.+~-]+)""")


class ConfReader:
    """Reads the confs of one root. identify: returns the digest of a module's source; digest: of a file."""

    def __init__(
        self,
        sysroot: Sysroot,
        evaluate: Evaluate,
        identify: Callable[[Module], str],
        digest: Callable[[Path], str],
        settings: SettingsSource,
    ) -> None:
        self.sysroot = sysroot
        self.evaluate = evaluate
        self.identify = identify
        self.digest = digest
        self.settings = settings
        self.memory = sysroot.below(sysroot.cache, "dkms.json")
        self._known: dict[str, Recipe] = {}
        self._failed: dict[str, tuple[Fault, Optional[float]]] = {}  # and when it is tried again, in s since the epoch
        self._asked: set[str] = set()
        self._dirty = False
        self._load()

    def forget_pauses(self) -> None:
        """Have every conf that did not end read again at the next pass."""
        self._failed = {key: (fault, until) for key, (fault, until) in self._failed.items() if until is None}

    def _load(self) -> None:
        """Read what was found before."""
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
            loaded = json.loads(self.memory.read_bytes())
            self._known = {str(k): Recipe.model_validate_json(text) for k, text in loaded["recipes"].items()}
            self._failed = {str(k): (Fault(*map(str, f)), until) for k, (f, until) in loaded["faults"].items()}

    async def find(self, module: Module, kernel: Kernel) -> Recipe:
        """Return what a module's dkms.conf comes to for a kernel. Raises Problem.

        Of its own: dkms-conf-invalid, dkms-conf-denied, dkms-conf-hostile, dkms-conf-timeout, dkms-hook.
        """
        key = self._key(module, kernel)
        self._asked.add(key)
        if key in self._known:
            return self._known[key]
        fault, until = self._failed.get(key, (None, None))
        # one that is further away than AGAIN was recorded under a clock that has been set back since
        if fault is not None and (until is None or 0 < until - time.time() <= AGAIN):
            raise Problem.of(fault)
        try:
            self._known[key] = await self._read(module, kernel)
        except Problem as problem:
            if problem.code.startswith("dkms-"):  # others are of the sandbox, not of the conf
                until = time.time() + AGAIN if problem.transient else None
                self._failed[key] = (problem.fault, until)
                self._dirty = True
            why = problem.message
            facts = {"module": module.name, "kernel": kernel.release, "problem": problem.code}
            get_logger().warning("dkms.conf refused", **facts, reason=why)
            raise
        self._dirty = True
        return self._known[key]

    def remember(self) -> None:
        """Keep what was asked for since the last time for the next process, where the cache can be written."""
        gone = (self._known.keys() | self._failed.keys()) - self._asked
        if self._dirty or gone:
            for key in gone:
                self._known.pop(key, None)
                self._failed.pop(key, None)
            recipes = {key: recipe.model_dump_json() for key, recipe in self._known.items()}
            faults = {
                key: ((fault.problem, fault.message, fault.hint), until) for key, (fault, until) in self._failed.items()
            }
            with contextlib.suppress(OSError):
                replace_file(self.memory, json.dumps({"recipes": recipes, "faults": faults}).encode())
            self._dirty = False
        self._asked.clear()

    # -- what it depends on ----------------------------------------------------------------------------------------
    def _key(self, module: Module, kernel: Kernel) -> str:
        parts = [SCRIPT, module.file.source.place, str(self._takes_hooks(module)), self.identify(module)]
        parts += [kernel.release, kernel.architecture, kernel_tree(kernel)]
        for path in [*self.overrides(), *self._configuration(kernel)]:
            with contextlib.suppress(OSError):
                parts += [str(path), self.digest(path)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def overrides(self) -> list[Path]:
        """Return the host paths of the files that change what a conf says."""
        directory = self.sysroot.dkms_overrides
        return sorted(path for path in directory.glob("*.conf") if path.is_file() and path.name != "framework.conf")

    def _configuration(self, kernel: Kernel) -> list[Path]:
        return [self.sysroot.resolve(kernel.build_tree) / ".config"] if kernel.build_tree else []

    # -- reading ---------------------------------------------------------------------------------------------------
    async def _read(self, module: Module, kernel: Kernel) -> Recipe:
        place = where = module.file.source.place
        conf = self.sysroot.resolve(place)
        real = self.sysroot.inside(conf.parent)
        inside = real if real.startswith("/usr/src/") else OUTSIDE
        visible = [] if inside == real else [(conf.parent, inside)]
        overrides = self.overrides()
        visible += [(path, f"{OVERRIDES}/{path.name}") for path in overrides]
        if kernel.build_tree and not kernel.build_tree.startswith(("/usr/src/", "/usr/lib/modules/")):
            visible.append((self.sysroot.resolve(kernel.build_tree), kernel.build_tree))
        text = self._text(conf, where)
        name, version = guess(text, Path(place).parent.name)
        mark = secrets.token_hex(16)
        words = [mark, f"{inside}/{conf.name}", kernel.release, kernel.architecture, kernel_tree(kernel)]
        words += [name, version, OVERRIDES]
        try:
            printed = await self.evaluate(SCRIPT, words, inside, visible, LARGEST_ANSWER)
        except Problem as problem:
            if problem.code != "tool-timeout":
                raise
            raise Problem("dkms-conf-timeout", f"{where}: bash did not come to its end in time", "look at it") from None
        texts = [(place, text)]
        for path in overrides:
            with contextlib.suppress(OSError, Problem):
                texts.append((self.sysroot.inside(path), self._text(path, where)))
        seen = f"{inside}/{conf.name}"
        return await asyncio.to_thread(self._interpret, printed, mark, module, kernel, texts, seen)

    def _interpret(
        self, printed: bytes, mark: str, module: Module, kernel: Kernel, texts: Sequence[tuple[str, str]], seen: str
    ) -> Recipe:
        """Return what bash printed comes to. seen: the conf's path in the sandbox. Raises Problem."""
        place = texts[0][0]
        try:
            answer = parse(printed, mark)
        except ValueError as error:
            raise Problem("dkms-conf-invalid", f"{place}: {error}", "kmodd cannot use it; correct it") from None
        said = [line[:LONGEST_SAID] for line in answer.said.split("\n", MOST_SAID)[:MOST_SAID]]
        for wrong in filter(None, map(SYNTAX.fullmatch, said)):
            name = place if wrong["file"] == seen else wrong["file"]
            raise Problem("dkms-conf-invalid", f"{name}:{wrong['line']}: {wrong['what'][:300]}", "correct it")
        _check_conduct(answer.tampered, said, place, seen)
        return interpret(answer, kernel, self._config(kernel), texts, self._takes_hooks(module))

    def _takes_hooks(self, module: Module) -> bool:
        """Tell whether install hooks are no reason to refuse a conf: they are left out, or allowed."""
        return bool(module.file.source.ignore_hooks) or (
            module.name in self.settings.now.dkms.allow_hooks
            and not module.file.source.trust_owner  # they run as root, where the source is
        )

    def _text(self, path: Path, where: str) -> str:
        """Return the text of a conf or an override. Raises Problem dkms-conf-invalid, source-unreadable."""
        try:
            with reach(self.sysroot, self.sysroot.inside(path)) as found:
                data = found.read(LARGEST_CONF + 1)
            if len(data) > LARGEST_CONF:
                raise Problem("dkms-conf-invalid", f"{where}: is larger than {LARGEST_CONF} bytes", "is it one?")
        except OSError as error:
            raise Problem("source-unreadable", f"{where}: {path} cannot be read: {error.strerror}") from error
        text = data.decode(errors="replace")
        for number, line in enumerate(text.split("\n"), 1):
            if len(line) > LONGEST_LINE:
                what = f"{where}:{number}: the line is longer than {LONGEST_LINE} characters"
                raise Problem("dkms-conf-invalid", what, "break it into several")
        return text

    def _config(self, kernel: Kernel) -> dict[str, str]:
        found = {}
        for path in self._configuration(kernel):
            with contextlib.suppress(OSError), path.open("rb") as stream:
                for line in stream.read(LARGEST_CONFIG).decode(errors="replace").splitlines():
                    symbol, equals, value = line.partition("=")
                    if equals and not symbol.startswith("#"):
                        found[symbol] = value
        return found


def _check_conduct(tampered: str, said: Sequence[str], place: str, seen: str) -> None:
    """Raise Problem where a conf tampered with its reader, or was denied something.

    said: lines, no longer than LONGEST_SAID. seen: its path in the sandbox.
    """
    if tampered:
        text = f"{place}: it changes the shell that reads it: {tampered[:200]}"
        raise Problem("dkms-conf-hostile", text, "no conf needs that: look at it, and at where it came from")
    for line in said:
        if DENIED.search(line):
            found = re.match(rf"{re.escape(seen)}: line (\d+): ", line)
            where, what = (f"{place}:{found[1]}", line[found.end() :]) if found else (place, line)
            text = f"{where}: it wants what it may not have: {what[:300]}"
            hint = "a conf may read its source and the kernel's tree, and nothing else; it cannot be used as it is"
            raise Problem("dkms-conf-denied", text, hint)


def guess(text: str, directory: str) -> tuple[str, str]:
    """Return name and version as DKMS would have got them: the conf's plain words, else the directory's name."""
    match = VERSIONED.fullmatch(directory)
    default = (match["name"], match["version"]) if match else (directory, "")
    return _literal("PACKAGE_NAME", text) or default[0], _literal("PACKAGE_VERSION", text) or default[1]


def _literal(name: str, text: str) -> str:
    """Return the plain word that a conf first sets a directive to, "" where there is none."""
    for line in text.split("\n"):
        head, equals, value = line.lstrip().partition("=")
        plain = LITERAL.match(value) if equals and head == name else None
        if plain:
            return plain[1]
    return ""
