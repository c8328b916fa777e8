"""Names of objects: which there can be, which are refused, which take the place of the kernel's own."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError
from worlds import NOW, POLICY, K, T, built, change, do, kernel, module, record, settled, world

from kmodd.core.actions import InstallModule
from kmodd.core.documents.status import status_document
from kmodd.core.errors import Problem
from kmodd.core.model import Fault, Snapshot, Verdict
from kmodd.core.modulefile import ModuleFile
from kmodd.core.planner import judge
from kmodd.core.recipe import DkmsObject
from kmodd.core.visible import visible
from kmodd.kbuild.objects import check_name, find_objects
from kmodd.sources.makefile import foresee

GOOD = ("a", "a-b", "a_b", "_a", "8021q", "snd-soc-x", 55 * "a")
BAD = ("", " ", "a b", "a\nb", "a.b", "a+b", "a/b", "-a", "é", "a\udcff", "a\x1b[31m", "\u202ea", "$a", 56 * "a")


@pytest.mark.parametrize("name", [*GOOD, *BAD])
def test_a_name_is_one_that_the_kernel_can_have(tmp_path: Path, name: str) -> None:
    good = name in GOOD
    if "/" not in name:
        path = tmp_path / f"{name}.ko"
        path.touch()
        assert find_objects(tmp_path) == [path]
        if good:
            check_name(path, tmp_path)
        else:
            with pytest.raises(Problem, match="the build yielded") as caught:
                check_name(path, tmp_path)
            assert caught.value.code == "object-invalid" and not caught.value.transient
            assert caught.value.message.isprintable() and caught.value.message.encode()
    document = {"source": {"path": "/x"}, "object": ({"name": name},)}
    dkms = {"built": name, "path": ".", "name": name, "strip": True}
    for model, content in ((ModuleFile, document), (DkmsObject, dkms)):
        if good:
            model.model_validate(content)
        else:
            with pytest.raises(ValidationError):
                model.model_validate(content)


def test_objects_are_found_however_deep_and_never_behind_links(tmp_path: Path) -> None:
    deep = tmp_path.joinpath("top", *["d"] * 800)
    here = tmp_path / "top"
    here.mkdir()
    for _ in range(800):
        here = here / "d"
        here.mkdir()
    (deep / "deep.ko").touch()
    (tmp_path / "top/a.ko").touch()
    (tmp_path / "top/dir.ko").mkdir()
    (tmp_path / "top/link.ko").symlink_to("a.ko")
    (tmp_path / "top/loop").symlink_to(".")
    os.mkfifo(tmp_path / "top/fifo.ko")
    assert find_objects(tmp_path / "top") == [tmp_path / "top/a.ko", deep / "deep.ko"]


# -- the kernel's own ------------------------------------------------------------------------------------------------
OWN = kernel(in_tree=frozenset({"m"}))
BUILT_ONLY = world(kernels=(OWN,), records={T: record(installed=None)})
HINT = 'if ours is to take its place, add to /etc/kmodd/modules.d/m.toml: [[object]] name = "m"'
REFUSED = Fault("object-in-tree", "the build yielded m.ko, and the kernel has a module m of its own", HINT)


def verdict(snapshot: Snapshot) -> tuple[Verdict, str, str]:
    found = judge(snapshot, POLICY, NOW)[T]
    return found.verdict, found.problem, found.hint


def test_an_object_named_like_the_kernels_own_is_not_installed_unasked() -> None:
    assert do(BUILT_ONLY) == []
    assert verdict(BUILT_ONLY) == (Verdict.FAILED, REFUSED.problem, REFUSED.hint)


@pytest.mark.parametrize(
    "tables",
    [
        {"object": ({"name": "m"},)},
        {"source": {"kernel": ("drivers/m",)}},
        {"source": {"dkms": "/usr/src/m-1/dkms.conf"}},
    ],
    ids=["[[object]]", "source.kernel", "source.dkms"],
)
def test_it_is_installed_where_somebody_named_it(tables: dict[str, object]) -> None:
    asked = world(module(**tables), kernels=(OWN,), records={T: record(installed=None)})
    assert InstallModule(T, "not installed") in do(asked)


def test_it_is_installed_once_the_kernel_has_none_of_its_own_any_more() -> None:
    assert InstallModule(T, "not installed") in do(replace(BUILT_ONLY, kernels={K: kernel()}))


def test_what_is_installed_already_stays_ready_with_a_warning_and_is_mended() -> None:
    there = settled(kernels=(OWN,))
    assert not any(isinstance(action, InstallModule) for action in do(there))
    assert verdict(there)[0] is Verdict.READY
    (target,) = status_document(there, judge(there, POLICY, NOW))["targets"]
    assert target["warnings"] == [f"the next build will be refused: {REFUSED.message}; {REFUSED.hint}"]
    damaged = change(there, damaged={T: "m.ko was changed"})
    assert InstallModule(T, "m.ko was changed") in do(damaged)


def test_a_new_build_of_what_is_installed_is_refused_and_the_old_one_stays() -> None:
    anew = world(kernels=(OWN,), records={T: record(built=built(sha256="u2"))})
    assert verdict(anew) == (Verdict.FAILED, REFUSED.problem, REFUSED.hint)
    assert not any(isinstance(action, InstallModule) for action in do(anew))


# -- what can be foreseen --------------------------------------------------------------------------------------------
MAKEFILES = {
    "obj-m := a.o\n": ([("a", ".")], True),
    "obj-m += a.o b-c.o # d.o\nobj-m+=e.o\n": ([("a", "."), ("b-c", "."), ("e", ".")], True),
    "obj-m := a.o \\\n\tb.o\n": ([("a", "."), ("b", ".")], True),
    "ifneq ($(KERNELRELEASE),)\nobj-m := a.o\nelse\nall:\n\tmake\nendif\n": ([("a", ".")], True),
    "ifdef X\nobj-m := a.o\nendif\nobj-m += b.o\n": ([("a", "."), ("b", ".")], False),
    "obj-$(CONFIG_A) += a.o\n": ([("a", ".")], False),
    "obj-m := $(NAME).o a.o\n": ([("a", ".")], False),
    "obj-m := sub/ a.o\n": ([("a", "."), ("x", "sub")], True),
    "obj-m := ../a.o\n": ([], False),
    "a-objs := b.o\nall:\n": ([], True),
}


@pytest.mark.parametrize("text", MAKEFILES)
def test_objects_are_foreseen_as_far_as_a_makefile_is_plain(tmp_path: Path, text: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/Kbuild").write_text("obj-m := x.o\n")
    (tmp_path / "Makefile").write_text(text)
    found = foresee(tmp_path)
    assert (list(found.objects), found.certain) == MAKEFILES[text]


SHOWN = [
    ("plain", "plain"),
    ("é 中 \xa0", "é 中 \xa0"),
    ("a\x1b[31mb", r"a\x1b[31mb"),
    ("a\x9bb", r"a\x9bb"),
    ("a\u202eb", r"a\u202eb"),
    ("a\u2066b\u200bc\ufeff", r"a\u2066b\u200bc\ufeff"),
    ("a\nb\tc\r", r"a\nb\tc\r"),
    ("a\x7f", r"a\x7f"),
    (b"a\xff".decode(errors="surrogateescape"), r"a\xff"),
    (chr(0xD800), r"\ud800"),
    ("\U000e0041", r"\U000e0041"),
]


@pytest.mark.parametrize(("text", "shown"), SHOWN, ids=ascii)
def test_what_steers_or_is_not_seen_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown
