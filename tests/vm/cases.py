"""The table: what is done to a module after kmodd installed it, and what the kernel is known to do with it then.

A case passes when kmodd's verdict and the kernel agree; what is expected of the kernel here only makes sure that
the case really is what its name says.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from server import SIGNATURE, Server, Source

OURS, OTHER, REFUSED = "loads", "loads another", "refuses"
Spoil = Callable[[Server, str], None]


def nothing(_server: Server, _module: str) -> None:
    """Leave it as kmodd made it."""


@dataclass(frozen=True)
class Case:
    """One row. said: what kernel or modprobe must have said; verdict: the exact one, where not just "not ready"."""

    name: str
    source: Source
    kernel: str
    spoil: Spoil = nothing
    said: str = ""
    verdict: str = ""
    parameters: tuple[tuple[str, str], ...] = ()
    release: int = 0  # which of the server's kernels
    enforced: bool = False  # on a kernel that is booted with module.sig_enforce=1
    at_boot: bool = False
    taint: str = "OE"  # of what loads: out of tree, and signed by a key that the kernel does not know

    @property
    def module(self) -> str:
        return self.source.name


# -- what is done to them ----------------------------------------------------------------------------------------------
def flip(content: bytes, part: bytes = b"number %d") -> bytes:
    """Return content with one bit changed in a text that init prints."""
    where = content.index(part)
    return content[:where] + bytes([content[where] ^ 0x20]) + content[where + 1 :]


def edit(server: Server, module: str) -> None:
    path = server.object(module, server.releases[0])
    path.write_bytes(flip(path.read_bytes()))


def change_content(server: Server, module: str) -> None:
    server.replace(module, flip(server.object(module, server.releases[0]).read_bytes()))


def truncate(server: Server, module: str) -> None:
    content = server.object(module, server.releases[0]).read_bytes()
    server.replace(module, content[: len(content) // 2])


def truncate_compressed(server: Server, module: str) -> None:
    release = server.releases[1]
    content = server.object(module, release).read_bytes()
    server.replace(module, content[: len(content) // 2], release)


def remove_signature(server: Server, module: str) -> None:
    assert not server.unsigned(module).endswith(SIGNATURE)
    server.replace(module, server.unsigned(module))


def sign_by_other(server: Server, module: str) -> None:
    server.replace(module, server.sign(server.unsigned(module), *server.other_key()))


def take_of_kernel(which: int) -> Spoil:
    """Return the spoiling that puts another kernel's object there, as built, signed by our key."""

    def spoil(server: Server, module: str) -> None:
        server.replace(module, server.sign(server.unsigned(module, server.releases[which])))

    return spoil


def change_crc(server: Server, module: str) -> None:
    tree = server.tree_copy("other-crc")
    symvers = (tree / "Module.symvers").read_text()
    changed, count = re.subn(r"^0x[0-9a-f]{8}(?=\t_printk\t)", "0x12345678", symvers, flags=re.MULTILINE)
    assert count == 1
    (tree / "Module.symvers").unlink()
    (tree / "Module.symvers").write_text(changed)
    server.replace(module, server.sign(server.build(module, text_of(module), tree)))


def change_configuration(server: Server, module: str) -> None:
    tree = server.tree_copy("other-config")
    for name in ("include/generated/autoconf.h", "include/config/auto.conf"):
        path = tree / name
        text = re.sub(r"^.*CONFIG_MODULE_UNLOAD\b.*\n", "", path.read_text(), flags=re.MULTILINE)
        path.unlink()
        path.write_text(text)
    server.replace(module, server.sign(server.build(module, text_of(module), tree)))


def change_text(old: bytes, new: bytes) -> Spoil:
    """Return the spoiling of a text in the object, signed by our key: what modpost would not let through."""

    def spoil(server: Server, module: str) -> None:
        content = server.unsigned(module)
        assert content.count(old) == 1 and len(old) == len(new)
        server.replace(module, server.sign(content.replace(old, new)))

    return spoil


def delete_own_provider(server: Server, _module: str) -> None:
    server.object("lost_provider", server.releases[0]).unlink()


def delete_kernel_provider(server: Server, _module: str) -> None:
    kernel_provider(server).unlink()


def unsign_kernel_provider(server: Server, _module: str) -> None:
    """Cut the signature off the kernel's own module: its trailer ends with the length, 12 bytes and the mark."""
    path = kernel_provider(server)
    content = path.read_bytes()
    (server.top / path.name).write_bytes(content)
    assert content.endswith(SIGNATURE)
    (length,) = struct.unpack(">I", content[-len(SIGNATURE) - 4 : -len(SIGNATURE)])
    path.write_bytes(content[: -len(SIGNATURE) - 12 - length])


def resign_kernel_provider(server: Server) -> None:
    """Put the kernel's own module back."""
    path = kernel_provider(server)
    path.write_bytes((server.top / path.name).read_bytes())


def kernel_provider(server: Server) -> Path:
    return server.root / "lib/modules" / server.releases[0] / "kernel/lib/crc7.ko"


def change_provider(server: Server, _module: str) -> None:
    text = text_of("changed_provider").replace("_value(int n)", "_value(long n)")
    server.replace("changed_provider", server.sign(server.build("changed_provider", text)))


def add_update(server: Server, module: str) -> None:
    directory = server.root / "lib/modules" / server.releases[0] / "updates"
    directory.mkdir(exist_ok=True)
    text = source_of(module).text("from somebody's driver disk")
    (directory / f"{module}.ko").write_bytes(server.sign(server.build(module, text)))


def configure(line: str) -> Spoil:
    """Return the spoiling by a foreign file in modprobe.d."""

    def spoil(server: Server, module: str) -> None:
        path = server.root / "etc/modprobe.d" / f"local-{module}.conf"
        path.write_text(line.format(module=module) + "\n")

    return spoil


def prefer_in_tree(server: Server, module: str) -> None:
    directory = server.root / "etc/depmod.d"
    directory.mkdir(exist_ok=True)
    (directory / "zz-local.conf").write_text(f"override {module} * kernel/drivers/net\n")


# -- the table ---------------------------------------------------------------------------------------------------------
GOOD = Source("good", everywhere=True)
PROVIDER = Source("provider", exports=True, everywhere=True)
DECLARE = "int {0}_value(int n);"
CONSUMER = Source("consumer", DECLARE.format("provider"), "provider_value(1)", depends=("provider",), everywhere=True)
CRC7 = "#include <linux/crc7.h>"
KEY_REJECTED = "Key was rejected by service"
AT_BOOT = 'at_boot = ["{0}"]\n'

BREAKING = Source(
    "failover",
    "\n".join(
        f"int {name}(int n);\nint {name}(int n) {{ return n; }}\nEXPORT_SYMBOL_GPL({name});"
        for name in ("failover_register", "failover_unregister", "failover_slave_unregister")
    ),
)
BROKEN = "net_failover"  # the kernel's own one that needs it

DMA_BUF = "#include <linux/dma-buf.h>\nMODULE_IMPORT_NS(DMA_BUF);"
USE_DMA_BUF = "number > 1000 ? (dma_buf_put(NULL), 1) : 0"
MAKE_PROPRIETARY = change_text(b"\0license=GPL\0", b"\0license=BSD\0")

# A kernel that does not enforce compares no signature of a key that it does not know: it loads anything of the right
# format, and so "signed, then changed" loads there. That kmodd calls it blocked all the same is no disagreement, since
# what loads is not what kmodd made.
CASES = (
    Case("as kmodd made it", GOOD, OURS, verdict="ready"),
    Case("compressed by xz", GOOD, OURS, release=1, verdict="ready"),
    Case("compressed by zstd", GOOD, OURS, release=2, verdict="ready"),
    Case("needs another's symbol", CONSUMER, OURS, verdict="ready"),
    Case("  the other of these two", PROVIDER, OURS, verdict="ready"),
    Case("  the same, both xz", CONSUMER, OURS, release=1, verdict="ready"),
    Case("  the same, both zstd", CONSUMER, OURS, release=2, verdict="ready"),
    Case("needs a module of the kernel", Source("user_of_crc8", "#include <linux/crc8.h>", "CRC8_INIT_VALUE"), OURS),
    Case(
        "options in modprobe.d",
        Source("with_options", load='options = { with_options = "number=7 word=server" }\n'),
        OURS,
        verdict="ready",
        parameters=(("number", "7"), ("word", "server")),
    ),
    Case(
        "loaded at boot, with options",
        Source("early", load=AT_BOOT.format("early") + 'options = { early = "number=3" }\n'),
        OURS,
        verdict="ready",
        parameters=(("number", "3"),),
        at_boot=True,
    ),
    Case("in place of one in the kernel", Source("dummy"), OURS, verdict="ready"),
    Case("  one that others need, otherwise", BREAKING, OURS, verdict="ready"),
    Case("the kernel's own one preferred", Source("veth"), OTHER, prefer_in_tree),
    Case("a copy in updates/", Source("updated"), OTHER, add_update, verdict="blocked"),
    Case(
        "of another series",
        Source("of_series", everywhere=True),
        REFUSED,
        take_of_kernel(2),
        "disagrees about version of symbol",
    ),
    Case("of a release with the same CRCs", Source("of_release", everywhere=True), OURS, take_of_kernel(1)),
    Case("another configuration: vermagic", Source("of_config"), REFUSED, change_configuration, "version magic"),
    Case("another configuration: CRC", Source("of_crc"), REFUSED, change_crc, "version of symbol _printk"),
    Case(
        "its provider is deleted",
        Source("lost_consumer", DECLARE.format("lost_provider"), "lost_provider_value(1)", depends=("lost_provider",)),
        REFUSED,
        delete_own_provider,
        "Unknown symbol lost_provider_value",
    ),
    Case("  that provider", Source("lost_provider", exports=True), REFUSED, said="lost_provider"),
    Case(
        "its provider in the kernel is deleted",
        Source("user_of_crc7", CRC7, 'crc7_be(0, "x", 1)'),
        REFUSED,
        delete_kernel_provider,
        "Unknown symbol crc7_be",
    ),
    Case(
        "its provider exports another CRC",
        Source(
            "changed_consumer",
            DECLARE.format("changed_provider"),
            "changed_provider_value(1)",
            depends=("changed_provider",),
        ),
        REFUSED,
        change_provider,
        "disagrees about version of symbol changed_provider_value",
    ),
    Case("  that provider", Source("changed_provider", exports=True), OURS),
    Case("proprietary", Source("proprietary"), OURS, MAKE_PROPRIETARY, taint="POE"),
    Case(
        "proprietary, uses a GPL-only symbol",
        Source("gpl_only", "#include <linux/ktime.h>", "(int)ktime_get()"),
        REFUSED,
        MAKE_PROPRIETARY,
        "Unknown symbol ktime_get",
        "blocked",
    ),
    Case("imports a namespace", Source("imports", DMA_BUF, USE_DMA_BUF), OURS, verdict="ready"),
    Case(
        "does not import a namespace",
        Source("imports_not", DMA_BUF, USE_DMA_BUF),
        REFUSED,
        change_text(b"\0import_ns=DMA_BUF\0", b"\0import_ns=DMA_BUG\0"),
        "from namespace DMA_BUF, but does not import it",
        "blocked",
    ),
    Case(
        "an option with a bad value",
        Source("bad_value"),
        REFUSED,
        configure("options {module} number=many"),
        "`many' invalid for parameter `number'",
        "blocked",
    ),
    Case(
        "an option with too great a value",
        Source("great_value"),
        REFUSED,
        configure("options {module} number=2147483648"),
        "result out of range",
        "blocked",
    ),
    Case(
        "an option without its value",
        Source("no_value"),
        REFUSED,
        configure("options {module} number"),
        "for parameter `number'",
        "blocked",
    ),
    Case(
        "options at the edge of what is taken",
        Source("edge_value"),
        OURS,
        configure('options {module} number=-0x80000000 word="a b"'),
        verdict="ready",
        parameters=(("number", "-2147483648"), ("word", "a b")),
    ),
    Case(
        "an option that it does not have",
        Source("no_option"),
        OURS,
        configure("options {module} nmber=7"),
        "unknown parameter 'nmber' ignored",
        "ready",
    ),
    Case("unsigned", Source("unsigned_one"), OURS, remove_signature, verdict="ready"),
    Case("signed by another key", Source("foreign_key"), OTHER, sign_by_other),
    Case("signed, then changed", Source("changed"), OTHER, change_content, "Number 0", "blocked"),
    Case("edited on disk", Source("edited"), OTHER, edit, "Number 0"),
    Case("cut off", Source("cut"), REFUSED, truncate, "Exec format error"),
    Case("cut off, xz", Source("cut_packed", everywhere=True), REFUSED, truncate_compressed, "not insert", release=1),
    Case(
        "blacklisted, wanted at boot",
        Source("blacklisted", load=AT_BOOT.format("blacklisted")),
        REFUSED,
        configure("blacklist {module}"),
        verdict="blocked",
        at_boot=True,
    ),
    Case("blacklisted, asked for by name", Source("only_listed"), OURS, configure("blacklist {module}")),
    Case(
        "disabled by an install line",
        Source("disabled"),
        REFUSED,
        configure("install {module} /bin/false"),
        verdict="blocked",
    ),
    Case("enforced: our key, not enrolled", GOOD, REFUSED, said=KEY_REJECTED, verdict="blocked", enforced=True),
    Case("enforced: unsigned", Source("unsigned_one"), REFUSED, said=KEY_REJECTED, enforced=True),
    Case("enforced: signed by another key", Source("foreign_key"), REFUSED, said=KEY_REJECTED, enforced=True),
    Case("enforced: signed, then changed", Source("changed"), REFUSED, said=KEY_REJECTED, enforced=True),
)


def source_of(module: str) -> Source:
    """Return the source of a module in the table."""
    return next(case.source for case in CASES if case.module == module)


def text_of(module: str) -> str:
    """Return the C file of a module in the table."""
    return source_of(module).text()
