"""A kernel's own modules in a staged tree: a subset with whole dependency closures, and another compression."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .command import GroundError, run

SUFFIXES = {".xz": "xz", ".zst": "zstd", ".gz": "gzip"}
PACK = {
    "xz": ("xz", "--force", "--check=crc32", "--lzma2=dict=1MiB"),  # as scripts/Makefile.modinst does
    "zstd": ("zstd", "--rm", "--force", "-q"),
    "gzip": ("gzip", "-n", "-f"),
}
UNPACK = {"xz": ("xz", "-d"), "zstd": ("zstd", "-d", "--rm", "-q"), "gzip": ("gzip", "-d")}
COMPRESSIONS = ("none", *PACK)
#: Symbols that a kernel can be had without, each with its one module, which exports nothing.
DISABLEABLE = {"CONFIG_BCACHE": "bcache"}

# What third-party modules of the tests link against, what a virtual machine boots with, and what tests rebuild.
# Only .ko names that a kernel has count: a driver may be built in here and a module there.
SLIM = re.compile(
    r"videodev|videobuf2-.*|v4l2-.*|cec|rc-core|mc|media|video|wmi|.*wmi-bmof|sparse-keymap|platform_profile"
    r"|virtio(?!_snd|-gpu).*|vmw_vsock_virtio.*|net_failover|failover|9p.*|fuse|overlay|ext4|isofs|squashfs|loop|nbd"
    r"|bcache|null_blk|zram|brd|ceph|libceph|rbd|cifs|openvswitch|vport-.*|dummy|tun|veth|bridge|macvlan|bonding"
    r"|crc.*|xor|raid6_pq|raid[015].*|libcrc32c|zstd.*|lz4.*|lzo.*|842.*|dm-(?!vdo).*|md-mod"
    r"|nf_.*|nfnetlink.*|nft_.*|x_tables|ip6?_tables|ip6?table_.*|xt_.*|ip_set.*|udp_tunnel|ip6_udp_tunnel"
    r"|hid|hid-generic|usbhid|usbcore|usb-common|uhid|uinput|evdev|joydev|i2c-core|i2c-dev|i2c-algo-bit|acpi_call|battery"
    r"|drm|drm_kms_helper|usbserial|cdc-acm|uio|vfio|ppdev|parport|sha.*_generic|md4|des_generic|ccm|gcm|ecb|cmac"
)


def module_name(path: str) -> str:
    """Return the file's name without directories, .ko and compression suffix."""
    return path.rsplit("/", 1)[-1].split(".ko")[0]


def depmod(root: Path, release: str) -> None:
    """Write modules.dep and its kin for ROOT/lib/modules/RELEASE with the host's depmod."""
    run(["depmod", "-b", root, release])


def read_dependencies(directory: Path) -> dict[str, tuple[str, ...]]:
    """Return modules.dep: each module's path under the directory, and the paths of all it needs."""
    lines = (directory / "modules.dep").read_text().splitlines()
    return {path: tuple(needed.split()) for path, _, needed in (line.partition(":") for line in lines)}


def keep_only(directory: Path, wanted: re.Pattern[str]) -> None:
    """Delete the modules that neither match nor are needed by one that does, and trim modules.order likewise."""
    dependencies = read_dependencies(directory)
    kept = {path for path in dependencies if wanted.fullmatch(module_name(path))}
    kept |= {needed for path in kept for needed in dependencies[path]}
    for path in dependencies.keys() - kept:
        (directory / path).unlink()
    for folder in sorted((directory / "kernel").rglob("*"), reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    names = {path.split(".ko")[0] + ".ko" for path in kept}
    order = directory / "modules.order"
    lines = [line for line in order.read_text().splitlines() if line in names]
    order.write_text("".join(f"{line}\n" for line in lines))


def check_compression(compression: str) -> None:
    """Raise GroundError when the host's kmod cannot read such modules (Debian 12's knows no gzip)."""
    feature = {"xz": "+XZ", "zstd": "+ZSTD", "gzip": "+ZLIB"}.get(compression)
    if feature and feature not in run(["kmod", "--version"]).split():
        raise GroundError(f"this machine's kmod cannot read {compression} modules (kmod --version has no {feature})")


def _in_batches(command: Sequence[str], files: Sequence[Path]) -> None:
    batches: Iterable[Sequence[Path]] = (files[at : at + 40] for at in range(0, len(files), 40))
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(lambda batch: run([*command, *batch]), batches))


def recompress(directory: Path, compression: str) -> None:
    """Compress every module below the directory as `compression` says; those that are so already stay untouched."""
    for suffix, tool in SUFFIXES.items():
        if tool != compression:
            _in_batches(UNPACK[tool], sorted(directory.rglob(f"*.ko{suffix}")))
    if compression != "none":
        _in_batches(PACK[compression], sorted(directory.rglob("*.ko")))


def configured(text: str, compression: str) -> str:
    """Return a .config, auto.conf or autoconf.h that says the modules are compressed so.

    Since 6.12 CONFIG_MODULE_COMPRESS switches compression as a whole; before, the choice had a member NONE.
    """
    option = re.compile(r"^(?:# |#define )?CONFIG_MODULE_COMPRESS(_\w+)?\b.*\n", re.MULTILINE)
    first = option.search(text)
    if first is None:
        return text
    switched = None in [found[1] for found in option.finditer(text)]
    names = [f"_{compression.upper()}"]
    if switched:
        names = [] if compression == "none" else ["", *names, "_ALL"]
    if first[0].startswith("#define"):
        new = "".join(f"#define CONFIG_MODULE_COMPRESS{name} 1\n" for name in names)
    else:
        new = "".join(f"CONFIG_MODULE_COMPRESS{name}=y\n" for name in names) or "# CONFIG_MODULE_COMPRESS is not set\n"
    return text[: first.start()] + new + option.sub("", text[first.start() :])


def disable(tree: Path, directory: Path, symbol: str) -> None:
    """Make a build tree and a kernel's directory what they are where the vendor left a symbol unset."""
    name = DISABLEABLE[symbol]
    for path in directory.rglob(f"{name}.ko*"):
        path.unlink()
    for path in (directory / "modules.order", tree / "Module.symvers"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if not re.search(rf"/{name}(\.ko)?\b", line)))
    setting = re.compile(rf"^(#define )?{symbol}(_MODULE)?[ =].*\n", re.MULTILINE)
    for path in (directory / "config", tree / ".config"):
        path.write_text(setting.sub(f"# {symbol} is not set\n", path.read_text()))
    for path in (tree / "include/config/auto.conf", tree / "include/generated/autoconf.h"):
        path.write_text(setting.sub("", path.read_text()))
