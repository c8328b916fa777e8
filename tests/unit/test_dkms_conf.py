"""What a dkms.conf and its reader say takes time in proportion to its length, and is refused where it is too much."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import K, settings_of

from kmodd.core import tomlfile
from kmodd.core.errors import Problem
from kmodd.core.model import Kernel
from kmodd.core.modulefile import Module, ModuleFile
from kmodd.core.sysroot import Sysroot
from kmodd.dkms import conf
from kmodd.dkms.answer import LONGEST_VALUE, MOST_VALUES, Answer, parse
from kmodd.dkms.conf import LARGEST_CONF, LONGEST_LINE, ConfReader, guess
from kmodd.dkms.directives import _locate, interpret

MARK = "mark"
KERNEL = Kernel(K)
PIECES = st.lists(
    st.sampled_from(
        ["\n", " ", "\t", ";", "=", "'", '"', "declare ", "-a ", "export ", "PACKAGE_NAME", "MAKE", "[0]", "[", "/etc/",
         "cannot access ", ": line 1", ": line 1: ", "unexpected", "syntax error", "x", "1", "/usr/src/x", "-v1"]
    ),
    min_size=1,
    max_size=6,
)  # fmt: skip


def answer(*fields: str) -> bytes:
    return f"\0{MARK}\0".encode() + "".join(f"{field}\0" for field in fields).encode() + b"\0end\0"


def grows_no_faster(work: Callable[[str], object], piece: str) -> None:
    def take(size: int) -> float:
        text = piece * (size // len(piece))
        took = []
        for _ in range(3):
            began = time.process_time()
            work(text)
            took.append(time.process_time() - began)
        return min(took)

    assert take(160 << 10) < 5 * take(40 << 10) + 0.05


@given(PIECES)
@settings(deadline=None)
def test_a_confs_own_words_are_looked_for_in_linear_time(pieces: list[str]) -> None:
    piece = "".join(pieces)
    grows_no_faster(lambda text: guess(text, "x-1"), piece)
    grows_no_faster(lambda text: _locate("MAKE", 0, [("conf", text)]), piece)


@given(PIECES)
@settings(deadline=None)
def test_what_it_prints_is_looked_at_in_linear_time(pieces: list[str]) -> None:
    def look(text: str) -> None:
        said = [line[: conf.LONGEST_SAID] for line in text.split("\n", conf.MOST_SAID)[: conf.MOST_SAID]]
        for line in said:
            conf.SYNTAX.fullmatch(line)
        try:
            conf._check_conduct("", said, "conf", "/usr/src/x")
        except Problem:
            pass

    grows_no_faster(look, "".join(pieces))


@given(PIECES)
@settings(deadline=None)
def test_values_are_taken_in_linear_time(pieces: list[str]) -> None:
    def take(text: str) -> None:
        parts = [text[at : at + LONGEST_VALUE] for at in range(0, len(text), LONGEST_VALUE)]
        fields = [field for number, part in enumerate(parts) for field in ("MAKE", str(number), part)]
        try:
            found = parse(answer("PACKAGE_NAME", "0", "x", "PACKAGE_VERSION", "0", "1", *fields), MARK)
            interpret(found, KERNEL, {}, [("conf", "")])
        except (Problem, ValueError):
            pass

    grows_no_faster(take, "".join(pieces).replace("\0", ""))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PACKAGE_NAME=foo\nPACKAGE_VERSION='1.0'\n", ("foo", "1.0")),
        ('  PACKAGE_NAME="foo"  # x\n', ("foo", "2.0")),
        ("PACKAGE_NAME=$x\nPACKAGE_NAME=bar\n", ("bar", "2.0")),
        ("#PACKAGE_NAME=foo\nX_PACKAGE_NAME=foo\nPACKAGE_NAME_X=foo\n", ("dir", "2.0")),
        ("\n" * 200_000, ("dir", "2.0")),
    ],
)
def test_plain_words_are_guessed(text: str, expected: tuple[str, str]) -> None:
    assert guess(text, "dir-2.0") == expected


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (["MAKE", "0", "x" * (LONGEST_VALUE + 1)], f"MAKE[0]: is longer than {LONGEST_VALUE} characters"),
        (["MAKE", "1000", "x"], "MAKE[1000]: there may be 1000 elements"),
        (["MAKE", "0", "x"] * (MOST_VALUES + 1), f"it sets more than {MOST_VALUES} values"),
    ],
)
def test_too_much_is_refused_by_its_directive(fields: Sequence[str], said: str) -> None:
    with pytest.raises(ValueError, match=r"is longer than|there may be|sets more") as caught:
        parse(answer(*fields), MARK)
    assert str(caught.value) == said
    assert isinstance(parse(answer("MAKE", "0", "x" * LONGEST_VALUE), MARK), Answer)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n" * (LARGEST_CONF + 1), f"/usr/src/x-1/dkms.conf: is larger than {LARGEST_CONF} bytes"),
        (
            "A=1\nMAKE=" + "x" * LONGEST_LINE,
            f"/usr/src/x-1/dkms.conf:2: the line is longer than {LONGEST_LINE} characters",
        ),
    ],
)
def test_conf_that_is_too_large_is_refused_before_bash_reads_it(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "usr/src/x-1/dkms.conf"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    file = tomlfile.parse(ModuleFile, '[source]\ndkms = "/usr/src/x-1/dkms.conf"\n')
    module = Module(name="x", path="/etc/kmodd/modules.d/x.toml", file=file)

    async def never(*_: object) -> bytes:
        raise AssertionError("bash was to read it")

    reader = ConfReader(Sysroot(tmp_path), never, lambda _: "", lambda _: "", settings_of())
    with pytest.raises(Problem) as caught:
        asyncio.run(reader.find(module, KERNEL))
    assert (caught.value.code, caught.value.message) == ("dkms-conf-invalid", said)
