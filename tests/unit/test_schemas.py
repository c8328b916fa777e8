"""The JSON Schemas that are shipped are those of the models, and say the same of files as the models do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from schemas import is_valid

from kmodd.core.modulefile import ModuleFile
from kmodd.core.settings import Settings
from kmodd.core.tomlfile import parse

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOP = Path(__file__).resolve().parents[2]
SCHEMAS = TOP / "packaging/schema"
MODELS: dict[str, type[BaseModel]] = {"module": ModuleFile, "kmodd": Settings}
SOURCE = '[source]\npath = "/usr/src/m"\n'

CASES: list[tuple[str, str, bool]] = [
    ("module", SOURCE, True),
    ("module", "", False),
    ("module", SOURCE + 'archive = "/x.tar"\n', False),
    (
        "module",
        '[source]\nkernel = ["drivers/md/bcache"]\npatches = ["a.patch", { file = "b.patch", fuzz = 1 }]\n',
        True,
    ),
    ("module", SOURCE + "patches = [{ fil = 1 }]\n", False),
    ("module", SOURCE + "[modul]\n", False),
    ("module", SOURCE + "[module]\nrequird = true\n", False),
    ("module", SOURCE + '[module]\nrequired = "yes"\n', False),
    ("module", SOURCE + "[module]\nrequired = false\n", True),
    ("module", SOURCE + '[build]\ncommand = ["make", "all"]\ntimeout = "30min"\n', True),
    ("module", SOURCE + '[build]\ncommand = [["./configure"], ["make"]]\ntimeout = 90\n', True),
    ("module", SOURCE + '[build]\ntimeout = "soon"\n', False),
    ("module", SOURCE + "[build]\ntimeout = 0\n", False),
    ("module", SOURCE + '[build]\nconfig = { CONFIG_X = "m", CONFIG_Y = 3 }\n', True),
    ("module", SOURCE + '[kernels]\nmatch = "6.1.*"\n', False),
    ("module", SOURCE + '[kernels]\nmatch = ["6.1.*"]\nminimum = "6.1"\nconfig = ["!CONFIG_X"]\n', True),
    ("module", SOURCE + '[kernels]\nconfig = ["X"]\n', False),
    ("module", SOURCE + '[[object]]\nname = "m"\n', True),
    ("module", SOURCE + '[[object]]\npath = "."\n', False),
    ("module", SOURCE + '[load]\nreload = "if-unused"\noptions = { m = "value=1" }\n', True),
    ("module", SOURCE + '[load]\nreload = "always"\n', False),
    ("kmodd", "", True),
    ("kmodd", "[deamon]\n", False),
    ("kmodd", '[build]\njobs = 4\nlargest_object = "256MiB"\nreserve = 0\n', True),
    ("kmodd", "[build]\njobs = 0\n", False),
    ("kmodd", "[build]\nlargest_object = 0\n", False),
    ("kmodd", '[retry]\nfirst = "1s"\nlongest = 2.5\n', True),
    ("kmodd", '[daemon]\nlog_level = "loud"\n', False),
    ("kmodd", '[notify]\ncommand = ["/usr/bin/tell"]\n', True),
]


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    return found


def test_schemas_are_those_of_the_models(tmp_path: Path) -> None:
    subprocess.run([sys.executable, SCHEMAS / "generate.py", tmp_path], check=True)
    for path in tmp_path.iterdir():
        assert path.read_text() == (SCHEMAS / path.name).read_text(), "run packaging/schema/generate.py"


@pytest.mark.parametrize(("name", "text", "good"), CASES)
def test_schema_and_model_say_the_same(name: str, text: str, good: bool) -> None:
    assert is_valid(tomllib.loads(text), schema(name), schema(name)) == good
    try:
        parse(MODELS[name], text)
    except ValueError:
        assert not good
    else:
        assert good


def test_files_that_are_shipped_and_built_in_tests_are_valid() -> None:
    for path in (TOP / "tests/stories").glob("*.toml"):
        assert is_valid(tomllib.loads(path.read_text()), schema("module"), schema("module")), path
    example = (TOP / "etc/kmodd.toml").read_text()
    assert is_valid(tomllib.loads(example), schema("kmodd"), schema("kmodd"))
