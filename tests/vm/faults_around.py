"""Faults of classes B, C and F, and what was in order: other modules, names, and modprobe's configuration."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Callable

from elfedit import Object
from fault import Case, Fault, Place, Spoil, needing, of, pack, unpack
from faults_object import change_crc, cut, damage_trailer, remove_symbol, set_magic
from kinds import Kind

INSTALL_THROUGH = (
    "install {name} /usr/bin/modprobe -i {name}",
    "install {name} /sbin/modprobe --ignore-install {name} $CMDLINE_OPTS",
    "install {name} modprobe -i {name} && true",
    "install {name} /bin/true; /usr/bin/modprobe --ignore-install {name}",
    "options {name} number=7\ninstall {name} /usr/bin/modprobe -i {name} $CMDLINE_OPTS || /bin/false",
)
INSTALL_OTHERWISE = (
    "options {name} number=many\ninstall {name} /usr/bin/modprobe -i {name}",
    "install {name} /usr/bin/modprobe -i {name} number=many",
    "install {name} /bin/false && /usr/bin/modprobe -i {name}",
    "install {name} /bin/true || /usr/bin/modprobe -i {name}",
    "install {name} exit 0; /usr/bin/modprobe -i {name}",
)
INSTALL_NOTHING = ("install {name} /bin/true", "install {name} /bin/false", "install {name} :", "install {name} exit 0")


def on_provider(spoil: Spoil) -> Spoil:
    """Return the spoiling of the module of its own that a case needs."""

    def change(place: Place) -> None:
        judged, place.case.name = place.case.name, place.case.provider
        try:
            spoil(place)
        finally:
            place.case.name = judged

    return change


def lines(*choices: str, directory: str = "etc/modprobe.d") -> Spoil:
    """Return the spoiling by one of several lines of modprobe.d, the module's name filled in."""
    return lambda place: place.configure(place.random.choice(choices), directory)


def option_of_kernels_own(place: Place) -> None:
    parameter = {"i2c_algo_bit": "bit_test", "dm_mod": "major"}[place.case.kind.in_tree]
    place.configure(f"options {place.case.kind.in_tree} {parameter}=many")


# -- files of other kernels --------------------------------------------------------------------------------------------
def _of_other(place: Place) -> tuple[str, bytes]:
    """Return another kernel, and its file of the module that the case needs."""
    others = [release for release in place.server.releases if release != place.case.release]
    release = place.choose(release for release in others if place.has_in_tree(release))
    path = place.in_tree(release)
    return release, unpack(path.read_bytes(), path.suffix)


def replace_in_tree(place: Place) -> None:
    _, content = _of_other(place)
    path = place.in_tree()
    path.write_bytes(pack(content, path.suffix))


def add_to_updates(place: Place) -> None:
    _, content = _of_other(place)
    path = place.directory / "updates" / place.in_tree().name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pack(content, path.suffix))


def delete_in_tree(place: Place) -> None:
    place.in_tree().unlink()


def damage_in_tree(place: Place) -> None:
    """Cut off the kernel's own file."""
    path = place.in_tree()
    content = unpack(path.read_bytes(), path.suffix)
    path.write_bytes(pack(content[: len(content) // 2], path.suffix))


# -- names -------------------------------------------------------------------------------------------------------------
def built_in(directory: Path) -> list[str]:
    lines = (directory / "modules.builtin").read_text().splitlines()
    return sorted({Path(text).stem.replace("-", "_") for text in lines})


def with_parameters(directory: Path) -> list[str]:
    """Return what is built in and no module, but has a directory below /sys/module for its parameters."""
    entries = (directory / "modules.builtin.modinfo").read_bytes().split(b"\0")
    pairs = (entry.decode(errors="replace").partition("=")[0].partition(".") for entry in entries)
    named = {name for name, _, key in pairs if key in ("parm", "parmtype")}
    return sorted(named - set(built_in(directory)))


def named_as(choose: Callable[[Path], list[str]]) -> Callable[[Case], str]:
    """Return what names a case's module after something of its kernel, each time another."""

    def name(case: Case) -> str:
        return case.random.choice(choose(case.directory))

    return name


def exports_again(place: Place, symbol: str) -> None:
    """Let the case's module export a symbol that has a shorter or as long a name as its own."""
    own = f"{place.case.own(place.case.kind.name)}_value".encode()
    content = place.built[place.case.name]
    assert len(symbol) <= len(own)
    place.put(content.replace(own, symbol.encode().ljust(len(own), b"\0")))


def export_of_twin(place: Place) -> None:
    """Let it export what another module of the case exports, which by its name is loaded before."""
    exports_again(place, f"{place.case.own('library')}_value")


def export_of_kernels_own(place: Place) -> None:
    exports_again(place, "crc8")


# -- what it is called inside ------------------------------------------------------------------------------------------
def rename_inside(name: Callable[[Place], str]) -> Spoil:
    def spoil(place: Place) -> None:
        new = name(place)
        place.note(f"called {new} inside")
        place.edit(lambda made, _: made.rename(place.case.name, new))

    return spoil


def rename_to_provider(place: Place) -> str:
    return place.case.kind.in_tree or place.case.provider


# -- what was in order -------------------------------------------------------------------------------------------------
def add_update(place: Place) -> None:
    """Put another module of that name where modprobe finds it first."""
    made = Object(place.built[place.case.name])
    made.change_info("srcversion", hashlib.sha256(b"update").hexdigest()[:23].upper())
    path = place.directory / "updates" / f"{place.case.name}.ko"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(place.server.sign(bytes(made)))


def delete_provider(place: Place) -> None:
    place.installed(place.case.provider).unlink()


AT_BOOT = 'at_boot = ["{name}"]\n'
PLAIN = of("plain")


def in_tree_user(kind: Kind) -> bool:
    return kind.in_tree in ("crc7", "crc_itu_t") and not kind.special


FAULTS = (
    # B: what it needs
    Fault("B6", "provider with a refused option", on_provider(lines("options {name} number=many")), needing),
    Fault("B6", "provider with another vermagic", on_provider(set_magic), needing),
    Fault("B6", "provider with a damaged signature", on_provider(damage_trailer), needing),
    Fault("B6", "provider cut off", on_provider(cut), needing, late=True),
    Fault("B6", "provider with another CRC", on_provider(change_crc), needing),
    Fault("B6", "provider that lacks a symbol itself", on_provider(remove_symbol), needing),
    Fault("B6", "provider with an install line", on_provider(lines(*INSTALL_NOTHING)), needing),
    Fault("B7", "option of the kernel's own provider", option_of_kernels_own, of("bitbang", "mapper"), owns=True),
    Fault("B8", "another kernel's file in the tree", replace_in_tree, in_tree_user, owns=True),
    Fault("B8", "another kernel's file in updates", add_to_updates, in_tree_user, owns=True),
    Fault("B8", "the kernel's own provider cut off", damage_in_tree, in_tree_user, owns=True, late=True),
    # C: names and exports
    Fault("C9", "named as something built in", fits=PLAIN, name=named_as(built_in)),
    Fault("C10", "named as what only has parameters", fits=PLAIN, name=named_as(with_parameters)),
    Fault("C11", "exports what another of ours exports", export_of_twin, of("provider"),
          more=("library",), first=("library",), load=AT_BOOT),
    Fault("C11", "exports what the kernel's own provider does", export_of_kernels_own, of("doubled"), owns=True),
    # F: the name inside
    Fault("F", "another name inside", rename_inside(lambda place: f"inner_{place.case.number:04d}"), PLAIN),
    Fault("F", "a longer name inside", rename_inside(lambda place: f"{'i' * 49}_{place.case.number:04d}"), PLAIN),
    Fault("F", "the provider's name inside", rename_inside(rename_to_provider), of("consumer", "checksum", "importer")),
    Fault("F", "the name of something built in inside",
          rename_inside(lambda place: place.choose(("printk", "workqueue", "kernel"))), PLAIN),
    # what was in order
    Fault("O", "as kmodd made it"),
    Fault("O", "a copy in updates", add_update, PLAIN, foreign=True),
    Fault("O", "its provider is deleted", delete_provider, needing),
    Fault("O", "the kernel's own provider is deleted", delete_in_tree, in_tree_user, owns=True),
    Fault("O", "an install line instead of it", lines(*INSTALL_NOTHING)),
    Fault("O", "blacklisted, wanted at boot", lines("blacklist {name}"), options="-b", load=AT_BOOT),
    Fault("O", "blacklisted, asked for", lines("blacklist {name}")),
    Fault("O", "a soft dependency that is not there", lines("softdep {name} pre: nowhere", "softdep {name} post: nil")),
    Fault("O", "an alias of another module", lines("alias {name} nothing", "alias nothing {name}")),
    # false alarm 4
    Fault("FA4", "an install line that loads it", lines(*INSTALL_THROUGH)),
    Fault("FA4", "a provider's install line that loads it", on_provider(lines(*INSTALL_THROUGH)), needing),
    Fault("FA4", "an install line that only looks so", lines(*INSTALL_OTHERWISE)),
    Fault("FA4", "a provider's install line that only looks so", on_provider(lines(*INSTALL_OTHERWISE)), needing),
    # E18: where else kmod reads
    Fault("E18", "option in /usr/local/lib/modprobe.d",
          lines("options {name} number=many", directory="usr/local/lib/modprobe.d")),
    Fault("E18", "blacklisted in /usr/local/lib/modprobe.d",
          lines("blacklist {name}", directory="usr/local/lib/modprobe.d"), options="-b", load=AT_BOOT),
    Fault("E18", "install line in /usr/local/lib/modprobe.d",
          lines(*INSTALL_NOTHING, directory="usr/local/lib/modprobe.d")),
)  # fmt: skip
