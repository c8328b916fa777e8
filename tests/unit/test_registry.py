"""Module files as they lie on disk: taken, masked, or refused with file, table and key."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmodd.core.errors import Problem
from kmodd.core.sysroot import Sysroot
from kmodd.host.registry import LARGEST, Registry, RegistryReader, add, parse, remove

ETC, USR = "etc/kmodd/modules.d", "usr/lib/kmodd/modules.d"
SMALL = '[source]\npath = "/usr/src/m"\n'
FULL = """
[module]
name = "v4l2loopback"
version = "0.12.7"
required = false
enabled = true

[source]
path = "/usr/src/v4l2loopback-0.12.7"
patches = ["fix.patch", { file = "6.8.patch", kernels = ["6.8.*"], strip = 1 }]

[build]
directory = "."
config = { CONFIG_BCACHE = "m" }
arguments = ["EXTRA=1", "K={kernel}"]
depends = ["libceph"]
timeout = "30min"
strip = true

[[object]]
name = "v4l2loopback"
path = "."

[kernels]
match = ["6.1.*"]
exclude = ["*+debug"]
minimum = "5.14"
maximum = "6.9"
architectures = ["x86_64"]
config = ["CONFIG_VIDEO_DEV", "!CONFIG_FOO"]

[load]
at_boot = ["v4l2loopback"]
options = { v4l2loopback = "devices=2 exclusive_caps=1" }
softdeps = { v4l2loopback = "pre: videodev" }
blacklist = ["some_in_tree_driver"]
aliases = { "char-major-81-*" = "v4l2loopback" }
debug = ["v4l2loopback"]
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in (ETC, USR, "dev"):
        (tmp_path / path).mkdir(parents=True)
    return tmp_path


def read(root: Path) -> Registry:
    return RegistryReader(Sysroot(root)).read()


def test_every_key_is_taken(root: Path) -> None:
    (root / ETC / "x.toml").write_text(FULL)
    found = read(root)
    assert found.broken == ()
    module = found.modules["v4l2loopback"]
    assert (module.path, module.required, module.enabled) == (f"/{ETC}/x.toml", False, True)
    assert module.file.build.timeout == 1800
    assert [p.file for p in module.file.source.patches] == ["fix.patch", "6.8.patch"]
    assert module.file.source.patches[1].kernels == ("6.8.*",)
    assert module.file.load.aliases == {"char-major-81-*": "v4l2loopback"}


def test_name_is_the_files_stem_where_it_says_none(root: Path) -> None:
    (root / ETC / "a.b.toml").write_text(SMALL)
    assert set(read(root).modules) == {"a.b"}


def test_missing_directories_are_an_empty_registry(tmp_path: Path) -> None:
    assert read(tmp_path) == Registry()


@pytest.mark.parametrize("name", ["x.conf", ".x.toml", "x.toml~", ".x.toml.kmodd-new"])
def test_other_names_are_not_module_files(root: Path, name: str) -> None:
    (root / ETC / name).write_text("{")
    (root / ETC / "x.patches").mkdir()
    (root / ETC / "README").touch()
    found = read(root)
    assert (found.modules, found.broken) == ({}, ())
    assert found.unread == (() if name.startswith(".") else (f"/{ETC}/{name}",))


# -- masking ---------------------------------------------------------------------------------------------------------
def test_file_in_etc_masks_the_vendors(root: Path) -> None:
    (root / USR / "m.toml").write_text(SMALL)
    assert read(root).modules["m"].path == f"/{USR}/m.toml"
    (root / ETC / "m.toml").write_text(SMALL)
    assert read(root).modules["m"].path == f"/{ETC}/m.toml"


@pytest.mark.parametrize("device", [True, False])
def test_link_to_dev_null_disables(root: Path, device: bool) -> None:
    (root / USR / "m.toml").write_text(SMALL)
    if device:
        (root / "dev/null").touch()
    (root / ETC / "m.toml").symlink_to("/dev/null")
    assert read(root) == Registry()


def test_broken_file_in_etc_does_not_unmask_the_vendors(root: Path) -> None:
    (root / USR / "m.toml").write_text(SMALL)
    (root / ETC / "m.toml").write_text("{")
    found = read(root)
    assert found.modules == {}
    assert [b.name for b in found.broken] == ["m"]


# -- bad files -------------------------------------------------------------------------------------------------------
TEXTS = [
    ("[module\n", "module-file-invalid", "not valid TOML: .*line 1"),
    ("", "module-file-invalid", "source: Field required"),
    (SMALL + SMALL, "module-file-invalid", "not valid TOML"),
    ("foo = 1\n" + SMALL, "module-file-invalid", "foo: unknown key"),
    *(
        (
            f"{SMALL if table != 'source' else ''}{head}\nbogus = 1\n{needed}",
            "module-file-invalid",
            rf"{where}\.bogus: unknown key",
        )
        for table, head, where, needed in (
            ("module", "[module]", "module", ""),
            ("source", "[source]", "source", 'path = "/usr/src/m"\n'),
            ("build", "[build]", "build", ""),
            ("object", "[[object]]", r"object\.0", 'name = "x"\n'),
            ("kernels", "[kernels]", "kernels", ""),
            ("load", "[load]", "load", ""),
        )
    ),
    (
        '[source]\npath = "/m"\npatches = [{ file = "x", bogus = 1 }]\n',
        "module-file-invalid",
        r"source\.patches\.0\.bogus: unk",
    ),
    ("[source]\npath = 1\n", "module-file-invalid", r"source\.path: "),
    (SMALL + "[build]\nstrip = 1\n", "module-file-invalid", r"build\.strip: "),
    (SMALL + "[[build]]\n", "module-file-invalid", r"build: "),
    (SMALL + "[object]\n", "module-file-invalid", r"object: "),
    (
        SMALL + "[module]\nversion = 2020-01-01T00:00:00\n[load]\nat_boot = 1979-05-27\n",
        "module-file-invalid",
        "load.at_boot",
    ),
    (SMALL + "[build]\ntimeout = nan\n", "module-file-invalid", r"build\.timeout|not valid"),
    (SMALL + "[build]\ntimeout = inf\n", "module-file-invalid", r"build\.timeout|not valid"),
]


@pytest.mark.parametrize(("text", "code", "message"), TEXTS)
def test_bad_content_names_file_table_and_key_and_hides_nothing(root: Path, text: str, code: str, message: str) -> None:
    (root / ETC / "bad.toml").write_text(text)
    check_broken(root, code, message)


def check_broken(root: Path, code: str, message: str) -> None:
    for name in ("aaa", "zzz"):
        (root / ETC / f"{name}.toml").write_text(SMALL)
    found = read(root)
    assert set(found.modules) == {"aaa", "zzz"}
    (broken,) = found.broken
    assert (broken.name, broken.path, broken.fault.problem) == ("bad", f"/{ETC}/bad.toml", code)
    assert broken.fault.message.startswith(f"/{ETC}/bad.toml: ")
    assert re.search(message, broken.fault.message)


def fill(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(LARGEST + 1)


FILES: list[tuple[str, Callable[[Path], object], str, str]] = [
    ("directory", lambda p: p.mkdir(), "module-file-invalid", "is not a regular file"),
    ("fifo", lambda p: os.mkfifo(p), "module-file-invalid", "is not a regular file"),
    ("dangling link", lambda p: p.symlink_to("gone"), "module-file-unreadable", "No such file"),
    ("loop", lambda p: p.symlink_to("bad.toml"), "symlink-loop", "too many levels"),
    ("latin-1", lambda p: p.write_bytes(b"# \xe9\n"), "module-file-invalid", "is not UTF-8 at byte 2"),
    ("huge", fill, "module-file-invalid", f"is larger than {LARGEST} bytes"),
    ("nul", lambda p: p.write_bytes(b"\0" * 10), "module-file-invalid", "not valid TOML"),
    ("deep", lambda p: p.write_text("x = " + "[" * 50_000), "module-file-invalid", "TOML|nested"),
]


@pytest.mark.parametrize(("make", "code", "message"), [f[1:] for f in FILES], ids=[f[0] for f in FILES])
def test_bad_file_is_broken_and_hides_nothing(
    root: Path, make: Callable[[Path], object], code: str, message: str
) -> None:
    make(root / ETC / "bad.toml")
    check_broken(root, code, message)


def test_stem_that_is_no_module_name_is_broken(root: Path) -> None:
    (root / ETC / "a b.toml").write_text(SMALL)
    (broken,) = read(root).broken
    assert "'a b' is not a module name" in broken.fault.message


def test_two_files_of_one_name_keep_the_first(root: Path) -> None:
    (root / ETC / "a.toml").write_text('[module]\nname = "m"\n' + SMALL)
    (root / ETC / "m.toml").write_text(SMALL)
    found = read(root)
    assert found.modules["m"].path == f"/{ETC}/a.toml"
    (broken,) = found.broken
    assert broken.fault.problem == "module-name-duplicate"
    assert f"already registered by /{ETC}/a.toml" in broken.fault.message


def test_registry_that_is_no_directory_is_told(root: Path) -> None:
    (root / ETC).rmdir()
    (root / ETC).write_text("")
    (root / USR / "m.toml").write_text(SMALL)
    found = read(root)
    assert set(found.modules) == {"m"}
    assert [b.fault.problem for b in found.broken] == ["registry-unreadable"]


def test_changed_file_is_read_again_and_an_unchanged_one_is_not(root: Path) -> None:
    path = root / ETC / "m.toml"
    path.write_text(SMALL)
    reader = RegistryReader(Sysroot(root))
    first = reader.read().modules["m"].file
    assert reader.read().modules["m"].file is first
    path.write_text(SMALL + '[module]\nversion = "2"\n')
    assert reader.read().modules["m"].file.module.version == "2"
    path.write_text("{")
    assert [b.name for b in reader.read().broken] == ["m"]


words = st.sampled_from(
    [
        "[source]",
        "[module]",
        "[[object]]",
        "[load]",
        "path",
        "name",
        "options",
        "=",
        '"/x"',
        '"',
        "'",
        "[",
        "]",
        "{",
        "}",
        "1",
        "true",
        "\n",
        ",",
        ".",
        "1979-05-27",
        "nan",
        "\0",
        "é",
        "\ud7ff",
        '"""',
        "#",
    ]
)


@settings(deadline=None)
@given(st.one_of(st.text(), st.lists(words, max_size=25).map("".join)))
def test_any_text_is_a_module_or_a_broken_file(text: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / ETC).mkdir(parents=True)
        (root / ETC / "m.toml").write_bytes(text.encode(errors="surrogatepass"))
        found = read(root)
        assert len(found.modules) + len(found.broken) == 1
        assert all(b.fault.message and b.fault.problem for b in found.broken)


# -- changing --------------------------------------------------------------------------------------------------------
def test_add_writes_once_and_never_over_something_else(root: Path) -> None:
    sysroot = Sysroot(root)
    path = add(sysroot, SMALL, "m")
    assert path.read_text() == SMALL
    assert add(sysroot, SMALL, "m") == path
    with pytest.raises(Problem) as caught:
        add(sysroot, FULL, "m")
    assert caught.value.code == "module-exists"
    assert path.read_text() == SMALL
    add(sysroot, FULL, "m", replace=True)
    assert path.read_text() == FULL


def test_add_refuses_what_could_not_be_read_back(root: Path) -> None:
    with pytest.raises(Problem) as caught:
        add(Sysroot(root), "[source]\n", "m")
    assert caught.value.code == "module-file-invalid"
    assert list((root / ETC).iterdir()) == []


def test_remove_deletes_the_local_file(root: Path) -> None:
    sysroot = Sysroot(root)
    add(sysroot, SMALL, "m")
    assert remove(sysroot, read(root).modules["m"]) == f"deleted /{ETC}/m.toml"
    assert list((root / ETC).iterdir()) == []


@pytest.mark.parametrize("local", [True, False])
def test_remove_masks_the_vendors_file(root: Path, local: bool) -> None:
    (root / USR / "m.toml").write_text(SMALL)
    if local:
        add(Sysroot(root), SMALL, "m")
    remove(Sysroot(root), read(root).modules["m"])
    assert os.readlink(root / ETC / "m.toml") == "/dev/null"
    assert read(root) == Registry()
    assert (root / USR / "m.toml").read_text() == SMALL


def test_parse_gives_a_hint() -> None:
    with pytest.raises(Problem) as caught:
        parse("x")
    assert "kmodd.modules.d(5)" in caught.value.hint
