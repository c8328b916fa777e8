"""What is wrong with a TOML file is said with what may have been meant, and lint says it of a file anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmodd import ctl
from kmodd.core.errors import Problem
from kmodd.core.modulefile import ModuleFile
from kmodd.core.settings import Settings
from kmodd.core.tomlfile import parse
from kmodd.ctl import lint

SOURCE = '[source]\npath = "/usr/src/m"\n'
SLIPS = [
    ("[modul]\n" + SOURCE, "modul: unknown key (did you mean module?)"),
    ("[module]\nrequird = true\n" + SOURCE, "module.requird: unknown key (did you mean required?)"),
    ("[zzz]\n" + SOURCE, "zzz: unknown key"),
    ('[module]\nrequired = "yes"\n' + SOURCE, "module.required: must be true or false, such as required = true"),
    ("[module]\nversion = 1.2\n" + SOURCE, 'module.version: must be a text in quotes, such as version = "1.2"'),
    (
        SOURCE + '[kernels]\nmatch = "6.1.*"\n',
        'kernels.match: must be a list in brackets, such as match = ["6.1.*"]',
    ),
    (SOURCE + "[kernels]\nmatch = [6]\n", 'kernels.match.0: must be a text in quotes, such as match = ["6"]'),
    ("source = 1\n", "source: must be a table, such as [source]"),
    (SOURCE + '[[object]]\nnam = "x"\n', "object.0.nam: unknown key (did you mean name?)"),
    (SOURCE + 'patches = [{ fil = "x" }]\n', "unknown key (did you mean file?)"),
    (SOURCE + '[load]\nreload = "always"\n', "load.reload: Input should be 'never' or 'if-unused'"),
]


@pytest.mark.parametrize(("text", "said"), SLIPS)
def test_slip_in_a_module_file_is_said_with_what_was_meant(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse(ModuleFile, text)
    assert said in str(caught.value)


def test_slip_in_the_settings_is_said_with_what_was_meant() -> None:
    with pytest.raises(ValueError, match=r"deamon: unknown key \(did you mean daemon\?\)"):
        parse(Settings, "[deamon]\n")
    with pytest.raises(ValueError, match=r"build\.jobs: must be a whole number, such as jobs = 4"):
        parse(Settings, '[build]\njobs = "4"\n')


@pytest.mark.parametrize(
    ("name", "text", "code", "said"),
    [
        ("m.toml", SOURCE, "", "registers m, whose source is /usr/src/m"),
        ("m.toml", '[module]\nname = "other"\n' + SOURCE, "", "registers other"),
        ("kmodd.toml", "[build]\njobs = 2\n", "", "the settings are in order"),
        ("m.conf", SOURCE, "module-file-invalid", "must end in .toml"),
        ("-m.toml", SOURCE, "module-file-invalid", "is not a module name"),
        ("m.toml", "[source\n", "module-file-invalid", "not valid TOML"),
        ("kmodd.toml", "[build]\njob = 2\n", "settings-invalid", "build.job: unknown key (did you mean jobs?)"),
    ],
)
def test_lint_tells_what_a_file_is(name: str, text: str, code: str, said: str) -> None:
    try:
        found, problem = lint.check(Path("/somewhere", name), text.encode()), ""
    except Problem as error:
        found, problem = error.message, error.code
    assert (problem, said in found) == (code, True), found


def test_lint_exits_by_what_it_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.toml"
    assert ctl._run(["lint", str(path)]) == 1
    path.write_text(SOURCE)
    assert ctl._run(["lint", str(path)]) == 0
    path.write_bytes(b"\xff")
    assert ctl._run(["lint", str(path)]) == 1
    told = capsys.readouterr()
    assert "registers m" in told.out and "is not UTF-8 at byte 0" in told.err
