"""What others than root may change is read by descriptors, with their rights, and never through a link of theirs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from guarded import OWNER, leaked, make_guarded, own
from worlds import kernel, module, settings_of

from kmodd.core.errors import Problem
from kmodd.core.sysroot import Sysroot
from kmodd.host.registry import RegistryReader
from kmodd.host.settingsfile import read_settings
from kmodd.reconcile.observe import make_observer
from kmodd.sources import SourceReader
from kmodd.sources.digests import DigestCache
from kmodd.sources.symvers import copy as copy_symvers
from kmodd.sources.symvers import symvers_identity
from kmodd.system.reading import DEEPEST, MOST_BYTES, acting_as, reach

TRUSTED = module(source={"path": "/usr/src/m", "trust_owner": True})

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def root(open_path: Path) -> Path:
    return make_guarded(open_path)


@as_root
def test_copy_must_be_what_was_planned(root: Path, tmp_path: Path) -> None:
    reader = SourceReader(Sysroot(root))
    planned = reader.identity(TRUSTED)
    reader.copy(TRUSTED, tmp_path / "same", None, planned)
    assert (tmp_path / "same/sub/x.h").read_text() == "int x;\n"
    (root / "usr/src/m/m.c").write_text("int other;\n")
    with pytest.raises(Problem, match="changed while it was copied") as caught:
        reader.copy(TRUSTED, tmp_path / "other", None, planned)
    assert (caught.value.code, caught.value.transient) == ("source-changed", True)


def test_what_lies_beside_a_source_must_be_what_was_planned(tmp_path: Path) -> None:
    source = {"path": "/usr/src/m", "patches": ({"file": "/srv/fix.patch"},)}
    what = module(source=source, build={"symvers": ("/srv/Module.symvers",)})
    (tmp_path / "srv").mkdir()
    patch, others = tmp_path / "srv/fix.patch", tmp_path / "srv/Module.symvers"
    patch.write_text("--- a\n")
    others.write_text("0x00000001\tx\t/srv/other\tEXPORT_SYMBOL\t\n")
    sysroot, reader = Sysroot(tmp_path), SourceReader(Sysroot(tmp_path))
    planned = {
        "patches": reader.patches_identity(what, "6.1"),
        "symvers": symvers_identity(sysroot, what, "6.1", DigestCache().digest),
    }
    reader.copy_beside(what, "6.1", tmp_path / "same", planned)
    for path in (patch, others):
        before = path.read_text()
        path.write_text(before.replace("x", "y").replace("a", "b"))
        with pytest.raises(Problem) as caught:
            reader.copy_beside(what, "6.1", tmp_path / path.name, planned)
        assert caught.value.code == "source-changed"
        path.write_text(before)


def test_what_was_replaced_since_it_was_reached_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("one")
    with reach(Sysroot(tmp_path), "/file") as found:
        (tmp_path / "other").write_text("two")
        (tmp_path / "other").rename(tmp_path / "file")
        with pytest.raises(OSError, match="was replaced just now"):
            found.read(10)


#: Opens a file with the rights of another user, in a process that has a group which may read it.
MEMBER = """
import os, sys
from kmodd.system.reading import open_at
os.setgroups([4004])
try:
    open_at(os.open(sys.argv[1], os.O_PATH), "file", "file", (51234, 51234))
except PermissionError:
    print("refused")
"""


@as_root
def test_groups_of_this_process_open_nothing_to_a_sources_owner(open_path: Path) -> None:
    (open_path / "file").write_text("secret")
    os.chown(open_path / "file", 0, 4004)
    (open_path / "file").chmod(0o640)
    done = subprocess.run([sys.executable, "-c", MEMBER, open_path], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("refused\n", "")


def _link_top(root: Path) -> None:
    (root / "usr/src/m").rename(root / "usr/src/aside")
    (root / "usr/src/m").symlink_to("/etc/kmodd/keys")
    os.chown(root / "usr/src/m", OWNER, OWNER, follow_symlinks=False)


def _hard_link(root: Path) -> None:
    os.link(root / "etc/kmodd/keys/signing.key", root / "usr/src/m/sub/key")


@as_root
@pytest.mark.parametrize("trick", [_link_top, _hard_link], ids=["link in place of the source", "hard link"])
def test_owner_of_a_source_sees_no_more_of_it_than_before(root: Path, tmp_path: Path, trick: object) -> None:
    assert callable(trick)
    trick(root)
    reader = SourceReader(Sysroot(root))
    for act in (lambda: reader.identity(TRUSTED), lambda: reader.copy(TRUSTED, tmp_path / "copy", None)):
        with pytest.raises(Problem, match="ermission denied"):
            act()
    assert leaked(tmp_path) == []


@as_root
def test_rights_are_given_up_for_the_block_alone(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    with acting_as((OWNER, OWNER)), pytest.raises(PermissionError):
        path.open()
    path.open().close()


# -- who can change what ---------------------------------------------------------------------------------------------
def _own_file(root: Path) -> str:
    os.chown(root / "usr/src/m/sub/x.h", OWNER, 0)
    return f"/usr/src/m/sub/x.h belongs to uid {OWNER} and gid 0, its mode is 0644"


def _open_file(root: Path) -> str:
    (root / "usr/src/m/m.c").chmod(0o664)
    return "/usr/src/m/m.c belongs to uid 0 and gid 0, its mode is 0664"


def _open_above(root: Path) -> str:
    (root / "usr").chmod(0o777)
    return "/usr belongs to uid 0 and gid 0, its mode is 0777"


def _own_link(root: Path) -> str:
    (root / "usr/src/m").rename(root / "usr/real")
    (root / "usr/src/m").symlink_to("/usr/real")
    os.chown(root / "usr/src/m", OWNER, OWNER, follow_symlinks=False)
    return f"/usr/src/m, a link, belongs to uid {OWNER}"


def _link_through(root: Path) -> str:
    (root / "home").mkdir()
    (root / "usr/src/m").rename(root / "home/m")
    os.chown(root / "home", OWNER, OWNER)
    (root / "usr/src/m").symlink_to("../../home/m")
    return f"/home belongs to uid {OWNER} and gid {OWNER}, its mode is 0755"


def _sticky(root: Path) -> str:
    (root / "usr/src").chmod(0o1777)
    return ""


def _open_root(root: Path) -> str:
    root.chmod(0o777)
    return ""


SAFE = [_sticky, _open_root]
UNSAFE = [_own_file, _open_file, _open_above, _own_link, _link_through]


@as_root
@pytest.mark.parametrize("change", [*UNSAFE, *SAFE], ids=lambda f: f.__name__.strip("_"))
def test_source_must_be_roots_alone(root: Path, change: object) -> None:
    assert callable(change)
    own(root / "usr/src/m", 0)
    text = change(root)
    reader = SourceReader(Sysroot(root))
    what = module(source={"path": "/usr/src/m"})
    if not text:
        assert reader.identity(what)
        return
    with pytest.raises(Problem) as caught:
        reader.identity(what)
    assert caught.value.code == "source-unsafe"
    assert caught.value.message.endswith(text)
    assert "chown -hR root:root" in caught.value.hint
    assert reader.identity(TRUSTED)


@as_root
def test_archive_patch_and_symvers_must_be_roots_alone(root: Path, tmp_path: Path) -> None:
    reader = SourceReader(Sysroot(root))
    place = "/usr/src/m/m.c"
    archive = module(source={"archive": place})
    patched = module(source={"path": "/gone", "patches": ({"file": place},)})
    linked = module(source={"path": "/gone"}, build={"symvers": (place,)})
    for act in (
        lambda: reader.identity(archive),
        lambda: reader.patches_identity(patched, "6.1"),
        lambda: copy_symvers(reader.sysroot, linked, "6.1", tmp_path),
    ):
        with pytest.raises(Problem) as caught:
            act()
        assert caught.value.code == "source-unsafe"


@as_root
def test_module_file_and_settings_must_be_roots_alone(root: Path) -> None:
    file, settings = root / "etc/kmodd/modules.d/m.toml", root / "etc/kmodd/kmodd.toml"
    file.parent.mkdir()
    file.write_text('[source]\npath = "/usr/src/m"\ntrust_owner = true\n')
    settings.write_text("")
    sysroot = Sysroot(root)
    reader = RegistryReader(sysroot)
    assert [*reader.read().modules] == ["m"]
    for path in (file, settings):
        os.chown(path, OWNER, OWNER)
    (broken,) = reader.read().broken
    assert (broken.fault.problem, reader.read().modules) == ("source-unsafe", {})
    assert f"/etc/kmodd/modules.d/m.toml belongs to uid {OWNER}" in broken.fault.message
    with pytest.raises(Problem) as caught:
        read_settings(sysroot)
    assert caught.value.code == "source-unsafe"


# -- bounds ----------------------------------------------------------------------------------------------------------
@as_root
def test_source_rpm_and_overrides_of_a_dkms_conf_must_be_roots_alone(tmp_path: Path) -> None:
    package, override = tmp_path / "srv/srpms/kernel-6.1-1.src.rpm", tmp_path / "etc/dkms/x.conf"
    for path in (package, override):
        path.parent.mkdir(parents=True)
        path.write_text("x")
    inputs = make_observer(Sysroot(tmp_path), settings_of(), brief=True).inputs
    ours, mine = module(source={"kernel": ("fs/x",)}), module(source={"dkms": "/usr/src/m/dkms.conf"})
    target = kernel(source_package=package.name)
    assert inputs.sources.kernel.identity(ours, target)
    for path, act in (
        (package, lambda: inputs.sources.kernel.identity(ours, target)),
        (override, lambda: asyncio.run(inputs.recipe(mine, target))),
    ):
        os.chown(path, OWNER, OWNER)
        with pytest.raises(Problem) as caught:
            act()
        assert (caught.value.code, str(path.relative_to(tmp_path)) in caught.value.message) == ("source-unsafe", True)


def test_source_is_bounded(tmp_path: Path) -> None:
    deep, large = tmp_path / "deep", tmp_path / "large"
    large.mkdir()
    (large / "x").touch()
    os.truncate(large / "x", MOST_BYTES + 1)
    deep.joinpath(*["d"] * (DEEPEST + 1)).mkdir(parents=True)
    reader = SourceReader(Sysroot(tmp_path))
    for path in ("/deep", "/large"):
        with pytest.raises(Problem) as caught:
            reader.identity(module(source={"path": path}))
        assert caught.value.code == "source-too-large"


def test_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with reach(Sysroot(tmp_path), "/x") as found, pytest.raises(OSError, match="not a regular file"):
        found.digest()
