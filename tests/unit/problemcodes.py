"""The problem codes that the code knows, found in its text."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from kmodd.kbuild import failure, unpackchild
from kmodd.system import files

PACKAGE = Path(__file__).resolve().parents[2] / "kmodd"
CONSTRUCTORS = {"Problem": 0, "Fault": 0, "Wait": 2, "Check": 4}  # where each takes the code
FIELDS = ("code", "problem")


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _texts(node: ast.expr) -> Iterator[str]:
    """Yield the literal texts that an expression may be or hold."""
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def made() -> set[str]:
    """Return the codes that something is called by."""
    found = {code for code, _, _ in files._SENTENCES.values()} | {code for _, code, _, _ in failure.PASSING}
    found |= {"input-output", *unpackchild.STATUSES.values()}  # of files.explain, for every other errno
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _name(node.func) in CONSTRUCTORS:
                place = CONSTRUCTORS[_name(node.func)]
                given = [keyword.value for keyword in node.keywords if keyword.arg in FIELDS]
                for code in (*node.args[place : place + 1], *given):
                    found.update(_texts(code) if isinstance(code, (ast.Constant, ast.IfExp)) else ())
    return found


def compared() -> set[str]:
    """Return the codes that the code of something is compared with."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute) and node.left.attr in FIELDS:
                found.update(text for other in node.comparators for text in _texts(other))
    return found
