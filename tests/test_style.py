"""The rules that a reader may rely on: clean by ruff and mypy, imports one way, paths and processes in one place."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
MODULES = sorted(path.relative_to(TOP).as_posix() for path in (TOP / "kmodd").rglob("*.py"))
PYTHON = [*MODULES, *sorted(path.relative_to(TOP).as_posix() for path in (TOP / "tests").rglob("*.py"))]

#: Every room of kmodd, lowest floor first. Imports go down; between edges there are none.
FLOORS: dict[str, tuple[str, ...]] = {
    "core": ("core", ""),
    "doors": ("system",),
    "edges": ("alert", "control", "deploy", "dkms", "host", "kbuild", "sign", "sources", "verify", "watch"),
    "reconcile": ("reconcile",),
    "programs": ("daemon", "ctl"),
}
ORDER = list(FLOORS)
#: Folders each of whose files is an edge of its own, and the parts of one edge among them.
EDGE_FOLDERS = ("host", "deploy")
TOGETHER = {("host.rpmdb", "host.rpmchild"), ("host.bootstate", "host.bootloader")}

#: (file, literal): in-root places that one room alone knows, messages, and the sandbox's own view.
PATHS = {
    "kmodd/host/bootstate.py": {"/boot", "/boot/loader/entries", "/etc/os-release"},
    "kmodd/host/bootloader.py": {
        "/boot", "/boot/efi", "/boot/grub/custom.cfg", "/boot/grub/grub.cfg", "/boot/grub/grubenv", "/boot/grub2",
        "/boot/grub2/custom.cfg", "/boot/grub2/grub.cfg", "/boot/grub2/grubenv", "/boot/grub2/user.cfg",
        "/etc/default/grub", "/etc/kernel/cmdline", "/proc/cmdline", "/usr/lib/kernel/cmdline",
    },
    "kmodd/kbuild/dkmsrecipe.py": {"/usr/src", "/lib/modules"},  # variables of DKMS
    "kmodd/kbuild/compiler.py": {"/root/usr/bin/"},  # below TOOLSETS
    "kmodd/kbuild/diff.py": {"/dev/null"},  # of a file that is made or deleted
    "kmodd/kbuild/jobserver.py": {"/proc/self/fd/"},
    "kmodd/kbuild/workspace.py": {"/usr/src/", "/usr/lib/modules/", "/usr/sbin:/usr/bin:/sbin:/bin", "/tmp"},
    "kmodd/kbuild/sandbox.py": {
        "/usr/src", "/usr/lib/modules", "/usr", "/opt/rh", "/etc", "/etc/", "/proc", "/dev", "/tmp",
    },
    "kmodd/kbuild/unpack.py": {"/usr"},
    "kmodd/core/settings.py": {"/etc/kmodd/keys/signing.key", "/etc/kmodd/keys/signing.x509", "/srv/srpms"},
    "kmodd/control/address.py": {"/proc/self/fd/", "/run/kmodd/io.kmodd.Manager"},
    "kmodd/ctl/daemonunit.py": {"/run/systemd/system"},
    "kmodd/ctl/change.py": {"/etc/kmodd/modules.d/"},
    "kmodd/ctl/diagnosis/machine.py": {
        "/boot", "/etc/selinux/config", "/lib/modules", "/sys/fs/selinux/enforce", "/usr/bin:/bin", "/var/cache",
        "/var/lib",
    },
    "kmodd/ctl/diagnosis/modules.py": {"/lib/modules/", "/usr/src/akmods", "/var/lib/dkms"},
    "kmodd/ctl/copies.py": {"/lib/modules/"},
    "kmodd/ctl/dkms/scope.py": {"/etc/dkms/", "/lib/modules", "/lib/modules/"},
    "kmodd/ctl/dkms/scriptlet.py": {"/proc"},
    "kmodd/ctl/dkms/dkmstree.py": {"/dev/null"},
    "kmodd/ctl/plan.py": {"/etc/{kind}.d/kmodd-{module}.conf"},
    "kmodd/ctl/importing.py": {"/etc/kmodd/modules.d/"},
    "kmodd/dkms/conf.py": {"/etc/dkms", "/usr/src/", "/usr/lib/modules/"},
    "kmodd/dkms/directives.py": {"/lib/modules/"},
    "kmodd/core/recipe.py": {"/var/lib/dkms"},
    "kmodd/deploy/install.py": {"/lib/modules/", "/sys/fs/selinux/enforce"},
    "kmodd/host/kernels.py": {"/usr/src/kernels/", "/boot/config-"},
    "kmodd/reconcile/verifyprobe.py": {"/lib/modules/"},
    "kmodd/reconcile/kernelprobe.py": {"/lib/modules/"},
    "kmodd/host/registry.py": {"/dev/null"},
    "kmodd/sign/__init__.py": {"/etc/kmodd/keys/signing.key", "/etc/kmodd/keys/signing.x509"},
    "kmodd/sign/making.py": {
        "/var/lib/dkms/mok.key", "/var/lib/dkms/mok.pub",
        "/etc/pki/akmods/private/private_key.priv", "/etc/pki/akmods/certs/public_key.der",
    },
    "kmodd/sign/pairfiles.py": {"/etc/hostname"},
    "kmodd/host/trust.py": {
        "/sys/kernel/security/lockdown",
        "/sys/module/module/parameters/sig_enforce",
    },
    "kmodd/verify/kernelview.py": {"/boot/vmlinuz-"},
    "kmodd/verify/probe.py": {
        "/etc/modprobe.d", "/lib/modprobe.d", "/proc/cmdline", "/run/modprobe.d", "/usr/lib/modprobe.d",
        "/usr/local/lib/modprobe.d",
    },
    "kmodd/verify/signature.py": {"/dev/null", "/proc/self/fd/"},
}  # fmt: skip
ABSOLUTE = re.compile(r"/(?:bin|boot|dev|etc|lib|opt|proc|root|run|sbin|srv|sys|tmp|usr|var)(?:/|$|:)")
STARTERS = re.compile(
    r"\bsubprocess\b|\bos\.(?:system|popen|exec\w+|spawn\w+|posix_spawn\w*|fork\w*)\b|create_subprocess"
)
#: The last one is a program of its own, run by `run`, which feeds decompressors.
STARTING = ("kmodd/system/run.py", "kmodd/system/spawn.py", "kmodd/host/initramfschild.py")
LONGEST = 600  # lines of a file
LONGEST_FUNCTION = 60  # lines
LONGEST_CLASS = 200  # lines
#: Classes that are better whole, and why.
WHOLE = {
    "Sysroot": "the one place that knows absolute paths: some forty properties of a line or two, and how they resolve",
}


def tree(name: str) -> ast.Module:
    return ast.parse((TOP / name).read_text())


def run(*argv: str) -> None:
    done = subprocess.run([sys.executable, "-m", *argv], cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    run("ruff", "check", "--no-cache", ".")


def test_mypy_finds_nothing() -> None:
    run("mypy")


# -- imports ---------------------------------------------------------------------------------------------------------
def folder(module: str) -> str:
    """Return the folder of a dotted module name: the first part below kmodd, "" for the package itself."""
    return "".join(module.split(".")[1:2])


def room(module: str) -> str:
    """Return what a module is a part of: its folder, or the file in a folder of several edges."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if parts[:1] and parts[0] in EDGE_FOLDERS else "".join(parts[:1])


def dotted(name: str) -> str:
    return name[: -len(".py")].replace("/", ".").replace(".__init__", "")


def imported(name: str) -> Iterator[str]:
    """Yield the modules of kmodd that a file imports, at whatever place in it."""
    package = dotted(name).split(".")
    if not name.endswith("__init__.py"):
        package = package[:-1]
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "kmodd")
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module.split(".")[0] != "kmodd":
                continue
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                path = TOP / inner.replace(".", "/")
                yield inner if path.is_dir() or path.with_suffix(".py").exists() else module


def floor(name: str) -> int:
    return next((i for i, folders in enumerate(FLOORS.values()) if name.split(".")[0] in folders), -1)


def test_every_module_has_its_room() -> None:
    placed = [name for folders in FLOORS.values() for name in folders]
    assert sorted(placed) == sorted({folder(dotted(name)) for name in MODULES})


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name: str) -> None:
    here = room(dotted(name))
    for module in imported(name):
        there = room(module)
        if there == here or (here, there) in TOGETHER:
            continue
        assert floor(there) <= floor(here), f"{name} imports {module}, which is above it"
        assert ORDER[floor(here)] not in ("edges", "programs") or floor(there) < floor(here), f"{name} imports {module}"


def test_imports_are_seen() -> None:
    assert "kmodd.reconcile.observe" in set(imported("kmodd/ctl/inprocess.py"))
    assert "kmodd.core.versions" in set(imported("kmodd/core/planner/exclusion.py"))
    assert "kmodd.kbuild.sandbox" in set(imported("kmodd/kbuild/builder.py"))


#: What of the core knows places on the host.
IMPURE = {"kmodd/core/settings.py", "kmodd/core/sysroot.py"}


@pytest.mark.parametrize("name", [n for n in MODULES if folder(dotted(n)) == "core" and n not in IMPURE])
def test_domain_does_no_input_or_output(name: str) -> None:
    names = {
        alias.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(tree(name))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert not names & {"os", "pathlib", "asyncio", "time", "datetime", "random", "io", "shutil"}


# -- paths and processes ---------------------------------------------------------------------------------------------
def literals(name: str) -> Iterator[str]:
    """Yield the strings of a file that are no docstrings."""
    found = tree(name)
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(found)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(found):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


@pytest.mark.parametrize("name", [name for name in MODULES if name != "kmodd/core/sysroot.py"])
def test_absolute_paths_are_known_in_paths_alone(name: str) -> None:
    found = {text for text in literals(name) if ABSOLUTE.match(text)}
    assert found <= PATHS.get(name, set())


def test_list_of_paths_holds_nothing_that_is_gone() -> None:
    assert {name: texts - set(literals(name)) for name, texts in PATHS.items() if texts - set(literals(name))} == {}


@pytest.mark.parametrize("name", [name for name in MODULES if name not in STARTING])
def test_processes_are_started_in_run_alone(name: str) -> None:
    code = ast.unparse(tree(name))
    assert "from .spawn import" not in code
    assert not STARTERS.search(re.sub(r'"""(?s:.*?)"""', "", code))


# -- tests -----------------------------------------------------------------------------------------------------------
def waits(name: str) -> Iterator[str]:
    """Yield what of a file sleeps, or limits a time by a number, with its line."""
    for node in ast.walk(tree(name)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func).split(".")
        given = [*node.args, *(word.value for word in node.keywords if word.arg == "timeout")]
        numbers = [value.value for value in given if isinstance(value, ast.Constant)]
        limited = any(isinstance(number, (int, float)) and number > 0 for number in numbers)
        is_turn = [ast.unparse(value) for value in given] == ["0"]
        if (
            (called[-1] in ("Timer", "wait_for") and called[0] in ("threading", "asyncio"))
            or (called[-1] == "sleep" and not is_turn)
            or (called[-1] in ("wait", "join", "communicate", "settimeout", "run") and len(called) > 1 and limited)
        ):
            yield f"{name}:{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("name", [name for name in PYTHON if name.startswith("tests/") and name != "tests/patience.py"])
def test_tests_wait_for_conditions_by_what_patience_has(name: str) -> None:
    assert list(waits(name)) == []


def test_waits_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "TOP", tmp_path)
    lines = ["time.sleep(1)", "await asyncio.sleep(0.1)", "threading.Timer(2, f)", "await asyncio.wait_for(f(), LIMIT)",
             "child.wait(30)", "subprocess.run(argv, timeout=5)", "await asyncio.sleep(0)", "run(argv, timeout=0.1)",
             "child.wait(LIMIT)"]  # fmt: skip
    for number, line in enumerate(lines):
        (tmp_path / f"{number}.py").write_text(f"async def test():\n    {line}\n")
    assert [bool(list(waits(f"{number}.py"))) for number in range(len(lines))] == [True] * 6 + [False] * 3


# -- files and codes -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", PYTHON)
def test_files_are_short_enough_to_be_read(name: str) -> None:
    assert len((TOP / name).read_text().splitlines()) <= LONGEST


def too_long(name: str) -> Iterator[str]:
    """Yield the functions and classes of a file that are longer than a reader holds in mind."""
    for node in ast.walk(tree(name)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name not in WHOLE:
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > (LONGEST_CLASS if isinstance(node, ast.ClassDef) else LONGEST_FUNCTION):
                yield f"{name}:{node.lineno}: {node.name} has {lines} lines"


@pytest.mark.parametrize("name", MODULES)
def test_functions_and_classes_are_short_enough_to_be_read(name: str) -> None:
    assert list(too_long(name)) == []


def test_exceptions_from_the_length_of_classes_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = set(WHOLE)
    monkeypatch.setitem(globals(), "WHOLE", {})
    assert {line.split()[1] for name in MODULES for line in too_long(name)} == whole


@pytest.mark.parametrize("name", MODULES)
def test_codes_of_problems_are_kebab_case(name: str) -> None:
    for node in ast.walk(tree(name)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("Problem", "Fault")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            code = node.args[0].value
            assert isinstance(code, str)
            assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", code), f"{name}:{node.lineno}: {code}"


@pytest.mark.parametrize("name", MODULES)
def test_every_room_says_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(tree(name)) or not (TOP / name).read_text().strip() or name.endswith("__main__.py")
