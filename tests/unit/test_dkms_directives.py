"""What the directives of a dkms.conf mean, told by the shell that reads them: real bash, and tables of confs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import LIMIT

from kmodd.core.errors import Problem
from kmodd.core.model import Kernel
from kmodd.core.recipe import DkmsObject, Recipe
from kmodd.dkms.answer import Answer, parse
from kmodd.dkms.conf import guess
from kmodd.dkms.directives import interpret
from kmodd.dkms.script import SCRIPT

RELEASE = "5.14.0-427.13.1.el9.x86_64"
HEAD = 'PACKAGE_NAME="foo"\nPACKAGE_VERSION="1.2"\n'
ONE = f'{HEAD}DEST_MODULE_LOCATION="/extra"\n'
CONFIG = {"CONFIG_ACPI": "y", "CONFIG_VIDEO_DEV": "m", "CONFIG_X": '"n"'}
TREE = "/usr/src/kernels/K"


def said(tmp_path: Path, text: str, release: str = RELEASE) -> Answer:
    """Have bash read a conf, outside of any sandbox since it is our own."""
    conf = tmp_path / "dkms.conf"
    conf.write_bytes(text.encode())
    words = ["mark", str(conf), release, "x86_64", TREE, "foo", "1.2", str(tmp_path / "etc")]
    argv = ["bash", "--noprofile", "--norc", "-c", SCRIPT, "bash", *words]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT)
    return parse(done.stdout, "mark")


def read(tmp_path: Path, text: str, release: str = RELEASE) -> Recipe:
    """Have bash read a conf, and interpret what it says."""
    answer = said(tmp_path, text, release)
    return interpret(answer, Kernel(release, build_tree=TREE), CONFIG, [("dkms.conf", text)])


KBUILD = f"MAKEFLAGS=$kmodd_makeflags make -C {TREE}"
LEADING = f"MAKEFLAGS=$kmodd_makeflags make KERNELRELEASE={RELEASE}"


@pytest.mark.parametrize(
    ("more", "field", "value"),
    [
        ("", "make", f"{LEADING} -C {TREE} M=$dkms_tree/$module/$module_version/build"),
        ('MAKE="make all KVER=$kernelver"', "make", f"{LEADING} all KVER={RELEASE}"),
        ("MAKE='make KVER=$kernelver'", "make", f"{LEADING} KVER={RELEASE}"),
        ("""MAKE="'make' all" """, "make", "'make' all "[:10]),
        ('MAKE="./build.sh"', "make", "./build.sh"),
        (
            'k=$kernel_source_dir MAKE="make -C $k M=a && make -C $k M=b; make c && make -C ${k}x"',
            "make",
            f"{LEADING} -C {TREE} M=a && {KBUILD} M=b; make c && make -C {TREE}x",
        ),
        ('MAKE="./configure; make -C $kernel_source_dir M=a"', "make", f"./configure; {KBUILD} M=a"),
        (
            """MAKE="sh -c 'true; make -C $kernel_source_dir M=a'" """,
            "make",
            f"sh -c 'true; make -C {TREE} M=a'",
        ),
        ('MAKE="makeit"', "make", "makeit"),
        ('MAKE="make a\n  b"', "make", f"{LEADING} a b"),
        ('MAKE[0]="a"; MAKE[1]="b"; MAKE_MATCH[1]="^5"; MAKE[2]="c"; MAKE_MATCH[2]="el9"', "make", "c"),
        ('MAKE[0]="a"; MAKE[1]="b"; MAKE_MATCH[1]="^6"', "make", "a"),
        ('MAKE[0]="a"; MAKE[1]="b"', "make", "a"),
        ('MAKE[0]="a"; MAKE_MATCH[0]="^6"', "make", f"{LEADING} -C {TREE} M=$dkms_tree/$module/$module_version/build"),
        ('MAKE[0]="a"; MAKE_MATCH[0]="^(5|6)\\."', "make", "a"),
        ('PATCH[0]="a"; PATCH[1]="b"; PATCH_MATCH[1]="^6"; PATCH[2]="c"; PATCH_MATCH[2]="^5"', "patches", ("a", "c")),
        ('AUTOINSTALL="yes"', "autoinstall", True),
        ('AUTOINSTALL="no"', "autoinstall", False),
        ('AUTOINSTALL=""', "autoinstall", False),
        ("[[ $kernelver == 5.* ]] && build_exclude=yes", "excluded", f"its dkms.conf sets build_exclude for {RELEASE}"),
        ("", "autoinstall", False),
        ('BUILD_DEPENDS="a b"', "depends", ("a", "b")),
        ('BUILD_DEPENDS[0]="a"; BUILD_DEPENDS[1]="b"', "depends", ("a", "b")),
        ("echo to nobody", "said", ""),
        ("echo one >&2; echo two >&2", "said", "one (and 1 more lines)"),
        ('BUILD_EXCLUSIVE_KERNEL="^5.*el9"', "excluded", ""),
        ('BUILD_EXCLUSIVE_KERNEL="^6"', "excluded", f"{RELEASE} does not match BUILD_EXCLUSIVE_KERNEL (^6)"),
        ('BUILD_EXCLUSIVE_ARCH="i.86"', "excluded", "x86_64 does not match BUILD_EXCLUSIVE_ARCH (i.86)"),
        ('BUILD_EXCLUSIVE_KERNEL_MIN="5.9"', "excluded", ""),
        ('BUILD_EXCLUSIVE_KERNEL_MAX="5.9"', "excluded", f"{RELEASE} is newer than BUILD_EXCLUSIVE_KERNEL_MAX (5.9)"),
        ('BUILD_EXCLUSIVE_KERNEL_MAX="5.15"', "excluded", ""),
        ('OBSOLETE_BY="5.14"', "excluded", f"{RELEASE} has it in the kernel itself, by OBSOLETE_BY (5.14)"),
        ('OBSOLETE_BY="5.14.0-500"', "excluded", ""),
        ('BUILD_EXCLUSIVE_CONFIG="CONFIG_ACPI CONFIG_VIDEO_DEV !CONFIG_X"', "excluded", ""),
        ('BUILD_EXCLUSIVE_CONFIG="!CONFIG_ACPI"', "excluded", "the kernel has CONFIG_ACPI (BUILD_EXCLUSIVE_CONFIG)"),
        ('BUILD_EXCLUSIVE_CONFIG="CONFIG_X"', "excluded", "the kernel lacks CONFIG_X (BUILD_EXCLUSIVE_CONFIG)"),
        ('[ -f "$kernel_source_dir/.config" ] || PACKAGE_VERSION=none', "version", "none"),
        ("for i in 1 2; do PACKAGE_VERSION+=.$i; done", "version", "1.2.1.2"),
    ],
)
def test_directives_mean_what_they_mean_to_dkms(tmp_path: Path, more: str, field: str, value: Any) -> None:
    assert getattr(read(tmp_path, f"{ONE}{more}\n"), field) == value


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("more", "objects"),
    [
        ('DEST_MODULE_LOCATION="/kernel/x"', [("foo", ".", "foo", True)]),
        ('BUILT_MODULE_NAME="a-b"|DEST_MODULE_LOCATION="/extra"|STRIP="no"', [("a-b", ".", "a-b", False)]),
        (
            'BUILT_MODULE_NAME[0]="a"|BUILT_MODULE_NAME[1]="b"|BUILT_MODULE_LOCATION[1]="x/y/"|STRIP[0]="no"|'
            'STRIP[1]="Yes"|DEST_MODULE_LOCATION[0]="/extra"|DEST_MODULE_LOCATION[1]="/updates"|DEST_MODULE_NAME[1]="c"',
            [("a", ".", "a", False), ("b", "x/y", "c", True)],
        ),
        (
            "BUILT_MODULE_NAME=(a b)|DEST_MODULE_LOCATION=(/extra /extra)|STRIP=no",
            [("a", ".", "a", False), ("b", ".", "b", False)],
        ),
    ],
)
def test_objects_are_those_of_dkms(tmp_path: Path, ending: str, more: str, objects: list[Any]) -> None:
    text = (HEAD + more.replace("|", "\n") + "\n").replace("\n", ending)
    if ending == "\r\n" and "(" in more:
        text = text.replace(")\r", ")")  # bash itself takes a word after an array for a command
    expected = tuple(DkmsObject(built=b, path=p, name=n, strip=s) for b, p, n, s in objects)
    found = read(tmp_path, text)
    assert (found.name, found.version, found.objects) == ("foo", "1.2", expected)


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ('PACKAGE_VERSION="1"\n', "dkms-conf-invalid", "dkms.conf: PACKAGE_NAME: is not set"),
        (HEAD, "dkms-conf-invalid", "dkms.conf: BUILT_MODULE_NAME: neither it nor"),
        (f"{ONE}BUILT_MODULE_NAME[1]=b\n", "dkms-conf-invalid", "dkms.conf: BUILT_MODULE_NAME[0]: is not set"),
        (f"{ONE}BUILT_MODULE_NAME=a.ko\n", "dkms-conf-invalid", "dkms.conf:4: BUILT_MODULE_NAME[0]: 'a.ko' must not"),
        (f"{ONE}BUILT_MODULE_NAME=a/b\n", "dkms-conf-invalid", "dkms.conf:4: BUILT_MODULE_NAME[0]: cannot be the name"),
        (f"{ONE}BUILT_MODULE_LOCATION=../x\n", "dkms-conf-invalid", "dkms.conf:4: BUILT_MODULE_LOCATION[0]: must be"),
        (f"{HEAD}DEST_MODULE_LOCATION=/opt\n", "dkms-conf-invalid", "dkms.conf:3: DEST_MODULE_LOCATION[0]: '/opt'"),
        (f"{HEAD}BUILT_MODULE_NAME=a\n", "dkms-conf-invalid", "dkms.conf: DEST_MODULE_LOCATION[0]: is not set"),
        (f"{ONE}MAKE[0]=a\nMAKE[2]=b\n", "dkms-conf-invalid", "dkms.conf:5: MAKE[2]: [1] before it is not set"),
        (f"{ONE}PATCH[1]=a\n", "dkms-conf-invalid", "dkms.conf:4: PATCH[1]: [0] before it is not set"),
        (f"{ONE}PATCH=../a\n", "dkms-conf-invalid", "dkms.conf:4: PATCH: must be a path inside"),
        (f"{ONE}MAKE=a\nMAKE_MATCH='('\n", "dkms-conf-invalid", "dkms.conf:5: MAKE_MATCH[0]: '(' is no regular"),
        (f"{ONE}PRE_BUILD=/bin/sh\n", "dkms-conf-invalid", "dkms.conf:4: PRE_BUILD: '/bin/sh' is not inside"),
        (f"{ONE}PACKAGE_NAME=../x\n", "dkms-conf-invalid", "dkms.conf:4: PACKAGE_NAME"),
        (f"{ONE}PACKAGE_VERSION=1/2\n", "dkms-conf-invalid", "dkms.conf:4: PACKAGE_VERSION"),
        (f"{ONE}\nDKMS_DIRECTIVE_X='MAKE=a'\n", "dkms-conf-invalid", "dkms.conf:5: DKMS_DIRECTIVE_X: is a variable of"),
        (f"{ONE}patch_array=(a)\n", "dkms-conf-invalid", "dkms.conf:4: patch_array: is a variable of DKMS's own; use"),
        (f"{ONE}POST_INSTALL=a.sh\n", "dkms-hook", "dkms.conf:4: POST_INSTALL='a.sh': kmodd runs no script"),
    ],
)
def test_what_cannot_be_taken_is_refused_with_line_and_directive(
    tmp_path: Path, text: str, code: str, message: str
) -> None:
    with pytest.raises(Problem) as caught:
        read(tmp_path, text)
    assert caught.value.code == code
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("printf() { echo mine; }; declare() { :; }; eval() { :; }; set() { :; }", "declare() eval() printf() set()"),
        ("builtin() { :; }; unset() { :; }; export() { :; }", "builtin() export() unset()"),
        ("alias printf='echo' eval='echo' for='echo'; shopt -s expand_aliases", ""),
        ("trap 'echo debug' DEBUG; trap 'echo end' EXIT; set -T", "trap"),
        ("trap 'echo return' RETURN", "trap"),
        ("trap 'echo end' EXIT", ""),
        ("export LD_PRELOAD=/x", "LD_PRELOAD"),
        ("BASH_ENV=/x; LD_LIBRARY_PATH=/x", "LD_LIBRARY_PATH BASH_ENV"),
        ("IFS=0123456789abcdef; set -eux; set -o noglob", ""),
        ("enable -n printf eval export; hash -p /bin/false printf", ""),
        ("exec 1>&2; exec 2>/dev/null", ""),
        ("PATH=/nowhere; PS4='$(echo trace)'; set -x", ""),
        ("helper() { echo 1; }; PACKAGE_VERSION=1.$(helper)", ""),
    ],
)
def test_a_hijacked_shell_tells_the_same_and_that_it_was(tmp_path: Path, more: str, told: str) -> None:
    assert read(tmp_path, f"{ONE}{more}\n").objects == read(tmp_path, ONE).objects
    assert said(tmp_path, f"{ONE}{more}\n").tampered == told


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("exit 0", "it ends the shell that reads it"),
        ("exec true", "it ends the shell that reads it"),
        ("declare -A MAKE; MAKE[x]=1", "an index must be a number"),
        ("MAKE[5000]=1", "there may be 1000 elements"),
        ("PATCH=$'\\xff'", "not UTF-8"),
        ("readonly __kmodd_name", "PACKAGE_NAME: is not set"),
        ("printf() { echo; }; readonly -f printf", "ends the shell"),
    ],
)
def test_a_broken_shell_is_refused(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises((ValueError, Problem), match=message):
        read(tmp_path, f"{ONE}{more}\n")


@given(st.binary(max_size=300))
def test_whatever_is_printed_becomes_an_answer_or_an_error(printed: bytes) -> None:
    for data in (printed, b"\0mark\0" + printed + b"\0end\0", b"\0mark\0MAKE\x000\0" + printed + b"\0\0end\0"):
        try:
            assert isinstance(parse(data, "mark"), Answer)
        except ValueError:
            pass


@given(st.dictionaries(st.sampled_from(["PACKAGE_NAME", "BUILT_MODULE_NAME", "PATCH", "MAKE", "STRIP"]), st.text()))
def test_whatever_a_conf_says_becomes_a_recipe_or_a_problem(said: dict[str, str]) -> None:
    values = {name: {0: value} for name, value in said.items()}
    values = {"PACKAGE_NAME": {0: "a"}, "PACKAGE_VERSION": {0: "1"}, "DEST_MODULE_LOCATION": {0: "/extra"}, **values}
    try:
        recipe = interpret(Answer(values), Kernel(RELEASE), {}, [("dkms.conf", "")])
    except Problem:
        return
    assert "/" not in recipe.objects[0].name
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_name_and_version_are_known_before_the_conf_is_read() -> None:
    assert guess('PACKAGE_NAME="a"\nPACKAGE_VERSION=2\n', "b-1") == ("a", "2")
    assert guess("PACKAGE_NAME=$x\n", "jool-dkms-4.1.9") == ("jool-dkms", "4.1.9")
    assert guess("", "plain") == ("plain", "")
