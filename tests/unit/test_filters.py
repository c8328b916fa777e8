"""What the filters of system calls say for every machine, by a reading of them as the kernel's own."""

from __future__ import annotations

import base64
import errno
import functools
import struct
import subprocess
from pathlib import Path

import pytest

from kmodd.kbuild.filters import FILTERS

GENERATOR = Path(__file__).resolve().parents[2] / "packaging/seccomp-filters"
ALLOWED, KILLED = 0x7FFF0000, 0x80000000
DENIED, ABSENT = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
#: <linux/audit.h>, the byte order, and numbers of <asm/unistd.h> whose arguments are looked at.
MACHINES = {
    "x86_64": (0xC000003E, "<", {"clone": 56, "socket": 41, "socketpair": 53, "unshare": 272, "ioctl": 16}),
    "aarch64": (0xC00000B7, "<", {"clone": 220, "socket": 198, "socketpair": 199, "unshare": 97, "ioctl": 29}),
    "ppc64le": (0xC0000015, "<", {"clone": 120, "socket": 326, "socketpair": 333, "unshare": 282, "ioctl": 54}),
    "s390x": (0x80000016, ">", {"clone": 120, "socket": 359, "socketpair": 360, "unshare": 303, "ioctl": 54}),
}
ORDINARY = {  # read, execve, prctl, capset, setresuid: what every program and setpriv need
    "x86_64": (0, 59, 157, 126, 117),
    "aarch64": (63, 221, 167, 91, 147),
    "ppc64le": (3, 11, 171, 184, 164),
    "s390x": (3, 11, 172, 185, 208),
}
FORBIDDEN = {  # keyctl, add_key, request_key, bpf, perf_event_open, userfaultfd, ptrace, process_vm_readv, setns
    "x86_64": (250, 248, 249, 321, 298, 323, 101, 310, 308),
    "aarch64": (219, 217, 218, 280, 241, 282, 117, 270, 268),
    "ppc64le": (271, 269, 270, 361, 319, 364, 26, 351, 350),
    "s390x": (280, 278, 279, 351, 331, 355, 26, 340, 339),
}
EVERYWHERE = (425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 440, 442, 443)  # io_uring, new mounts, pidfd_getfd
NEW_USER, THREAD = 0x10000000, 0x003D0F00


def judge(machine: str, program: bytes, number: int, *arguments: int, arch: int = 0) -> int:
    """Return what a filter says of a system call: classic BPF on struct seccomp_data, as far as filters use it."""
    order = MACHINES[machine][1]
    data = struct.pack(f"{order}iIQ6Q", number, arch or MACHINES[machine][0], 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    code = list(struct.iter_unpack(f"{order}HBBI", program))
    at = accumulator = 0
    while True:
        operation, yes, no, constant = code[at]
        at += 1
        if operation == 0x20:  # ld [k]
            (accumulator,) = struct.unpack_from(f"{order}I", data, constant)
        elif operation == 0x54:  # and #k
            accumulator &= constant
        elif operation == 0x05:  # ja
            at += constant
        elif operation in (0x15, 0x25, 0x35):  # jeq, jgt, jge
            taken = {0x15: accumulator == constant, 0x25: accumulator > constant, 0x35: accumulator >= constant}
            at += yes if taken[operation] else no
        elif operation == 0x06:  # ret
            return int(constant)
        else:
            raise AssertionError(f"{operation:#x} at {at - 1}")


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_calls_are_denied_by_number(machine: str) -> None:
    program = base64.b64decode(FILTERS[machine])
    assert {judge(machine, program, number) for number in ORDINARY[machine]} == {ALLOWED}
    assert {judge(machine, program, number) for number in (*FORBIDDEN[machine], *EVERYWHERE)} == {DENIED}
    assert judge(machine, program, 435) == ABSENT  # clone3
    assert judge(machine, program, ORDINARY[machine][0], arch=0x40000003) == KILLED  # i386


def test_x32_is_a_foreign_machine() -> None:
    assert judge("x86_64", base64.b64decode(FILTERS["x86_64"]), 0x40000000) == KILLED


def test_calls_are_denied_by_argument(machine: str) -> None:
    program, numbers = base64.b64decode(FILTERS[machine]), MACHINES[machine][2]

    def clone(flags: int) -> int:
        return judge(machine, program, numbers["clone"], *((0, flags) if machine == "s390x" else (flags, 0)))

    assert (clone(THREAD), clone(17)) == (ALLOWED, ALLOWED)
    assert (clone(NEW_USER), clone(THREAD | NEW_USER), clone(1 << 40 | NEW_USER)) == (DENIED, DENIED, DENIED)
    assert judge(machine, program, numbers["unshare"], 0x400) == ALLOWED
    assert judge(machine, program, numbers["unshare"], 0x400 | NEW_USER) == DENIED
    assert judge(machine, program, numbers["ioctl"], 0, 0x5401) == ALLOWED
    assert judge(machine, program, numbers["ioctl"], 0, 1 << 32 | 0x5412) == DENIED
    for call in ("socket", "socketpair"):
        allowed = {family for family in range(300) if judge(machine, program, numbers[call], family) == ALLOWED}
        assert allowed == {1, 2, 10, 16}
        assert judge(machine, program, numbers[call], 1 << 32 | 40) == DENIED


@functools.lru_cache
def generate() -> dict[str, str]:
    """Return what libseccomp makes of the list now."""
    done = subprocess.run([GENERATOR, "-"], capture_output=True, text=True)
    if "No module named" in done.stderr:
        pytest.skip("libseccomp's Python module is not installed")
    assert done.returncode == 0, done.stderr
    made: dict[str, dict[str, str]] = {}
    exec(done.stdout, made)
    return made["FILTERS"]


def test_filters_are_those_that_libseccomp_makes_of_the_list(machine: str) -> None:
    """They need not be equal: another libseccomp may order its tests otherwise."""
    ours, theirs = (base64.b64decode(table[machine]) for table in (FILTERS, generate()))
    if ours != theirs:
        cases = [(number, value, value) for number in range(500) for value in (*range(70), NEW_USER, 0x5412)]
        differing = [case for case in cases if judge(machine, ours, *case) != judge(machine, theirs, *case)]
        assert not differing
