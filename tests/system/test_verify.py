"""kmoddctl verify on real kernels: what is read of objects, what is remembered, and what is told of what is wrong."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from nobody import as_nobody
from world import GOOD, QUICK, World

from kmodd.verify import elf, image, symbols

EXPORT = "int {name}_get({type} n);\nint {name}_get({type} n) {{ return n; }}\nEXPORT_SYMBOL_GPL({name}_get);\n"
PROVIDER = GOOD + EXPORT
CONSUMER = """\
#include <linux/module.h>
int provider_get(int n);
static int __init consumer_init(void) { return provider_get(0); }
static void __exit consumer_exit(void) { }
module_init(consumer_init);
module_exit(consumer_exit);
MODULE_LICENSE("GPL");
"""
#: Runs kmoddctl, and lists the programs that it starts and the installed objects that it opens.
SPY = """\
import sys
from kmodd.ctl import main
def hear(event, words):
    if event == "subprocess.Popen":
        print("started", str(words[0]).rpartition("/")[2], file=sys.stderr)
    elif event == "open" and "/extra/" in str(words[0]):
        print("opened", words[0], file=sys.stderr)
sys.addaudithook(hear)
main(sys.argv[1:])
"""


def said(*argv: Any) -> list[list[str]]:
    done = subprocess.run([str(word) for word in argv], check=True, capture_output=True, text=True)
    return [line.split() for line in done.stdout.splitlines()]


def verify(world: World, *words: str, code: int = 0) -> list[dict[str, Any]]:
    """Return the targets of `kmoddctl verify --json`."""
    done = world.ctl("verify", "--json", *words)
    assert done.returncode == code, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == 1
    return list(document["targets"])


def outcomes(target: dict[str, Any]) -> dict[str, str]:
    return {check["check"]: check["outcome"] for check in target["checks"]}


def activity(world: World, command: str) -> tuple[set[str], set[str]]:
    """Return the programs that a command started, and the installed objects that it opened."""
    argv = [sys.executable, "-c", SPY, command, "--root", str(world.root)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode in (0, 4), done.stdout + done.stderr  # 4: depmod is to run for what was touched
    lines = [line.partition(" ") for line in done.stderr.splitlines()]
    return {w for verb, _, w in lines if verb == "started"}, {w for verb, _, w in lines if verb == "opened"}


def test_what_is_read_of_objects_is_what_kmod_and_nm_say(world: World) -> None:
    own = world.root / "lib/modules" / world.kernel
    symvers = gzip.decompress(next(own.glob("symvers.gz")).read_bytes())
    exporting = 0
    for path in sorted(own.rglob("*.ko"))[::3]:
        name = path.stem.replace("-", "_")
        found = elf.read(path.read_bytes(), name)
        assert found.crcs == {n: int(crc, 16) for crc, n in said("modprobe", "--dump-modversions", path)}
        undefined = {words[1]: words[0] in "wv" for words in said("nm", "-u", path)}
        assert found.needs == {n: weak for n, weak in undefined.items() if n not in elf.LINKERS}
        assert found.first("vermagic").split() == said("modinfo", "-F", "vermagic", path)[0]
        typed = {words[0].partition(":")[0] for words in said("modinfo", "-p", path) if words}
        assert typed - {e.partition(":")[0] for e in found.info.get("parm", ())} <= found.parameters
        assert found.exports == symbols.look_up(symbols.Symvers(symvers), found.exports)
        assert {n: e.crc for n, e in found.exports.items()} == {
            words[1]: int(words[0], 16) for words in (said("modprobe", "--show-exports", path) if found.exports else [])
        }
        exporting += bool(found.exports)
    assert exporting > 10


def test_image_tells_which_parameters_it_shows(world: World) -> None:
    """ghes has a parameter that nobody sees, so that a module may be called so."""
    shown = asyncio.run(image.read_shown(world.root / "lib/modules" / world.kernel / "vmlinuz"))
    assert {"printk", "acpi", "workqueue"} <= shown and len(shown) > 30
    modinfo = (world.root / "lib/modules" / world.kernel / "modules.builtin.modinfo").read_bytes()
    assert b"ghes.parmtype=" in modinfo and "ghes" not in shown


def test_verify_tells_each_check_and_changes_nothing_but_its_memory(world: World) -> None:
    world.add("one", more='[load]\nat_boot = ["one"]\noptions = { one = "value=3" }\n')
    assert world.sync().returncode == 0
    (target,) = verify(world)
    names = (
        "content", "object", "modprobe", "vermagic", "symbols", "dependencies", "blacklist", "command-line", "options",
        "signature", "name", "exports", "trust",
    )  # fmt: skip
    assert outcomes(target) == dict.fromkeys(names, "passed")
    said = {check["check"]: check["message"] for check in target["checks"]}
    assert (said["options"], target["verdict"]) == ("value=3", "ready")
    count = re.fullmatch(r"(\d+) of (\d+) symbols and their CRCs match", said["symbols"])
    assert count and count[1] == count[2] != "0"
    text = world.ctl("verify", "one").stdout
    assert "13 checks: 13 passed" in text and "FAILED" not in text
    assert world.ctl("verify", "two").returncode == 2
    (world.source("one") / "one.c").write_text("#error not so\n")
    assert world.ctl("sync").returncode == 1 and world.verdict("one") == "failed"
    done = world.ctl("verify")  # what is installed of the former build is whole
    assert done.returncode == 0 and "13 checks: 13 passed" in done.stdout
    world.add("three", {"three.c": "#error not so\n"})
    world.ctl("sync")
    done = world.ctl("verify")
    assert done.returncode == 4
    assert f"13 checks: 13 passed; nothing is installed of three on {world.kernel}" in done.stdout


REGISTER = "struct failover *failover_register(struct net_device *d, struct failover_ops *o) { return NULL; }"
UNREGISTER = "void failover_unregister(struct failover *f) { }"
SLAVE = "int failover_slave_unregister(struct net_device *d) { return 0; }"


def test_replacement_that_others_of_the_kernel_cannot_use_is_warned_of(world: World) -> None:
    """net_failover needs failover: one that lacks a symbol, and one that only does something else."""
    begin = "static int __init"
    text = GOOD.format(name="failover").replace("<linux/module.h>", "<linux/module.h>\n#include <net/failover.h>")
    world.add("failover", {"failover.c": ""}, more='[[object]]\nname = "failover"\n')
    for functions, breach in (([REGISTER], "needs failover_slave_unregister and 1 more, which it does not export"),
                              ([REGISTER, UNREGISTER, SLAVE], "")):  # fmt: skip
        exported = [f"{f}\nEXPORT_SYMBOL_GPL({re.search(r'failover_[a-z_]*register', f)[0]});" for f in functions]
        (world.source("failover") / "failover.c").write_text(text.replace(begin, "\n".join([*exported, begin])))
        assert world.sync().returncode == 0
        target = world.target("failover")
        assert target["verdict"] == "ready"
        expected = f"the kernel's own net_failover no longer loads beside failover: it {breach}"
        assert target["warnings"] == ([expected] if breach else [])


def test_bad_options_block_and_unknown_ones_warn(world: World) -> None:
    world.add("one", more='[load]\noptions = { one = "value=3 valu=4" }\n')
    world.add("two", more='[load]\noptions = { two = "value=three" }\n')
    world.sync()
    one, two = verify(world, code=4)
    assert (one["verdict"], two["verdict"], two["problem"]) == ("ready", "blocked", "parameter-invalid")
    assert [c["problem"] for c in one["checks"] if c["outcome"] == "warning"] == ["parameter-unknown"]
    assert "no parameter valu" in world.target("one")["warnings"][0]
    text = world.ctl("verify", "two").stdout
    assert "FAILED" in text and "→ modinfo -p two" in text
    assert world.ctl("verify", "one").returncode == 0


PAST = "/usr/bin/modprobe -i {name} $CMDLINE_OPTS && true"


@pytest.mark.parametrize(
    ("line", "own", "needed"),
    [
        (PAST, {}, {}),
        ("/bin/false", {"modprobe": "failed"}, {"dependencies": "failed"}),
        ("/usr/local/sbin/whatever {name}", {"modprobe": "untold"}, {"dependencies": "untold"}),
        (PAST.replace("&&", "debug=1 &&"), {"options": "warning"}, {}),
    ],
    ids=["loads it", "loads nothing", "whatever", "another option"],
)
def test_install_lines_are_read(world: World, line: str, own: dict[str, str], needed: dict[str, str]) -> None:
    """Of the module itself and of one that another needs: provider has one, consumer needs it."""
    world.add("provider", {"provider.c": PROVIDER.format(name="provider", type="int")})
    world.add("consumer", {"consumer.c": CONSUMER}, '[build]\ndepends = ["provider"]\n')
    assert world.sync().returncode == 0
    directory = world.root / "etc/modprobe.d"
    directory.mkdir(exist_ok=True)
    text = f"options provider value=3\ninstall pro* {line.format(name='provider')}\n"
    (directory / "local.conf").write_text(text)
    code = 4 if "failed" in own.values() else 0
    for module, expected in (("provider", own), ("consumer", needed)):
        (target,) = verify(world, module, code=code)
        found = {check["check"]: check["outcome"] for check in target["checks"] if check["outcome"] != "passed"}
        assert found == expected, target["checks"]
        assert {check["outcome"] for check in target["checks"] if check["check"] == "symbols"} == {"passed"}


NEEDS_CRC7 = """\
#include <linux/module.h>
#include <linux/crc7.h>
static int __init seven_init(void) { return crc7_be(0, "x", 1) > 1000; }
static void __exit seven_exit(void) { }
module_init(seven_init);
module_exit(seven_exit);
MODULE_LICENSE("GPL");
"""
MAGIC = b"~Module signature appended~\n"
ENFORCING = "module.sig_enforce=1"


def unsigned(content: bytes) -> bytes:
    """Return a signed object without its signature (include/linux/module_signature.h)."""
    assert content.endswith(MAGIC)
    end = len(content) - len(MAGIC)
    return content[: end - 12 - int.from_bytes(content[end - 4 : end], "big")]


def signed_by_other(world: World, content: bytes) -> bytes:
    work = world.root.parent
    key, certificate, path = work / "other.key", work / "other.x509", work / "signed.ko"
    argv = ["openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=somebody else"]
    subprocess.run([*argv, "-outform", "DER", "-keyout", key, "-out", certificate], check=True, capture_output=True)
    path.write_bytes(unsigned(content))
    program = world.root / "usr/src/kernels" / world.kernel / "scripts/sign-file"
    subprocess.run([program, "sha256", key, certificate, path], check=True, capture_output=True)
    return path.read_bytes()


def signed_by_ours(world: World, content: bytes) -> bytes:
    keys, path = world.root / "etc/kmodd/keys", world.root.parent / "signed.ko"
    path.write_bytes(unsigned(content))
    program = world.root / "usr/src/kernels" / world.kernel / "scripts/sign-file"
    subprocess.run([program, "sha256", keys / "signing.key", keys / "signing.x509", path], check=True)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("change", "where", "words", "outcome", "problem"),
    [
        (None, "kernel", ENFORCING, "passed", ""),
        (lambda _, content: unsigned(content), "kernel", ENFORCING, "failed", "dependency-broken"),
        (lambda _, content: unsigned(content), "kernel", "quiet", "passed", ""),
        (signed_by_other, "kernel", ENFORCING, "failed", "dependency-broken"),
        (signed_by_other, "kernel", "quiet", "passed", ""),
        (signed_by_other, "updates", ENFORCING, "untold", "signature-foreign"),
        (signed_by_ours, "kernel", ENFORCING, "passed", ""),
    ],
    ids=[
        "as it is",
        "unsigned",
        "unsigned, not enforced",
        "foreign",
        "foreign, not enforced",
        "foreign update",
        "ours",
    ],
)
def test_provider_of_others_must_be_signed_where_that_is_enforced(
    world: World, change: Any, where: str, words: str, outcome: str, problem: str
) -> None:
    """The administrator says that all kernels trust our key, so that the signature of the kernel's crc7 decides."""
    world.settings(f"{QUICK}trusted = true\n")
    entries = world.root / "boot/loader/entries"
    entries.mkdir(parents=True, exist_ok=True)
    (entries / f"one-{world.kernel}.conf").write_text(
        f"title Linux\nversion {world.kernel}\nlinux /vmlinuz-{world.kernel}\noptions root=/dev/vda ro {words}\n"
    )
    world.add("seven", {"seven.c": NEEDS_CRC7})
    assert world.sync().returncode == 0
    own = world.root / "lib/modules" / world.kernel
    if change is not None:
        path = next(own.rglob("crc7.ko"))
        content = change(world, path.read_bytes())
        path = path if where == "kernel" else own / where / "crc7.ko"
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)  # it may be a hard link of the template's
        path.write_bytes(content)
        subprocess.run(["depmod", "-b", world.root, world.kernel], check=True, capture_output=True)
        world.sync()
    (target,) = verify(world, "seven", code=4 if outcome == "failed" else 0)
    found = [check for check in target["checks"] if check["check"] == "dependencies" and check["outcome"] == outcome]
    assert found and found[0]["problem"] == problem, [c for c in target["checks"] if c["check"] == "dependencies"]
    assert target["problem"] == (problem if outcome == "failed" else "")


def test_unchanged_files_are_not_looked_at_again_but_by_verify(world: World) -> None:
    world.add("one")
    world.sync()
    world.ctl("status")
    tools = {"modprobe", "openssl", "gzip", "xz", "zstd", "modinfo", "nm"}
    programs, opened = activity(world, "status")
    assert (programs & tools, opened) == (set(), set())
    programs, opened = activity(world, "verify")
    assert {"modprobe", "openssl"} <= programs and any("extra/one/one.ko" in path for path in opened)
    path = world.root / "lib/modules" / world.kernel / "extra/one" / "one.ko"
    os.utime(path)
    assert any("extra/one/one.ko" in path for path in activity(world, "status")[1])


def test_installed_provider_counts_whatever_its_build_left(world: World) -> None:
    world.add("provider", {"provider.c": PROVIDER.format(name="provider", type="int")})
    world.add("consumer", {"consumer.c": CONSUMER}, '[build]\ndepends = ["provider"]\n')
    assert world.sync().returncode == 0
    assert outcomes(verify(world, "consumer")[0])["symbols"] == "passed"
    work = world.root / "tmp/other"
    work.mkdir()
    (work / "provider.c").write_text(PROVIDER.format(name="provider", type="long"))
    (work / "Makefile").write_text("obj-m := provider.o\n")
    subprocess.run(
        ["make", "-C", world.root / "usr/src/kernels" / world.kernel, f"M={work}", "modules"],
        check=True,
        capture_output=True,
    )
    shutil.copyfile(work / "provider.ko", world.root / "lib/modules" / world.kernel / "extra/provider/provider.ko")
    assert world.verdict("provider") == "building"
    subprocess.run(["depmod", "-b", world.root, world.kernel], check=True, capture_output=True)
    (consumer,) = verify(world, "consumer", code=4)
    assert consumer["problem"] == "symbol-version-mismatch" and "provider_get" in consumer["reason"]
    (provider,) = verify(world, "provider", code=4)
    assert outcomes(provider) == {"content": "failed"}
    assert world.sync().returncode == 0
    assert {target["verdict"] for target in verify(world)} == {"ready"}


def test_kernel_without_modversions_has_its_symbols_checked(world: World) -> None:
    tree, own = world.root / "usr/src/kernels" / world.kernel, world.root / "lib/modules" / world.kernel
    places = (".config", "include/config/auto.conf", "include/generated/autoconf.h")
    for path in (*(tree / place for place in places), own / "config"):
        if path.exists():
            text = re.sub(r"^.*CONFIG_(ASM_)?MODVERSIONS\b.*\n", "", path.read_text(), flags=re.MULTILINE)
            path.unlink()  # hard links
            path.write_text(text)
    world.add("one")
    world.sync()
    (one,) = verify(world, code=4)
    assert one["problem"] == "vermagic-mismatch"  # the kernel itself was not rebuilt
    checks = {check["check"]: check for check in one["checks"]}
    assert checks["symbols"]["outcome"] == "passed"
    assert re.fullmatch(r"([1-9]\d*) of \1 symbols match", checks["symbols"]["message"])
    symvers = next(own.glob("symvers.gz"))
    text = gzip.decompress(symvers.read_bytes())
    lines = [line for line in text.splitlines(True) if b"\tparam_ops_int\t" not in line]
    symvers.unlink()
    symvers.write_bytes(gzip.compress(b"".join(lines)))
    (one,) = verify(world, code=4)
    assert [c["problem"] for c in one["checks"] if c["check"] == "symbols"] == ["symbol-unknown"]


def test_verify_needs_no_root_and_says_what_it_could_not_read(world: World) -> None:
    world.add("one")
    world.sync()
    world.root.parent.chmod(0o755)
    argv = [*as_nobody(), sys.executable, "-m", "kmodd.ctl", "verify"]

    def look() -> tuple[int, str]:
        done = subprocess.run([*argv, "--root", str(world.root)], capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, " ".join(done.stdout.split())

    code, text = look()
    assert code == 0 and "signature ok" in text and "0 failed" not in text, text
    (object_,) = Path(world.root / "lib/modules" / world.kernel / "extra/one").iterdir()
    object_.chmod(0o600)
    world.sync()  # a touched object makes depmod due
    code, text = look()
    assert code == 4 and "cannot be read as a kernel module: Permission denied" in text and "run it as root" in text
