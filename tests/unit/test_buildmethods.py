"""How the method of building is chosen, what own commands get, and errors of those that cannot be started."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from kmodd.core.errors import Problem
from kmodd.core.model import Kernel
from kmodd.core.modulefile import Build, Module, ModuleFile, Source
from kmodd.core.sysroot import Sysroot
from kmodd.kbuild.buildmethod import BuildSpec, Method
from kmodd.kbuild.compiler import Compiler
from kmodd.kbuild.dkmsrecipe import DkmsMethod
from kmodd.kbuild.intree import IntreeMethod
from kmodd.kbuild.jobserver import Share
from kmodd.kbuild.methods import find_method
from kmodd.kbuild.owncommand import CommandMethod, check_started, environment
from kmodd.kbuild.plainkbuild import KbuildMethod

_Result = TypeVar("_Result")
KERNEL = Kernel("6.1", build_tree="/tree")


def with_method(build: Build, tmp_path: Path, use: Callable[[CommandMethod], _Result]) -> _Result:
    """Return what is got of the method for a module with a [build], its source in place."""
    module = Module(name="m", file=ModuleFile(source=Source(path="/usr/src/m"), build=build), path="/m.toml")
    (tmp_path / "source" / build.directory).mkdir(parents=True)

    async def run() -> _Result:
        share = Share(lambda: None)
        try:
            spec = BuildSpec(module, KERNEL, Compiler("gcc", "gcc", ()), tmp_path, tmp_path / "log", share)
            return use(CommandMethod(spec, Sysroot(tmp_path), (0, 0), 4))
        finally:
            share.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("word", "filled"),
    [
        ("{kernel}", "6.1"),
        ("--a={build_tree}/x{jobs}", "--a=/tree/x4"),
        ("{kernel}{kernel}", "6.16.1"),
        ("${HOME} {} {x", "${HOME} {} {x"),
    ],
)
def test_placeholders_are_filled_in(word: str, filled: str, tmp_path: Path) -> None:
    assert with_method(Build(), tmp_path, lambda method: method.fill(word)) == filled


def test_steps_and_their_place(tmp_path: Path) -> None:
    command = (("./configure", "--kernel={kernel}"), ("make",))
    build = Build(command=command, directory="src/./x")
    found = with_method(build, tmp_path, lambda method: list(method.steps([])))
    assert [list(step.argv) for step in found] == [["./configure", "--kernel=6.1"], ["make"]]
    assert {step.directory for step in found} == {"/build/source/src/x"}


MODULES = [
    ({"source": {"path": "/s"}}, KbuildMethod),
    ({"source": {"archive": "/s.tar"}}, KbuildMethod),
    ({"source": {"path": "/s"}, "build": {"command": ("make",)}}, CommandMethod),
    ({"source": {"archive": "/s.tar"}, "build": {"command": ("make",)}}, CommandMethod),
    ({"source": {"kernel": ("drivers/md/bcache",)}}, IntreeMethod),
    ({"source": {"dkms": "/usr/src/x-1/dkms.conf"}}, DkmsMethod),
]


@pytest.mark.parametrize(("file", "expected"), MODULES)
def test_the_module_file_decides_how_it_is_built(file: dict[str, object], expected: type[Method]) -> None:
    assert find_method(Module(name="m", file=ModuleFile.model_validate(file), path="/m.toml")) is expected


def test_compiler_and_symvers_reach_every_make_below() -> None:
    compiler = Compiler("/usr/bin/gcc-12", "gcc 12", ("CC=gcc-12",))
    assert environment(compiler, ["/a", "/b"], " -j --jobserver-auth=10,11") == {
        "CC": "gcc-12",
        "MAKEFLAGS": " -j --jobserver-auth=10,11 -- CC=gcc-12",
        "KBUILD_EXTRA_SYMBOLS": "/a /b",
    }
    assert environment(Compiler("gcc", "gcc", ()), [], "-j") == {}


STARTED = [
    ("setpriv: failed to execute ./run: Permission denied", "command-missing", "./run cannot be run: Permission"),
    ("said before\nsetpriv: failed to execute autoreconf: No such file or directory\n", "tool-missing", "autoreconf"),
    ("bwrap: execvp ./run: No such file or directory", "command-missing", "./run cannot be run: No such file"),
]


@pytest.mark.parametrize(("said", "code", "text"), STARTED)
def test_program_that_cannot_be_started_is_named(said: str, code: str, text: str) -> None:
    with pytest.raises(Problem) as caught:
        check_started(said)
    assert (caught.value.code, text in caught.value.message) == (code, True)
    assert caught.value.transient is (code == "tool-missing")


@pytest.mark.parametrize("said", ["", "error: x", "setpriv: failed to execute x: No such file\nand went on"])
def test_other_ends_are_not_taken_for_it(said: str) -> None:
    check_started(said)
