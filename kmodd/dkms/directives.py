"""What the directives of a dkms.conf mean, as DKMS takes them (dkms(8), "DKMS.CONF"). Pure.

Deliberately different are: kernel releases, which DKMS compares as padded strings and kmodd as rpm does; CLEAN, which
a fresh copy of the source does not need; and NO_WEAK_MODULES and all that signs, which are not the conf's to decide.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Optional

from pydantic import ValidationError

from ..core import versions
from ..core.errors import Problem
from ..core.model import Kernel
from ..core.recipe import MAKE_FLAGS, DkmsObject, Recipe
from ..core.tomlfile import describe
from .answer import SETTER, Answer

HOOKS = ("PRE_INSTALL", "POST_INSTALL", "POST_ADD", "POST_REMOVE")
OBJECTS = ("BUILT_MODULE_NAME", "BUILT_MODULE_LOCATION", "DEST_MODULE_NAME", "DEST_MODULE_LOCATION")
PLACES = ("/kernel", "/updates", "/extra")
QUOTES = re.compile(r"""["'`\\]""")  # what is in them may be for another shell
LEADING_MAKE = re.compile(r"make(?![\w./-])")
FIELDS = {"name": "PACKAGE_NAME", "version": "PACKAGE_VERSION", "depends": "BUILD_DEPENDS", "patches": "PATCH"}


class _Refusal(Exception):
    """A directive that is refused, and why."""

    def __init__(self, directive: str, index: Optional[int], text: str) -> None:
        self.directive = directive
        self.index = index
        self.text = text


def interpret(
    answer: Answer, kernel: Kernel, config: Mapping[str, str], texts: Sequence[tuple[str, str]], hooks: bool = False
) -> Recipe:
    """Return what a conf comes to for a kernel.

    config: the kernel's. texts: the conf and its overrides, name and text, in which directives are searched.
    hooks: whether install hooks are accepted, instead of refused. Raises Problem dkms-conf-invalid, dkms-hook.
    """
    place = texts[0][0]
    try:
        recipe = _interpret(answer, kernel, config)
    except _Refusal as refusal:
        said = refusal.directive + (f"[{refusal.index}]" if refusal.index is not None else "")
        where = _locate(refusal.directive, refusal.index, texts)
        hint = "correct it in a file of /etc/dkms, or use source.path; see kmodd.modules.d(5)"
        raise Problem("dkms-conf-invalid", f"{where}: {said}: {refusal.text}", hint) from None
    except ValidationError as error:
        first = str(error.errors()[0]["loc"][0])
        directive = FIELDS.get(first, "MAKE")
        text = f"{_locate(directive, None, texts)}: {directive}: {describe(error).partition(': ')[2]}"
        raise Problem("dkms-conf-invalid", text, "correct it") from None
    if recipe.hooks and not hooks:
        hook = next(iter(recipe.hooks))
        where = _locate(hook, None, texts) if answer.text(hook) else place
        text = f"{where}: {hook}={answer.text(hook)[:80]!r}: kmodd runs no script of a source outside of the sandbox"
        hint = "look at what it does; source.ignore_hooks = true leaves it out, dkms.allow_hooks of kmodd.toml runs it"
        raise Problem("dkms-hook", text, hint)
    return recipe


def _locate(directive: str, index: Optional[int], texts: Sequence[tuple[str, str]]) -> str:
    """Return where a directive is set, the last place of all: a file, and the line where that can be determined."""
    bracket = rf"\[{index}\]" if index else r"(?:\[0\])?" if index == 0 else r"(?:\[\d+\])?"
    wanted = re.compile(rf"(?:^|[\s;])(?:export\s+|declare\s+(?:-\w+\s+)*)?{directive}{bracket}\+?=")
    for name, text in reversed(texts):
        lines = [number for number, line in enumerate(text.splitlines(), 1) if wanted.search(line)]
        if lines:
            return f"{name}:{lines[-1]}"
    return texts[0][0]


def _interpret(answer: Answer, kernel: Kernel, config: Mapping[str, str]) -> Recipe:
    for name in ("PACKAGE_NAME", "PACKAGE_VERSION"):
        if not answer.text(name):
            raise _Refusal(name, None, "is not set")
    if answer.text(SETTER):
        raise _Refusal(answer.text(SETTER), None, "is a variable of DKMS's own; use the directive itself")
    if answer.array("patch_array"):
        raise _Refusal("patch_array", None, "is a variable of DKMS's own; use PATCH and PATCH_MATCH")
    excluded = _exclusion(answer, kernel, config)
    name, version, said = answer.text("PACKAGE_NAME"), answer.text("PACKAGE_VERSION"), _brief(answer.said)
    autoinstall = answer.text("AUTOINSTALL").lower() not in ("", "no")
    recipe = Recipe(name=name, version=version, excluded=excluded, autoinstall=autoinstall, said=said)
    if excluded:
        return recipe
    _check_contiguous(answer, "MAKE")
    _check_contiguous(answer, "PATCH")
    line = _make(answer) or f"make -C {kernel_tree(kernel)} M=$dkms_tree/$module/$module_version/build"
    leading = LEADING_MAKE.match(line)
    if leading:
        line = f"MAKEFLAGS=${MAKE_FLAGS} make KERNELRELEASE={shlex.quote(kernel.release)}{line[leading.end() :]}"
    if not QUOTES.search(line):
        # Kbuild can run in parallel; of other Makefiles nobody knows, as DKMS gives -j to the leading make alone
        kbuild = rf"((?:&&|;)\s*)(make\s+-C\s+{re.escape(kernel_tree(kernel))}(?=\s))"
        line = re.sub(kbuild, rf"\1MAKEFLAGS=${MAKE_FLAGS} \2", line)
    return Recipe(
        name=name,
        version=version,
        depends=tuple(name for _, value in sorted(answer.array("BUILD_DEPENDS").items()) for name in value.split()),
        patches=tuple(
            value
            for index, value in sorted(answer.array("PATCH").items())
            if value and (not answer.array("PATCH_MATCH").get(index) or _matches(answer, "PATCH_MATCH", index))
        ),
        before=_script(answer.text("PRE_BUILD"), "PRE_BUILD"),
        make=line,
        after=_script(answer.text("POST_BUILD"), "POST_BUILD"),
        objects=_objects(answer),
        autoinstall=autoinstall,
        hooks={hook: answer.text(hook).strip() for hook in HOOKS if answer.text(hook).strip()},
        said=said,
    )


def kernel_tree(kernel: Kernel) -> str:
    """Return what kernel_source_dir is for a kernel."""
    return kernel.build_tree or f"/lib/modules/{kernel.release}/build"


def _brief(said: str) -> str:
    lines = said.splitlines()
    more = f" (and {len(lines) - 1} more lines)" if len(lines) > 1 else ""
    return lines[0][:200] + more if lines else ""


def _matches(answer: Answer, directive: str, index: int) -> bool:
    found = answer.matched(directive, index)
    if found is None:
        raise _Refusal(directive, index, f"{answer.array(directive)[index]!r} is no regular expression")
    return found


def _check_contiguous(answer: Answer, *names: str) -> None:
    """Raise _Refusal where an array has a gap, which ends what DKMS reads of it."""
    indices = {index for name in names for index in answer.array(name)}
    for index in range(len(indices)):
        if index not in indices:
            raise _Refusal(names[0], max(indices), f"[{index}] before it is not set")


# -- whether ---------------------------------------------------------------------------------------------------------
def _exclusion(answer: Answer, kernel: Kernel, config: Mapping[str, str]) -> str:
    """Return why a conf excludes a kernel, "" where it does not."""
    release = kernel.release
    if answer.text("build_exclude"):
        return f"its dkms.conf sets build_exclude for {release}"
    for directive, subject in (("BUILD_EXCLUSIVE_KERNEL", release), ("BUILD_EXCLUSIVE_ARCH", kernel.architecture)):
        wanted = answer.text(directive)
        if wanted and not _matches(answer, directive, 0):
            return f"{subject} does not match {directive} ({wanted[:200]})"
    low, high = answer.text("BUILD_EXCLUSIVE_KERNEL_MIN"), answer.text("BUILD_EXCLUSIVE_KERNEL_MAX")
    if low and versions.compare(release, low) < 0:
        return f"{release} is older than BUILD_EXCLUSIVE_KERNEL_MIN ({low[:200]})"
    if high and versions.compare(release, high) > 0:
        return f"{release} is newer than BUILD_EXCLUSIVE_KERNEL_MAX ({high[:200]})"
    obsolete = answer.text("OBSOLETE_BY")
    if obsolete and versions.compare(release, obsolete) >= 0:
        return f"{release} has it in the kernel itself, by OBSOLETE_BY ({obsolete[:200]})"
    for wanted in answer.text("BUILD_EXCLUSIVE_CONFIG").split() if config else ():
        symbol, unwanted = wanted.lstrip("!"), wanted.startswith("!")
        if (config.get(symbol) in ("y", "m")) == unwanted:
            return f"the kernel {'has' if unwanted else 'lacks'} {symbol[:100]} (BUILD_EXCLUSIVE_CONFIG)"
    return ""


# -- what ------------------------------------------------------------------------------------------------------------
def _objects(answer: Answer) -> tuple[DkmsObject, ...]:
    indices = {index for name in OBJECTS for index in answer.array(name)}
    if not indices:
        raise _Refusal("BUILT_MODULE_NAME", None, "neither it nor DEST_MODULE_LOCATION is set")
    count = max(indices) + 1
    strip = answer.array("STRIP")
    found: dict[str, DkmsObject] = {}
    for index in range(count):
        built = answer.array("BUILT_MODULE_NAME").get(index, "")
        if not built and count == 1:
            built = answer.text("PACKAGE_NAME")
        if not built:
            raise _Refusal("BUILT_MODULE_NAME", index, "is not set, but an element after it is")
        name = answer.array("DEST_MODULE_NAME").get(index, "") or built
        for directive, value in (("BUILT_MODULE_NAME", built), ("DEST_MODULE_NAME", name)):
            if value.endswith((".o", ".ko")):
                raise _Refusal(directive, index, f"{value[:100]!r} must not end in .o or .ko")
        place = answer.array("DEST_MODULE_LOCATION").get(index, "")
        if not place:
            raise _Refusal("DEST_MODULE_LOCATION", index, "is not set")
        if not place.startswith(PLACES):
            raise _Refusal("DEST_MODULE_LOCATION", index, f"{place[:100]!r} does not begin with {', '.join(PLACES)}")
        if not place.isprintable() or ".." in place.split("/"):
            raise _Refusal("DEST_MODULE_LOCATION", index, f"{place[:100]!r} is not a directory of modules")
        kept = strip.get(index) or strip.get(0) or "y"
        where = answer.array("BUILT_MODULE_LOCATION").get(index, "")
        try:
            item = DkmsObject(
                built=built, path=os.path.normpath(where) if where else ".", name=name, strip=kept[0] not in "nN"
            )
        except ValidationError as error:
            key = str(error.errors()[0]["loc"][0])
            directive = {"built": "BUILT_MODULE_NAME", "path": "BUILT_MODULE_LOCATION"}.get(key, "DEST_MODULE_NAME")
            raise _Refusal(directive, index, describe(error).partition(": ")[2]) from None
        if name in found:
            raise _Refusal("DEST_MODULE_NAME", index, f"{name} is another element's name, too")
        found[name] = item
    return tuple(found.values())


# -- how -------------------------------------------------------------------------------------------------------------
def _make(answer: Answer) -> str:
    """Return the line of MAKE for the kernel: of the last MAKE_MATCH that matches, else MAKE[0], "" for none."""
    lines, patterns = answer.array("MAKE"), answer.array("MAKE_MATCH")
    chosen = "" if patterns.get(0) else lines.get(0, "")
    for index, line in sorted(lines.items()):
        if line and patterns.get(index) and _matches(answer, "MAKE_MATCH", index):
            chosen = line
    return chosen


def _script(value: str, directive: str) -> str:
    """Return the line that runs a script of the source, which DKMS leaves out where it is not executable."""
    words = value.split()
    if not words:
        return ""
    if words[0].startswith("/") or ".." in words[0].split("/"):
        raise _Refusal(directive, None, f"{words[0][:100]!r} is not inside the source")
    missing = f"echo {directive}: the script is not executable >&2"
    return f"run=$PWD/{shlex.quote(value)}; if [[ -x ${{run%% *}} ]]; then exec $run; else {missing}; fi"
