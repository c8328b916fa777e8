"""What a module file may say, value by value."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmodd.core.modulefile import NAME, Module, ModuleFile, canonical, seconds
from kmodd.core.tomlfile import parse

SOURCE = '[source]\npath = "/usr/src/m"\n'


def file(text: str) -> ModuleFile:
    return parse(ModuleFile, SOURCE + text)


@pytest.mark.parametrize(
    ("span", "value"),
    [("90s", 90), ("30min", 1800), ("1h", 3600), ("1.5 h", 5400), ("500ms", 0.5), ("2m", 120), ("7", 7)],
)
def test_time_spans(span: str, value: float) -> None:
    assert seconds(span) == value
    assert file(f'[build]\ntimeout = "{span}"\n').build.timeout == value


def test_time_span_may_be_a_number() -> None:
    assert file("[build]\ntimeout = 5\n").build.timeout == 5


GOOD: list[tuple[str, str, Any]] = [
    ("", "module.required", True),
    ("", "module.enabled", True),
    ("", "build.directory", "."),
    ("", "build.timeout", 1800),
    ("", "build.strip", True),
    ('[build]\nconfig = { CONFIG_A = "m", CONFIG_B = 3 }\n', "build.config", {"CONFIG_A": "m", "CONFIG_B": 3}),
    ('[module]\nname = "a+b.c-d"\n', "module.name", "a+b.c-d"),
    ('[build]\ndirectory = "drivers/x"\n', "build.directory", "drivers/x"),
]


@pytest.mark.parametrize(("text", "key", "value"), GOOD)
def test_values_and_defaults(text: str, key: str, value: Any) -> None:
    found: Any = file(text)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


BAD = [
    ("module", 'name = "../x"', "module.name"),
    ("module", 'name = ""', "module.name"),
    ("module", 'name = ".x"', "module.name"),
    ("module", 'name = "a b"', "module.name"),
    ("module", f'name = "{"x" * 101}"', "module.name"),
    ("module", 'version = "1\\n2"', "module.version"),
    ("module", 'required = "yes"', "module.required"),
    ("module", "enabled = 1", "module.enabled"),
    ("build", 'directory = "/etc"', "build.directory"),
    ("build", 'directory = "a/../.."', "build.directory"),
    ("build", 'config = { FOO = "m" }', "build.config.FOO"),
    ("build", 'config = { CONFIG_A = "m\\n" }', "build.config.CONFIG_A"),
    ("build", 'config = { "CONFIG_A\\n" = "m" }', "build.config.CONFIG_A"),
    ("build", 'timeout = "soon"', "build.timeout"),
    ("build", "timeout = 0", "build.timeout"),
    ("build", "timeout = -1", "build.timeout"),
    ("build", 'arguments = "x"', "build.arguments"),
    ("build", 'arguments = ["a\\nb"]', "build.arguments.0"),
    ("build", 'arguments = ["KVER={kernle}"]', "build.arguments.0: unknown placeholder {kernle}"),
    ("build", 'depends = ["a b"]', "build.depends.0"),
    ("build", 'command = "make"', "build.command"),
    ("build", 'command = [""]', "build.command.0: must begin with a program"),
    ("build", "command = [[]]", "build.command.0: must begin with a program"),
    ("build", 'command = ["make", ["x"]]', "build.command: must be a list of words, or a list of such lists"),
    ("build", 'command = [["make"], ["x\\n"]]', "build.command.1.0"),
    ("build", 'command = ["./run", "--with={tree}"]', "build.command.0.1: unknown placeholder {tree}"),
    ("build", 'command = ["make"]\narguments = ["X=1"]', "build: arguments is for make and goes without command"),
    ("build", 'command = ["make"]\nconfig = { CONFIG_A = "m" }', "build: config is for make"),
    ("build", 'symvers = ["Module.symvers"]', "build.symvers.0: must be an absolute path"),
    ("kernels", 'match = ["a b"]', "kernels.match.0"),
    ("kernels", 'config = ["FOO"]', "kernels.config.0"),
    ("kernels", 'config = ["CONFIG_A\\n"]', "kernels.config.0"),
    ("kernels", 'minimum = ""', "kernels.minimum"),
    ("kernels", "maximum = 6.9", "kernels.maximum"),
    ("load", 'options = { "m x" = "a=1" }', "load.options.m x"),
    ("load", 'options = { m = "a=1\\ninstall m /bin/evil" }', "load.options.m"),
    ("load", 'options = { m = "a=1\\\\" }', "load.options.m"),
    ("load", 'softdeps = { m = "pre: a\\n" }', "load.softdeps.m"),
    ("load", 'blacklist = ["m\\n"]', "load.blacklist.0"),
    ("load", 'aliases = { "a b" = "m" }', "load.aliases.a b"),
]


@pytest.mark.parametrize(("table", "line", "where"), BAD, ids=[f"{b[0]}: {b[1]}" for b in BAD])
def test_bad_value_is_refused_by_table_and_key(table: str, line: str, where: str) -> None:
    with pytest.raises(ValueError, match=re.escape(where)):
        file(f"[{table}]\n{line}\n")


COMMANDS: list[tuple[str, Any]] = [
    ("[]", ()),
    ('["./run", "{kernel}", "${X}", "{ x }"]', (("./run", "{kernel}", "${X}", "{ x }"),)),
    ('[["./configure", "--with={build_tree}"], ["make", "-j{jobs}"]]',
     (("./configure", "--with={build_tree}"), ("make", "-j{jobs}"))),
]  # fmt: skip


@pytest.mark.parametrize(("text", "argvs"), COMMANDS)
def test_command_is_one_argv_or_several(text: str, argvs: Any) -> None:
    assert file(f"[build]\ncommand = {text}\n").build.command == argvs


SHA = "0123456789abcdef" * 4
BAD_SOURCES = [
    ('path = "/a"\narchive = "/b"', "source: needs exactly one of path, archive, kernel and dkms"),
    ('path = "/a"\nstrip = 1', "source: strip goes with archive only"),
    (f'path = "/a"\nsha256 = "{SHA}"', "source: sha256 goes with archive only"),
    ('archive = "b"', "source.archive: must be an absolute path"),
    ('archive = "/b"\nsha256 = "abc"', "source.sha256"),
    (f'archive = "/b"\nsha256 = "{SHA}\\n"', "source.sha256"),
    ('archive = "/b"\nstrip = -1', "source.strip"),
    ('path = "/a"\npatches = [{ file = "p", fuzz = 4 }]', "source.patches.0.fuzz"),
]


@pytest.mark.parametrize(("text", "where"), BAD_SOURCES)
def test_bad_source_is_refused_by_key(text: str, where: str) -> None:
    with pytest.raises(ValueError, match=re.escape(where)):
        parse(ModuleFile, f"[source]\n{text}\n")


def test_archive_and_its_digest() -> None:
    source = parse(ModuleFile, f'[source]\narchive = "/b"\nsha256 = "{SHA.upper()}"\n').source
    assert (source.kind, source.place, source.sha256, source.strip) == ("archive", "/b", SHA, None)


def test_source_needs_a_path() -> None:
    with pytest.raises(ValueError, match="source: needs exactly one of path, archive, kernel and dkms"):
        parse(ModuleFile, "[source]\n")
    with pytest.raises(ValueError, match=r"source\.path: must be an absolute path"):
        parse(ModuleFile, '[source]\npath = "m"\n')


@pytest.mark.parametrize("path", ["/drivers", "../x", "a/../b", ".", "", "a//b", "a/", "./a", "a\\nb"])
def test_part_of_the_kernels_source_is_a_path_below_it(path: str) -> None:
    with pytest.raises(ValueError, match=r"source\.kernel\.1: must be"):
        parse(ModuleFile, f'[source]\nkernel = ["drivers/md/bcache", "{path}"]\n')


def test_part_of_the_kernels_source_is_built_by_its_makefiles_alone() -> None:
    with pytest.raises(ValueError, match=r"build\.command does not go with source\.kernel"):
        parse(ModuleFile, '[source]\nkernel = ["drivers/md/bcache"]\n[build]\ncommand = ["make"]\n')


def test_patches_are_names_or_tables() -> None:
    text = SOURCE + 'patches = ["a.patch", { file = "b.patch", kernels = ["6.*"], strip = 0 }]\n'
    first, second = parse(ModuleFile, text).source.patches
    assert (first.file, first.kernels, first.strip) == ("a.patch", (), 1)
    assert (second.file, second.kernels, second.strip) == ("b.patch", ("6.*",), 0)


def test_everything_wrong_is_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"module\.requird: unknown key .*; build\.strip: .*") as caught:
        file('[module]\nrequird = true\n[build]\nstrip = "no"\n')
    assert str(caught.value).count(";") == 1


def test_modules_never_change() -> None:
    found = Module(name="m", file=file(""), path="/etc/kmodd/modules.d/m.toml")
    assert (found.required, found.enabled) == (True, True)
    with pytest.raises(ValueError, match="frozen"):
        found.name = "x"  # type: ignore[misc]


def test_canonical_names_have_underscores() -> None:
    assert canonical("snd-usb_audio") == "snd_usb_audio"


@settings(max_examples=50)
@given(st.text("ab.-_+/ \n\0é1", max_size=8))
def test_names_are_safe_as_a_part_of_a_path(text: str) -> None:
    if NAME.fullmatch(text):
        assert "/" not in text
        assert text not in (".", "..")
        assert text.isprintable()
        assert not text.startswith((".", "-"))
