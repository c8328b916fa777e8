"""What kmoddctl prints of a status: a matrix within 80 columns that says the same with and without colours."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Optional, TextIO, cast

import pytest

from kmodd.core.errors import Problem
from kmodd.ctl import DONE, FAILED, NOT_READY, answers, terminal
from kmodd.ctl.status import print_status

SHORT = ["6.1.0-55-amd64", "6.1.0-56-amd64"]
LONG = [
    "5.14.0-427.13.1.el9_4.x86_64+rt", "5.14.0-503.11.1.el9_5.x86_64+debug", "6.12.117+deb12-amd64", "6.1.0-56-amd64",
]  # fmt: skip
COLOUR = re.compile(r"\x1b\[[\d;]*m")


def kernel(release: str, **more: Any) -> dict[str, Any]:
    facts = {"verdict": "ready", "running": False, "default_boot": None, "reason": "", "problem": "", "hint": ""}
    return {"release": release, **facts, **more}


def module(name: str, **more: Any) -> dict[str, Any]:
    facts = {"version": "", "registered": True, "required": True, "enabled": True, "source": {}, "depends": []}
    return {"name": name, "file": f"/etc/kmodd/modules.d/{name}.toml", **facts, **more}


def target(name: str, release: str, verdict: str = "ready", **more: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {"version": "", "required": True, "reason": f"is {verdict}", "problem": "", "hint": ""}
    facts |= {"objects": [], "warnings": [], "last_attempt": None}
    return {"module": name, "kernel": release, "verdict": verdict, **facts, **more}


def status(
    kernels: list[dict[str, Any]], modules: list[dict[str, Any]], *targets: dict[str, Any], **more: Any
) -> dict[str, Any]:
    """Return a status in which everything is ready but for the targets that are given."""
    given = {(t["module"], t["kernel"]): t for t in targets}
    names = [(m["name"], k["release"]) for m in modules for k in kernels]
    facts = {"schema": 1, "looked": 0, "holder": None, "leftovers": [], "problems": [], "warnings": []}
    return {
        **facts,
        "kernels": kernels,
        "modules": modules,
        "targets": [given.get(pair) or target(*pair) for pair in names],
        **more,
    }


def shown(document: dict[str, Any], capsys: pytest.CaptureFixture[str], detailed: bool = False) -> list[str]:
    with redirect_stdout(cast(TextIO, terminal.Door(sys.stdout))):
        print_status(document, detailed, as_json=False)
    return capsys.readouterr().out.splitlines()


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns that takes colours."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(terminal, "is_terminal", lambda: True)


def many(count: int, releases: list[str]) -> dict[str, Any]:
    modules = [module(f"some_rather_long_module_name_{n}", version="12.7.1", required=n != 3) for n in range(count)]
    kernels = [kernel(r, running=n == 0, default_boot=n == len(releases) - 1) for n, r in enumerate(releases)]
    return status(kernels, modules)


@pytest.mark.parametrize("count", [1, 3, 20])
@pytest.mark.parametrize("releases", [SHORT, LONG, [f"5.14.0-{n}.1.1.el9_4.x86_64+debug" for n in range(100, 112)]])
def test_matrix_fits_80_columns_and_leaves_no_target_out(
    count: int, releases: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(many(count, releases), capsys)
    assert max(map(len, lines)) <= 80, lines
    text = "\n".join(lines)
    assert all(release in text for release in releases)
    assert sum(line.count("ready") for line in lines) >= count * len(releases)
    assert text.count("running") == 1 + text.count("kmodd is not running")
    assert text.count("boots next") == 1


def test_one_kernel_needs_no_letters(capsys: pytest.CaptureFixture[str]) -> None:
    document = status([kernel(SHORT[0], running=True)], [module(f"m{n}") for n in range(5)])
    lines = shown(document, capsys)
    assert lines[:3] == ["6.1.0-55-amd64: ready (running)", "  m0  ready", "  m1  ready"]


def test_few_modules_stand_beside_their_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    kernels = [kernel(SHORT[0], running=True, default_boot=False), kernel(SHORT[1], default_boot=True)]
    modules = [module("hello", version="1.0"), module("nvme_x")]
    document = status(kernels, modules, target("nvme_x", SHORT[1], "waiting"))
    assert shown(document, capsys)[:3] == [
        "kernel                      hello 1.0  nvme_x",
        "6.1.0-55-amd64  running     ready      ready",
        "6.1.0-56-amd64  boots next  ready      waiting",
    ]


def test_many_modules_stand_below_letters_of_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    modules = [module(f"m{n}") for n in range(8)]
    kernels = [kernel(SHORT[0], running=True, default_boot=True), kernel(SHORT[1], verdict="blocked")]
    document = status(kernels, modules, target("m1", SHORT[1], "blocked", hint="do this"))
    lines = shown(document, capsys)
    assert lines[:5] == [
        "A  6.1.0-55-amd64  ready     running, boots next",
        "B  6.1.0-56-amd64  blocked",
        "",
        "    A         B",
        "m0  ready     ready",
    ]
    assert lines[5] == "m1  ready     blocked"


def test_colours_only_repeat_what_the_words_say(
    capsys: pytest.CaptureFixture[str], colours: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    failed = target("m0", LONG[0], "failed", reason="x.c:1:1: error: no", hint="mend it", warnings=["odd"])
    document = status([kernel(r) for r in LONG], [module(f"m{n}") for n in range(9)], failed)
    painted = shown(document, capsys)
    assert any(COLOUR.search(line) for line in painted)
    monkeypatch.setenv("NO_COLOR", "1")
    assert [COLOUR.sub("", line) for line in painted] == shown(document, capsys)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("NO_COLOR", "1", False), ("NO_COLOR", "", True), ("TERM", "dumb", False), ("TERM", "xterm", True)],
)
def test_colours_are_left_out_where_nobody_wants_them(
    colours: None, monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: bool
) -> None:
    monkeypatch.setenv(name, value)
    assert terminal.has_colours() is expected


def test_no_colours_go_into_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert terminal.paint("x", "failed") == "x"


def test_targets_with_one_problem_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    modules = [module(f"m{n}") for n in range(20)]
    missing = {"reason": "kernel-devel is not installed", "hint": "dnf install 'kernel-devel-uname-r = x'"}
    waiting = [target(m["name"], SHORT[1], "waiting", **missing) for m in modules]
    attempt = {"log": "/var/log/kmodd/m3/1.log"}
    failed = [
        target("m3", SHORT[0], "failed", reason="m3.c:1:1: error: no", hint=f"the whole log: {attempt['log']}",
               last_attempt=attempt)
    ]  # fmt: skip
    lines = shown(status([kernel(r) for r in SHORT], modules, *waiting, *failed), capsys)
    start = next(n for n, line in enumerate(lines) if line.startswith("failed"))
    assert lines[start:] == [
        "failed    m3 on 6.1.0-55-amd64: m3.c:1:1: error: no",
        "    → kmoddctl explain m3",
        "waiting   20 modules on 6.1.0-56-amd64: kernel-devel is not installed",
        "    → dnf install 'kernel-devel-uname-r = x'",
        "",
        "1 failed, 20 waiting, 19 ready; kmodd is not running",
    ]


def test_long_reason_is_cut_and_what_to_do_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    failed = target("m", SHORT[0], "blocked", reason="word " * 100, hint="do " + "x" * 100)
    lines = shown(status([kernel(SHORT[0])], [module("m")], failed), capsys)
    assert f"    → do {'x' * 100}" in lines
    assert len([line for line in lines if "word" in line]) == 3
    assert lines[lines.index(f"    → do {'x' * 100}") - 1].endswith("…")


def test_file_that_broke_before_any_kernel_came_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    broken = {"file": "/etc/x.toml", "problem": "module-file-invalid", "message": "x.toml: line 1", "hint": "mend it"}
    lines = shown(status([], [module("x")], problems=[broken]), capsys)
    assert lines == ["No kernels are installed.", "failed    x.toml: line 1", "    → mend it"]
    told = target("x", SHORT[0], "failed", reason="x.toml: line 1", hint="mend it")
    lines = shown(status([kernel(SHORT[0])], [module("x")], told, problems=[broken]), capsys)
    assert len([line for line in lines if "line 1" in line]) == 1


def test_one_module_is_told_in_detail(capsys: pytest.CaptureFixture[str]) -> None:
    item = {"name": "m", "path": "/lib/modules/x/extra/m/m.ko", "sha256": "", "signer": "ab" * 32, "compressed": ""}
    attempt = {"began": 0, "ended": 3, "stage": "build", "outcome": "succeeded", "log": "/var/log/1.log"}
    found = target("m", SHORT[0], objects=[item], last_attempt=attempt, warnings=["odd"])
    lines = shown(status([kernel(SHORT[0], running=True)], [module("m", version="2")], found), capsys, detailed=True)
    assert lines[:4] == [
        "m 2, registered by /etc/kmodd/modules.d/m.toml", "", "6.1.0-55-amd64 (running)", "  ready     is ready",
    ]  # fmt: skip
    text = "\n".join(lines)
    assert "/lib/modules/x/extra/m/m.ko, signed by abababababababab" in text
    assert "build succeeded" in text and "took 3.0 s" in text and "odd" in text


def test_nothing_of_a_compiler_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = target("m", SHORT[0], "failed", reason="x.c: error: \x1b]0;owned\x07\x1b[2J", hint="\x1b[31mred")
    text = "\n".join(shown(status([kernel(SHORT[0])], [module("m")], evil), capsys))
    assert "\x1b" not in text and "\x07" not in text and "owned" in text


@pytest.mark.parametrize(
    ("verdicts", "of_module", "expected"),
    [
        ({"a": ("ready", True), "b": ("excluded", True)}, False, DONE),
        ({"a": ("failed", True), "b": ("waiting", True)}, False, FAILED),
        ({"a": ("waiting", True)}, False, NOT_READY),
        ({"a": ("building", True)}, False, NOT_READY),
        ({"a": ("blocked", True)}, False, NOT_READY),
        ({"a": ("failed", False)}, False, DONE),
        ({"a": ("failed", False)}, True, FAILED),
        ({}, False, DONE),
    ],
)
def test_exit_code_speaks_of_required_modules(
    verdicts: dict[str, tuple[str, bool]], of_module: bool, expected: int
) -> None:
    found = [target(name, SHORT[0], verdict, required=required) for name, (verdict, required) in verdicts.items()]
    assert answers.exit_code(found, of_module) == expected


@pytest.mark.parametrize(
    ("module_name", "release", "expected"),
    [("helo", None, "did you mean hello?"), ("zzz", None, "kmoddctl status lists"), (None, "6.1.0-5", "6.1.0-5")],
)
def test_misspelt_name_gets_a_suggestion(module_name: Optional[str], release: Optional[str], expected: str) -> None:
    document = status([kernel(r) for r in SHORT], [module("hello")])
    with pytest.raises(Problem) as caught:
        answers.check_names(document, module_name, release)
    assert expected in caught.value.hint


def test_choice_keeps_what_was_asked_for() -> None:
    document = status([kernel(r) for r in SHORT], [module("a"), module("b")])
    chosen = answers.choose(document, "a", SHORT[1])
    assert [k["release"] for k in chosen["kernels"]] == [SHORT[1]]
    assert [m["name"] for m in chosen["modules"]] == ["a"]
    assert [(t["module"], t["kernel"]) for t in chosen["targets"]] == [("a", SHORT[1])]
    assert answers.choose(document, None, None) == document


def test_what_shows_documents_imports_nothing_heavy() -> None:
    code = (
        "import sys, kmodd.ctl\n"
        "kmodd.ctl.make_parser(['status', 'plan', 'explain', 'logs', 'verify', 'sync', 'rebuild', 'watch', 'reload'])\n"
        "print([name for name in ('pydantic', 'asyncio', 'structlog', 'pyinotify', 'tomllib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


# -- what is pending, and as of when -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({}, "1 pending; kmodd is not running"),
        ({"holder": "kmodd (pid 7)", "activity": "building"}, "1 building; as of {when}, kmodd (pid 7) is at work"),
        ({"holder": "kmodd (pid 7)", "activity": "idle"}, "1 building; as of {when}, kmodd (pid 7) runs"),
        ({"holder": "kmodd (pid 7)"}, "1 building; as of {when}, kmodd (pid 7) is at work"),
    ],
)
def test_what_nobody_builds_is_pending(facts: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    due = target("a", SHORT[0], "building", reason="is to be built: never built for this kernel")
    document = status([kernel(SHORT[0], verdict="building")], [module("a")], due, **facts)
    lines = shown(document, capsys)
    assert lines[-1] == said.format(when=terminal.moment(0))
    assert ("building" in "".join(lines)) == bool(facts)
    assert any("→ kmoddctl sync" in line for line in lines) != bool(facts)
    assert document["targets"][0]["verdict"] == "building"


def test_what_was_just_removed_is_not_shown(tmp_path: Path) -> None:
    registry = tmp_path / "etc/kmodd/modules.d"
    registry.mkdir(parents=True)
    (registry / "stays.toml").touch()
    (registry / "masked.toml").symlink_to("/dev/null")
    (tmp_path / "usr/lib/kmodd/modules.d").mkdir(parents=True)
    names = ["stays", "gone", "masked", "unregistered"]
    modules = [module(name) for name in names]
    modules[2]["file"] = "/usr/lib/kmodd/modules.d/masked.toml"
    modules[3] |= {"registered": False, "file": ""}
    found = answers.without_removed(status([kernel(SHORT[0])], modules), str(tmp_path))
    assert [m["name"] for m in found["modules"]] == ["stays", "unregistered"]
    assert [t["module"] for t in found["targets"]] == ["stays", "unregistered"]
    away = answers.without_removed(status([kernel(SHORT[0])], modules), str(tmp_path / "nowhere"))
    assert len(away["modules"]) == len(names), "what cannot be looked at is not gone"
