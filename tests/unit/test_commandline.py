"""A kernel's command line, read as the kernel and as modprobe read it."""

from __future__ import annotations

from typing import Optional

import pytest

from kmodd.core.commandline import CommandLine, merge, split

LOCKABLE = {"CONFIG_SECURITY_LOCKDOWN_LSM": "y", "CONFIG_LSM": "landlock,lockdown,yama,selinux"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  root=/dev/sda\tquiet\n", [("root", "/dev/sda"), ("quiet", None)]),
        ('a="b c" d', [("a", "b c"), ("d", None)]),
        ('"a=b c" d', [("a", "b c"), ("d", None)]),
        ('"a b"', [("a b", None)]),
        ('a=b"c d"e', [("a", 'b"c d"e')]),
        ('a="b', [("a", "b")]),
        ('a="b c', [("a", "b c")]),
        ("a=b=c", [("a", "b=c")]),
        ("a=", [("a", "")]),
        ('"', [("", None)]),
        ("", []),
    ],
)
def test_words_are_those_of_the_kernel(text: str, words: list[tuple[str, Optional[str]]]) -> None:
    assert [(word.name, word.value) for word in split(text)] == words


@pytest.mark.parametrize(
    ("text", "enforces"),
    [
        ("module.sig_enforce", True),
        ("module.sig_enforce=1", True),
        ("module.sig_enforce=On", True),
        ("module.sig_enforce=ON", True),
        ("module.sig_enforce=yes", True),
        ("module.sig_enforce=true", True),
        ("module.sig-enforce=1", True),
        ('module.sig_enforce="1"', True),
        ('"module.sig_enforce=1"', True),
        ('"module.sig_enforce"', True),
        ("quiet module.sig_enforce=1 module.sig_enforce=0", True),  # it cannot be switched off again
        ("module.sig_enforce=0", False),
        ("module.sig_enforce=off", False),
        ("module.sig_enforce=no", False),
        ("module.sig_enforce=", False),
        ("module.sig_enforces=1", False),
        ("xmodule.sig_enforce=1", False),
        ("-- module.sig_enforce=1", False),
        ('a="-- " module.sig_enforce=1', True),
        ('init="x module.sig_enforce=1"', False),
        ("lockdown=integrity", True),
        ("lockdown=confidentiality", True),
        ('lockdown="integrity"', True),
        ("lockdown=none", False),
        ("lockdown", False),
        ("lockdown=Integrity", False),
        ("lockdown=integrity lsm=yama,selinux", False),
        ("lockdown=integrity lsm=yama,lockdown", True),
        ("lockdown=integrity -- lsm=yama", True),
    ],
)
def test_signatures_are_demanded(text: str, enforces: bool) -> None:
    assert bool(CommandLine(text).enforcing(LOCKABLE)) == enforces


@pytest.mark.parametrize(
    ("config", "enforces"),
    [
        ({}, False),
        ({"CONFIG_SECURITY_LOCKDOWN_LSM": "y"}, True),
        ({"CONFIG_SECURITY_LOCKDOWN_LSM": "y", "CONFIG_LSM": "yama"}, False),
        (
            {
                "CONFIG_SECURITY_LOCKDOWN_LSM": "y",
                "CONFIG_LSM": "yama",
                "CONFIG_SECURITY_LOCKDOWN_LSM_EARLY": "y",
            },
            True,
        ),
    ],
)
def test_lockdown_needs_its_security_module(config: dict[str, str], enforces: bool) -> None:
    assert bool(CommandLine("lockdown=integrity").enforcing(config)) == enforces


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("module_blacklist=one", True),
        ("module-blacklist=one", True),
        ("module_blacklist=two,one,three", True),
        ('module_blacklist="one"', True),
        ("module_blacklist=two", False),
        ("module_blacklist=on", False),
        ("module_blacklist=ones", False),
        ("module_blacklist=one module_blacklist=two", False),  # the last one counts
        ("module_blacklist", False),
        ("-- module_blacklist=one", False),
        ("modprobe.blacklist=one", False),
    ],
)
def test_kernel_refuses_a_module_by_name(text: str, refused: bool) -> None:
    assert bool(CommandLine(text).blacklisting("one")) == refused


def test_kernel_compares_the_names_of_blacklisted_modules_exactly() -> None:
    assert not CommandLine("module_blacklist=snd-aloop").blacklisting("snd_aloop")


@pytest.mark.parametrize(
    ("text", "skipped"),
    [
        ("initcall_blacklist=one_init", True),
        ("initcall_blacklist=x,one_init", True),
        ("initcall_blacklist=one_init initcall_blacklist=x", True),  # all count
        ("initcall-blacklist=one_init", True),
        ("initcall_blacklist=one_init_more", False),
        ("-- initcall_blacklist=one_init", False),
    ],
)
def test_kernel_skips_an_init_function(text: str, skipped: bool) -> None:
    assert bool(CommandLine(text).skipping(frozenset({"one_init", "init_module"}))) == skipped


@pytest.mark.parametrize(
    ("text", "release", "disabled"),
    [
        ("sysctl.kernel.modules_disabled=1", "6.1.0", True),
        ("sysctl/kernel/modules_disabled=1", "6.1.0", True),
        ("sysctl.kernel/modules_disabled=0x1", "6.1.0", True),
        ('sysctl.kernel.modules_disabled="1"', "6.1.0", True),
        ("sysctl.kernel.modules_disabled=0", "6.1.0", False),
        ("sysctl.kernel.modules_disabled=2", "6.1.0", False),
        ("sysctl.kernel.modules_disabled", "6.1.0", False),
        ("sysctl.kernel.modules-disabled=1", "6.1.0", False),  # a path, not a parameter
        ("-- sysctl.kernel.modules_disabled=1", "6.1.0", False),
        ("sysctl.kernel.modules_disabled=1", "4.18.0-553.el8_10.x86_64", False),
    ],
)
def test_kernel_loads_nothing(text: str, release: str, disabled: bool) -> None:
    assert bool(CommandLine(text).disabling(release)) == disabled


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("modprobe.blacklist=snd-aloop", False),
        ("modprobe.blacklist=x,snd_aloop", True),
        ("modprobe.blacklist=snd_aloop modprobe.blacklist=x", True),
        ("-- modprobe.blacklist=snd_aloop", True),  # modprobe does not stop there
        ("modprobe.blacklist=snd", False),
        ("module_blacklist=snd_aloop", False),
    ],
)
def test_modprobe_leaves_a_module_out(text: str, kept: bool) -> None:
    assert bool(CommandLine(text).keeping("snd_aloop")) == kept


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("snd_aloop.index=1 quiet snd-aloop.id=x", ("index=1", "id=x")),
        ("snd_aloop.enable", ("enable",)),
        ('snd_aloop.id="a b"', ('id="a b"',)),
        ('snd_aloop.id="a"', ("id=a",)),
        ("-- snd_aloop.index=1", ("index=1",)),
        ("snd_aloop.a.b=1", ()),
        ("x=snd_aloop.index=1", ()),
        ("snd.index=1 modprobe.blacklist=x", ()),
    ],
)
def test_modprobe_passes_options(text: str, options: tuple[str, ...]) -> None:
    assert CommandLine(text).options("snd_aloop") == options


@pytest.mark.parametrize(
    ("config", "whole"),
    [
        ({}, "quiet"),
        ({"CONFIG_CMDLINE": ""}, "quiet"),
        ({"CONFIG_CMDLINE": "module.sig_enforce=1"}, "module.sig_enforce=1 quiet"),
        ({"CONFIG_CMDLINE": "ro", "CONFIG_CMDLINE_OVERRIDE": "y"}, "ro"),
        ({"CONFIG_CMDLINE": 'a=\\"b c\\"', "CONFIG_CMDLINE_FORCE": "y"}, 'a="b c"'),
    ],
)
def test_built_in_command_line_counts(config: dict[str, str], whole: str) -> None:
    assert merge("quiet", config) == whole
