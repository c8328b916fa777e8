"""lint: checks a module file, or the settings, wherever it lies, before it is put into its place."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Union

from ..core import tomlfile
from ..core.errors import Problem
from ..core.modulefile import NAME, ModuleFile
from ..core.settings import Settings
from ..system.files import explained
from . import DONE
from .parser import Command

SETTINGS = "kmodd.toml"  # the name of a file that is no module file
LARGEST = 1 << 20  # bytes


def run_lint(options: argparse.Namespace) -> int:
    """kmoddctl lint FILE"""
    path = Path(options.file)
    with explained(f"reading {path}"), path.open("rb") as stream:
        data = stream.read(LARGEST + 1)
    said = check(path, data)
    print(json.dumps({"schema": 1, "file": str(path), "done": said}) if options.json else f"{path}: {said}")
    return DONE


def check(path: Path, data: bytes) -> str:
    """Return what a file is. Raises Problem module-file-invalid or settings-invalid."""
    is_settings = path.name == SETTINGS
    code, page = ("settings-invalid", "kmodd.toml(5)") if is_settings else ("module-file-invalid", "kmodd.modules.d(5)")
    model: type[Union[Settings, ModuleFile]] = Settings if is_settings else ModuleFile
    try:
        if len(data) > LARGEST:
            raise ValueError(f"is larger than {LARGEST} bytes")
        content = tomlfile.parse(model, data.decode())
        name = content.module.name or path.stem if isinstance(content, ModuleFile) else ""
        if name and not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a module name: set module.name")
        if name and path.suffix != ".toml":
            raise ValueError("its name must end in .toml, else it is not read")
    except UnicodeDecodeError as error:
        raise Problem(code, f"{path}: is not UTF-8 at byte {error.start}", f"see {page}") from error
    except ValueError as error:
        raise Problem(code, f"{path}: {error}", f"see {page}") from error
    if isinstance(content, ModuleFile):
        return f"registers {name}, whose source is {content.source.place}"
    return "the settings are in order"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a module file, or a kmodd.toml")


COMMANDS = {"lint": Command(_add_arguments, run_lint)}
