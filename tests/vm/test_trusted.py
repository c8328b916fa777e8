"""Signatures that a kernel trusts: kmodd's verdict and what a kernel with our certificates built in does, enforcing."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cases import (
    CONSUMER,
    CRC7,
    GOOD,
    KEY_REJECTED,
    OTHER,
    OURS,
    PROVIDER,
    REFUSED,
    Case,
    change_content,
    edit,
    remove_signature,
    resign_kernel_provider,
    sign_by_other,
    unsign_kernel_provider,
)
from ground import privateroot, trusted
from guest import Ran, run_inside
from machine import Report, boot
from server import Server, Source
from table import Row, print_table, what_kernel_did

pytestmark = [pytest.mark.vm, pytest.mark.trusted]

CONTROL = "crc16"  # the kernel's own, signed when it was built
SIGNED, LOCKED = "module.sig_enforce=1", "lockdown=integrity"
UNSIGNED, FOREIGN, CHANGED, EDITED = (Source(name) for name in ("unsigned_one", "foreign_key", "changed", "edited"))
USER = Source("user_of_crc7", CRC7, 'crc7_be(0, "x", 1)')
ALL = (GOOD, PROVIDER, CONSUMER, UNSIGNED, FOREIGN, CHANGED, EDITED, USER)
TRUSTED, REJECTED = {"kernel": OURS, "verdict": "ready"}, {"kernel": REFUSED, "said": KEY_REJECTED}
RESTRICTED = {"kernel": REFUSED, "said": "unsigned module loading is restricted"}  # what lockdown says of both

#: By the boot: what the command line has, and the cases. Boots of one root follow each other in this order.
BOOTS: dict[str, tuple[str, tuple[Case, ...]]] = {
    "rsa": (
        SIGNED,
        (
            Case("RSA key in the kernel", GOOD, **TRUSTED),
            Case("  needs another's symbol", CONSUMER, **TRUSTED),
            Case("  the other of these two", PROVIDER, **TRUSTED),
            Case("  signature taken off", UNSIGNED, spoil=remove_signature, **REJECTED),
            Case("  signed by another key", FOREIGN, spoil=sign_by_other, **REJECTED),
            Case("  signed, then changed", CHANGED, spoil=change_content, **REJECTED),
            Case("  edited on disk", EDITED, spoil=edit, **REJECTED),
            Case("  its provider in the kernel is unsigned", USER, spoil=unsign_kernel_provider, **REJECTED),
        ),
    ),
    "lockdown": (
        LOCKED,
        (
            Case("locked down: RSA key in the kernel", GOOD, **TRUSTED),
            Case("  signature taken off", UNSIGNED, **RESTRICTED),
            Case("  signed by another key", FOREIGN, **RESTRICTED),
        ),
    ),
    "rotated": (
        SIGNED,
        (
            Case("rotated to ECDSA key in the kernel", GOOD, **TRUSTED),
            Case("  what was spoilt is signed anew", CHANGED, **TRUSTED),
        ),
    ),
    "own": (
        SIGNED,
        (
            Case("rotated to a key of its own", GOOD, REFUSED, said=KEY_REJECTED, verdict="blocked"),
            Case("  needs another's symbol", CONSUMER, REFUSED, said=KEY_REJECTED, verdict="blocked"),
        ),
    ),
    "xz": (SIGNED, (Case("compressed by xz, ECDSA key", GOOD, **TRUSTED),)),
}
#: Inside: what kmodd, told of no trust, finds in the running kernel's keyrings, before and after a rotation.
SESSION = {
    "keys": "cat /proc/keys",
    "show": "keyctl show %:.secondary_trusted_keys",
    "trusted": "kmoddctl key status --json",
    "verdict": f"kmoddctl status {GOOD.name} --json",
    "load": f"modprobe {GOOD.name} && cat /sys/module/{GOOD.name}/taint",
    "rotate": "kmoddctl key rotate --now --json",
    "own": "kmoddctl key status --json",
}


@dataclass(frozen=True)
class Found:
    """What all boots and looks yielded."""

    rows: dict[Case, Row]
    reports: dict[str, Report]
    ran: dict[str, Ran]


@pytest.fixture(scope="module")
def found() -> Iterator[Found]:
    began = time.monotonic()
    kernel = trusted.make()
    made = time.monotonic()
    rows: dict[Case, Row] = {}
    reports: dict[str, Report] = {}
    with tempfile.TemporaryDirectory(prefix="trusted.", dir=privateroot.find_scratch(2048)) as name:
        top = Path(name)
        server = make_server(kernel, top / "plain", "rsa")
        server.sync()
        for case in BOOTS["rsa"][1]:
            case.spoil(server, case.module)
        server.depmod()
        for boot_name in ("rsa", "lockdown"):
            look(server, boot_name, rows, reports)
        resign_kernel_provider(server)
        rotate(server, "/etc/pki/ecdsa.key", "/etc/pki/ecdsa.x509")
        server.sync()
        look(server, "rotated", rows, reports)
        ran = look_inside(server)
        rotate(server)
        settings(server, vouched=False)
        server.kmoddctl("sync")
        look(server, "own", rows, reports)
        server = make_server(kernel, top / "xz", "ecdsa", "xz")
        server.sync()
        assert server.object(GOOD.name, kernel.release).suffix == ".xz"
        look(server, "xz", rows, reports)
        print_table(list(rows.values()))
        print(f"kernel {made - began:.0f} s, the rest {time.monotonic() - made:.0f} s", flush=True)
        yield Found(rows, reports, ran)


def make_server(kernel: trusted.Trusted, top: Path, algorithm: str, compression: str = "none") -> Server:
    """Return a root with the kernel, whose kmodd has taken over the trusted key of one algorithm."""
    top.mkdir()
    server = Server(top, packages={kernel.release: kernel.packages(top / "rpms", compression)})
    pki = server.root / "etc/pki"
    pki.mkdir()
    for each in trusted.ALGORITHMS:
        for path, suffix in zip(kernel.pair(each), ("key", "x509")):
            shutil.copy(path, pki / f"{each}.{suffix}")
    server.register(ALL)
    settings(server, vouched=True)
    done = server.kmoddctl("key", "import", f"/etc/pki/{algorithm}.key", f"/etc/pki/{algorithm}.x509")
    assert done.returncode == 0, done.stdout + done.stderr
    server.boot_entry(kernel.release, f"root=/dev/vda ro {SIGNED}")
    return server


def settings(server: Server, vouched: bool) -> None:
    (server.root / "etc/kmodd/kmodd.toml").write_text(f"[sign]\ntrusted = {str(vouched).lower()}\n")


def rotate(server: Server, *pair: str) -> None:
    done = server.kmoddctl("key", "rotate", "--now", *pair)
    assert done.returncode == 0, done.stdout + done.stderr


def look(server: Server, name: str, rows: dict[Case, Row], reports: dict[str, Report]) -> None:
    """Take kmodd's verdicts for a boot, then boot."""
    words, cases = BOOTS[name]
    (release,) = server.releases
    server.boot_entry(release, f"root=/dev/vda ro {words}")
    verdicts = server.verdicts()
    asked = [CONTROL, *(case.module for case in cases)]
    report = reports[name] = boot(server.root, release, words, asked, server.top / f"boot-{name}")
    for case in cases:
        took = what_kernel_did(server, report, case.module)
        rows[case] = Row(case, *verdicts[case.module, release], took, report.outcomes[case.module])


def look_inside(server: Server) -> dict[str, Ran]:
    """Run kmodd on the enforcing kernel itself, told of no trust."""
    files = {"/etc/kmodd/kmodd.toml": b"[sign]\ntrusted = false\n"}
    programs = {"/usr/bin/keyctl": "keyctl"}
    (release,) = server.releases
    work = server.top / "inside"
    ran = run_inside(server.root, release, list(SESSION.values()), work, files, SIGNED, programs)
    return dict(zip(SESSION, ran))


CASES = [(name, case) for name, (_, cases) in BOOTS.items() for case in cases]


@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{name}-{case.module}" for name, case in CASES])
def test_verdict_and_kernel_agree(found: Found, name: str, case: Case) -> None:
    row = found.rows[case]
    assert row.kernel == case.kernel, f"the case is not what it says: {row.outcome}"
    assert case.said in row.outcome.messages + row.outcome.stderr, row.outcome
    assert row.agree, f"kmodd says {row.verdict} ({row.reason}), the kernel {row.kernel} ({row.outcome.said})"
    assert case.verdict in ("", row.verdict), row.reason


def test_what_loads_is_tainted_as_out_of_tree_and_not_as_unsigned(found: Found) -> None:
    taints = {row.outcome.taint for row in found.rows.values() if row.kernel == OURS}
    assert taints == {"O"}
    assert OTHER not in {row.kernel for row in found.rows.values()}


@pytest.mark.parametrize("name", BOOTS)
def test_every_boot_enforces_and_takes_the_kernels_own_module(found: Found, name: str) -> None:
    report = found.reports[name]
    control = report.outcomes[CONTROL]
    assert (control.live, control.exit, control.taint) == (True, 0, ""), control
    assert BOOTS[name][0] in report.command_line.split()


def test_own_key_is_blocked_as_untrusted(found: Found) -> None:
    row = found.rows[BOOTS["own"][1][0]]
    assert "signed by a key that it trusts" in row.reason


# -- kmodd on the kernel itself --------------------------------------------------------------------------------------
def trusted_by_running(ran: Ran) -> bool:
    document: dict[str, Any] = json.loads(ran.stdout)
    (kernel,) = document["kernels"]
    assert kernel["enforces"], kernel
    return bool(kernel["trusted"])


def test_keyring_of_the_running_kernel_tells_that_the_key_is_trusted(found: Found) -> None:
    assert found.ran["show"].stdout.count(" asymmetric: ") == 3, found.ran["show"]  # ours, and that of its own modules
    assert trusted_by_running(found.ran["trusted"])
    (target,) = json.loads(found.ran["verdict"].stdout)["targets"]
    assert target["verdict"] == "ready", target
    assert (found.ran["load"].exit, found.ran["load"].stdout) == (0, "O\n"), found.ran["load"]


def test_keyring_of_the_running_kernel_has_no_key_that_was_just_made(found: Found) -> None:
    assert json.loads(found.ran["rotate"].stdout)["rotated"], found.ran["rotate"]
    assert not trusted_by_running(found.ran["own"])
