"""What a kernel's command line says about loading modules, read as the kernel and as modprobe(8) read it.

Sources: next_arg(), parse_args() and parameq() (lib/cmdline.c, kernel/params.c), kstrtobool() (lib/kstrtox.c),
module.sig_enforce (kernel/module/signing.c), module_blacklist (kernel/module/main.c), initcall_blacklist
(init/main.c), sysctl. (fs/proc/proc_sysctl.c), lockdown and lsm (security/), kmod's parser of /proc/cmdline
(libkmod-config.c), kernel-parameters.txt. Pure. Must not: read files, or know which line a kernel gets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Optional

from . import versions

#: sysctl.* words are taken since this release.
SYSCTL_WORDS = "5.8"
LOCKDOWN_LEVELS = ("integrity", "confidentiality")


@dataclass(frozen=True)
class Word:
    """One word: its name, its value without quotes (None without an equals sign), and as it is written."""

    name: str
    value: Optional[str]
    written: str

    def has_name(self, name: str) -> bool:
        """Tell whether the kernel takes this for a parameter of that name: dashes are underscores."""
        return self.name.replace("-", "_") == name.replace("-", "_")


def split(text: str) -> Iterator[Word]:
    """Yield the words of a command line; quotes keep spaces together, and go where they enclose a value."""
    at, end = 0, len(text)
    while at < end:
        if text[at].isspace():
            at += 1
            continue
        begin = at
        quoted, equals = False, -1
        while at < end and (quoted or not text[at].isspace()):
            if text[at] == "=" and equals < 0:
                equals = at
            quoted ^= text[at] == '"'
            at += 1
        yield _word(text[begin:at], equals - begin if equals >= 0 else -1)


def _word(written: str, equals: int) -> Word:
    whole = written.startswith('"')
    if equals < 0:
        return Word(
            written[whole : len(written) - (whole and len(written) > 1 and written.endswith('"'))], None, written
        )
    name, value = written[whole:equals], written[equals + 1 :]
    if value.startswith('"'):
        value = value[1:]
        value = value[:-1] if value.endswith('"') else value
    elif whole and value.endswith('"'):
        value = value[:-1]
    return Word(name, value, written)


def is_true(value: Optional[str]) -> bool:
    """Tell whether a boolean parameter is switched on: kstrtobool(), and by its name alone."""
    if value is None:
        return True
    return value[:1] in ("1", "y", "Y", "t", "T", "e", "E") or value[:2].lower() == "on"


def merge(text: str, config: Mapping[str, str]) -> str:
    """Return the command line that a kernel takes when a boot loader passes a text: it may have one built in."""
    built_in = config.get("CONFIG_CMDLINE", "").replace('\\"', '"')
    if "y" in (config.get("CONFIG_CMDLINE_OVERRIDE"), config.get("CONFIG_CMDLINE_FORCE")):
        return built_in
    return f"{built_in} {text}".strip()


@dataclass(frozen=True)
class CommandLine:
    """A whole command line."""

    text: str

    def words(self) -> Iterator[Word]:
        """Yield the words that are the kernel's: those behind "--" are for init."""
        for word in split(self.text):
            if word.name == "--" and word.value is None:
                return
            yield word

    # -- signatures ------------------------------------------------------------------------------------------------
    def enforcing(self, config: Mapping[str, str]) -> str:
        """Return the word that makes the kernel refuse modules without a trusted signature, "" where none does.

        config: the kernel's, for whether it knows of lockdown.
        """
        for word in self.words():
            if word.has_name("module.sig_enforce") and is_true(word.value):
                return word.written
            if word.has_name("lockdown") and word.value in LOCKDOWN_LEVELS and self._has_lockdown(config):
                return word.written
        return ""

    def _has_lockdown(self, config: Mapping[str, str]) -> bool:
        """Tell whether the lockdown security module is in force: lsm= may leave it out."""
        if config.get("CONFIG_SECURITY_LOCKDOWN_LSM") != "y":
            return False
        if config.get("CONFIG_SECURITY_LOCKDOWN_LSM_EARLY") == "y":
            return True
        chosen = [word.value or "" for word in self.words() if word.has_name("lsm")]
        order = chosen[-1] if chosen else config.get("CONFIG_LSM", "lockdown")
        return "lockdown" in order.split(",")

    # -- refusals --------------------------------------------------------------------------------------------------
    def disabling(self, release: str) -> str:
        """Return the word by which the kernel loads no module at all once it has started, "" where none does."""
        if versions.compare(release, SYSCTL_WORDS) < 0:
            return ""
        for word in self.words():
            path = word.name.replace(".", "/")
            if path == "sysctl/kernel/modules_disabled" and _number(word.value) == 1:
                return word.written
        return ""

    def blacklisting(self, name: str) -> str:
        """Return the word by which the kernel refuses a module, by the exact name in its object; "" where none does."""
        found = [word for word in self.words() if word.has_name("module_blacklist")]  # the last one counts
        return found[-1].written if found and name in (found[-1].value or "").split(",") else ""

    def skipping(self, functions: frozenset[str]) -> str:
        """Return the word by which the kernel does not call one of some init functions, "" where none does."""
        for word in self.words():
            if word.has_name("initcall_blacklist") and functions & set((word.value or "").split(",")):
                return word.written
        return ""

    # -- modprobe --------------------------------------------------------------------------------------------------
    def keeping(self, name: str) -> str:
        """Return the word by which modprobe -b and systemd-modules-load leave out a module (canonical name), or "".

        kmod compares names here as they are written: one with a dash leaves out nothing (kcmdline_parse_result()).
        """
        for word in split(self.text):
            named = (word.value or "").split(",")
            if word.name == "modprobe.blacklist" and name in named:
                return word.written
        return ""

    def options(self, name: str) -> tuple[str, ...]:
        """Return what modprobe passes to a module (canonical name), such as "debug=1"; it reads on behind "--"."""
        found = []
        for word in split(self.text):
            module, dot, parameter = word.name.partition(".")
            if dot and parameter and "." not in parameter and module.replace("-", "_") == name and module != "modprobe":
                value = word.value
                shown = f'"{value}"' if value is not None and any(c.isspace() for c in value) else value
                found.append(parameter if value is None else f"{parameter}={shown}")
        return tuple(found)


def _number(value: Optional[str]) -> Optional[int]:
    """Return what the kernel's sysctl reads as a number: decimal, 0x hexadecimal, 0 octal."""
    text = (value or "").strip()
    try:
        if text.lower().startswith("0x"):
            return int(text, 16)
        return int(text, 8 if text.startswith("0") and len(text) > 1 else 10)
    except ValueError:
        return None
