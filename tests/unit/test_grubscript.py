"""What a line of GRUB's script language comes to."""

from __future__ import annotations

import pytest

from kmodd.core.grubscript import Loaded, Unclear, assignments, command_line, loaded, substitute

VARIABLES = {"kernelopts": "root=/dev/sda ro", "tuned_params": "", "one": "1"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("root=/dev/sda  ro quiet", "root=/dev/sda ro quiet"),
        ("$kernelopts $tuned_params quiet", "root=/dev/sda ro quiet"),
        ("${kernelopts}", "root=/dev/sda ro"),
        ("a$kernelopts-b", "aroot=/dev/sda ro-b"),
        ("module.sig_enforce=$one", "module.sig_enforce=1"),
        ('module.sig_enforce="$one"', "module.sig_enforce=1"),
        ("module.sig_enforce='$one'", "module.sig_enforce=$one"),
        ("$unset", ""),
        ('dyndbg="file a.c +p" quiet', '"dyndbg=file a.c +p" quiet'),
        ("a='b c'", '"a=b c"'),
        (r"a=b\ c", '"a=b c"'),
        (r"a=\"b", r"a=\"b"),
        ("a=100$ b=$", "a=100$ b=$"),
        ("a # module.sig_enforce=1", "a"),
        ("a#b", "a#b"),
        ('a=""', "a="),
        ("", ""),
    ],
)
def test_line_is_told(text: str, result: str) -> None:
    assert command_line(text, VARIABLES) == result


@pytest.mark.parametrize("text", ["a; reboot", "a `b`", 'a="b', "a | b", "a='"])
def test_line_cannot_be_told(text: str) -> None:
    with pytest.raises(Unclear):
        command_line(text, VARIABLES)


def test_variables_of_a_boot_entry_are_replaced_before_its_quotes_are_read() -> None:
    variables = {"opts": 'dyndbg="file a.c +p"'}
    assert command_line(substitute("$opts ro", variables), {}) == '"dyndbg=file a.c +p" ro'


def test_configuration_is_searched_for_kernels_and_variables() -> None:
    text = """\
if [ -z "${kernelopts}" ]; then
  set kernelopts="root=/dev/sdb ro "
fi
set tuned_params=""
  set tuned_params="isolcpus=1"
menuentry 'Debian' --class debian {
	linux	/boot/vmlinuz-6.1.0-56-amd64 root=UUID=x ro  quiet
	initrd	/boot/initrd.img-6.1.0-56-amd64
}
linux16 "/vmlinuz-5.14" $kernelopts
linuxefi /vmlinuz-4.18
"""
    assert list(loaded(text)) == [
        Loaded("/boot/vmlinuz-6.1.0-56-amd64", "root=UUID=x ro  quiet"),
        Loaded("/vmlinuz-5.14", "$kernelopts"),
        Loaded("/vmlinuz-4.18", ""),
    ]
    assert assignments(text)["kernelopts"] == {'"root=/dev/sdb ro "'}
    assert assignments(text)["tuned_params"] == {'""', '"isolcpus=1"'}
