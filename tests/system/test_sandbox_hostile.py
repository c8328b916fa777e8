"""What a hostile build tries of the kernel: compiled probes, run by the Makefile, as a source's own programs are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from world import GOOD, World

from kmodd.kbuild import sandbox

pytestmark = pytest.mark.system

PROBE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#define TRY(name, call) printf("%s:%s ", name, (call) >= 0 ? "done" : strerrorname_np(errno))
static int nothing(void *p) { return 0; }
static char stack[65536];
int main(void)
{
    char page[256] = {0};
    struct iovec one = {page, 1};
    struct perf_event_attr attr = {.size = sizeof attr, .type = PERF_TYPE_SOFTWARE, .exclude_kernel = 1};
    struct { unsigned long flags, rest[10]; } three = {CLONE_NEWUSER, {0}};
    TRY("keyctl", syscall(SYS_keyctl, 0, -3, 1));
    TRY("keyctl_join", syscall(SYS_keyctl, 1, 0));
    TRY("add_key", syscall(SYS_add_key, "user", "k", "v", 1, -2));
    TRY("request_key", syscall(SYS_request_key, "user", "k", 0, 0));
    TRY("unshare_user", unshare(CLONE_NEWUSER));
    TRY("unshare_user_net", unshare(CLONE_NEWUSER | CLONE_NEWNET));
    TRY("clone_user", clone(nothing, stack + sizeof stack, CLONE_NEWUSER | SIGCHLD, 0));
    TRY("setns", setns(0, CLONE_NEWUSER));
    TRY("clone3", syscall(SYS_clone3, &three, sizeof three));
    TRY("bpf", syscall(SYS_bpf, 0, page, sizeof page));
    TRY("perf", syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0));
    TRY("userfaultfd", syscall(SYS_userfaultfd, 1));
    TRY("io_uring", syscall(SYS_io_uring_setup, 1, page));
    TRY("io_uring_enter", syscall(SYS_io_uring_enter, 0, 0, 0, 0, 0, 0));
    TRY("io_uring_register", syscall(SYS_io_uring_register, 0, 0, 0, 0));
    TRY("traceme", ptrace(PTRACE_TRACEME, 0, 0, 0));
    TRY("vm_readv", process_vm_readv(getpid(), &one, 1, &one, 1, 0));
    TRY("vm_writev", process_vm_writev(getpid(), &one, 1, &one, 1, 0));
    TRY("vsock", socket(40, SOCK_STREAM, 0));
    TRY("alg", socket(38, SOCK_SEQPACKET, 0));
    TRY("packet", socket(AF_PACKET, SOCK_RAW, 0));
    TRY("bluetooth", socket(31, SOCK_RAW, 0));
    TRY("vsock_wide", syscall(SYS_socket, 0x100000028L, SOCK_STREAM, 0));
    TRY("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
    TRY("open_tree", syscall(SYS_open_tree, -100, "/", 1));
    TRY("by_handle", syscall(SYS_open_by_handle_at, -100, page, 0));
    TRY("quotactl", syscall(SYS_quotactl, 0, 0, 0, 0));
    TRY("kexec", syscall(SYS_kexec_load, 0, 0, 0, 0));
    TRY("tiocsti", ioctl(0, TIOCSTI, "x"));
    TRY("fine_unix", socket(AF_UNIX, SOCK_STREAM, 0));
    TRY("fine_inet", socket(AF_INET, SOCK_STREAM, 0));
    TRY("fine_inet6", socket(AF_INET6, SOCK_STREAM, 0));
    TRY("fine_netlink", socket(AF_NETLINK, SOCK_RAW, 0));
    TRY("fine_clone", clone(nothing, stack + sizeof stack, SIGCHLD, 0));
    TRY("fine_fork", fork());
    return 0;
}
"""
FOREIGN = {
    "i386": r'int main(void) { int r; asm volatile("int $0x80" : "=a"(r) : "a"(20)); return !(r > 0); }',
    "x32": "#include <unistd.h>\nint main(void) { return !(syscall(0x40000000 | 39) > 0); }",
}
MAKEFILE = """\
obj-m := hostile.o
HERE := $(dir $(lastword $(MAKEFILE_LIST)))
$(info probed: $(shell gcc -w -o /tmp/probe $(HERE)probe.c && /tmp/probe))
$(foreach name,i386 x32,\\
    $(info foreign: $(name) $(shell gcc -w -o /tmp/$(name) $(HERE)$(name).c; /tmp/$(name) >/dev/null 2>&1; echo $$?)))
"""


def files(name: str) -> dict[str, str]:
    sources = {f"{foreign}.c": text for foreign, text in FOREIGN.items()}
    return {f"{name}.c": GOOD.format(name=name), "probe.c": PROBE, "Makefile": MAKEFILE, **sources}


def probed(log: str) -> dict[str, str]:
    (line,) = {line for line in log.splitlines() if "probed: " in line}
    return dict(word.split(":") for word in line.partition("probed: ")[2].split())


def check(log: str) -> None:
    found = probed(log)
    assert len(found) > 30
    assert found.pop("clone3") == "ENOSYS"
    fine = {name for name in found if name.startswith("fine_")}
    assert {name: what for name, what in found.items() if what != "EPERM"} == dict.fromkeys(fine, "done")
    foreign = {line.partition("foreign: ")[2] for line in log.splitlines() if "foreign: " in line}
    assert len(foreign) == 2 and all(int(line.split()[1]) > 0 for line in foreign), foreign


def test_a_build_of_sync_by_hand_is_denied_what_it_has_no_use_for(world: World) -> None:
    """And its module is built for all that. Its caller's session keyring has a key, as a person's may have."""
    world.add("hostile", files("hostile"))
    session = 'keyctl add user secret hush @s >/dev/null && exec "$@"'
    words = [sys.executable, "-m", "kmodd.ctl", "sync", "--root", str(world.root)]
    argv = ["keyctl", "session", "-", "sh", "-c", session, "sh", *words]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    check(world.build_log("hostile"))
    assert world.verdict("hostile") == "ready"


@pytest.mark.parametrize("uid", [0, 65534])
def test_whoever_reads_a_dkms_conf_the_filter_is_there(uid: int, ground: Path) -> None:
    """Without root, too, where bwrap makes a user namespace first."""
    probe = ground / f"probe-{uid}"
    subprocess.run(["gcc", "-w", "-x", "c", "-o", probe, "-"], input=PROBE, text=True, check=True)
    code = (
        "import asyncio, os\nfrom pathlib import Path\n"
        "from kmodd.kbuild.evaluation import evaluate\nfrom kmodd.core.sysroot import Sysroot\n"
        f"os.setgroups([]); os.setresgid({uid}, {uid}, {uid}); os.setresuid({uid}, {uid}, {uid})\n"
        f"said = evaluate(Sysroot(), '/probe', (), '/', [(Path({str(probe)!r}), '/probe')], 65536)\n"
        "print('probed: ' + asyncio.run(said).decode())\n"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2])
    found = probed(done.stdout)
    assert found["keyctl"] == found["unshare_user"] == found["vsock"] == "EPERM", done.stdout + done.stderr
    assert found["fine_unix"] == "done"


def test_where_keyctl_is_denied_programs_run_all_the_same() -> None:
    """As in a container; there is no keyring to leave."""
    top = str(Path(__file__).resolve().parents[2])
    code = (
        "import asyncio\nfrom kmodd.system.run import run\n"
        "print(asyncio.run(run(['keyctl', 'show'], check=False)).status)"
    )
    with sandbox.open_filter() as filters:
        argv = ["bwrap", "--bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--chdir", top]
        argv += [word for descriptor in filters for word in ("--seccomp", str(descriptor))]
        done = subprocess.run([*argv, sys.executable, "-c", code], capture_output=True, text=True, pass_fds=filters)
    assert (done.returncode, done.stderr) == (0, "") and int(done.stdout) > 0


def test_no_child_sees_the_callers_session_keyring() -> None:
    code = (
        "import asyncio\nfrom kmodd.system.run import run\n"
        "print(asyncio.run(run(['keyctl', 'search', '@s', 'user', 'secret'], check=False)).status)\n"
    )
    session = 'keyctl add user secret hush @s >/dev/null && keyctl search @s user secret >/dev/null && exec "$@"'
    argv = ["keyctl", "session", "-", "sh", "-c", session, "sh", sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2])
    assert done.returncode == 0 and int(done.stdout) > 0, done.stdout + done.stderr
