"""The package has all that the tree has for it, and the lock all that the program imports."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
SPEC = (TOP / "packaging/kmodd.spec").read_text()
SHIPPED = ("systemd", "packaging/completion", "packaging/dkms-compat", "packaging/man")
PROJECT = (TOP / "pyproject.toml").read_text()


def test_versions_agree() -> None:
    (spec,) = re.findall(r"^Version:\s+(\S+)$", SPEC, re.MULTILINE)
    (project,) = re.findall(r'^version = "(.*)"$', PROJECT, re.MULTILINE)
    assert spec == project
    assert f"- {spec}-1\n" in SPEC


def test_project_is_at_home_where_the_package_says() -> None:
    (home,) = re.findall(r"^URL:\s+(\S+)$", SPEC, re.MULTILINE)
    (urls,) = re.findall(r"^\[project.urls\]\n(.*?)\n\n", PROJECT, re.MULTILINE | re.DOTALL)
    links = re.findall(r'"(https.*)"', urls)
    for path in (TOP / "SECURITY.md", *(TOP / ".github").rglob("*.yml")):
        links += re.findall(r"https?://github[^\s)]*", path.read_text())
    assert links and all(link == home or link.startswith(f"{home}/") for link in links)


@pytest.mark.parametrize(
    "path",
    sorted(p for directory in SHIPPED for p in (TOP / directory).iterdir() if p.is_file()),
    ids=lambda path: path.name,
)
def test_every_file_is_packaged(path: Path) -> None:
    where = path.relative_to(TOP)
    globs = (str(where), f"{where.parent}/*{where.suffix}")
    assert path.suffix == ".py" or any(word in SPEC for word in globs)


UNITS = sorted(path.name for path in (TOP / "systemd").iterdir() if path.suffix in (".service", ".socket", ".target"))


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_is_packaged_and_what_can_be_enabled_is_preset(unit: str) -> None:
    assert f"%{{_unitdir}}/{unit}\n" in SPEC
    is_preset = f"enable {unit}\n" in (TOP / "systemd/90-kmodd.preset").read_text()
    assert is_preset == ("[Install]" in (TOP / "systemd" / unit).read_text())


def test_the_lock_names_every_dependency_with_hashes() -> None:
    lock = (TOP / "packaging/requirements.lock").read_text()
    locked = {name.lower() for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}
    (block,) = re.findall(r"^dependencies = \[\n(.*?)^\]", PROJECT, re.MULTILINE | re.DOTALL)
    wanted = {name.lower() for name in re.findall(r'^\s+"([\w.-]+)', block, re.MULTILINE)} - {"rpm"}
    assert wanted <= locked
    entries = re.findall(r"^[\w.-]+==[^\n]*\n(.*)$", lock, re.MULTILINE)
    assert entries and all(line.startswith("    --hash=sha256:") for line in entries)
    assert not re.search(r"https?://|--index-url|--find-links", lock)


def test_programs_for_transactions_are_quick_and_never_fail() -> None:
    """Without a booted system they do nothing, and say nothing of that."""
    for name in ("ring", "95-kmodd.install"):
        text = (TOP / "packaging" / name).read_text()
        assert subprocess.run(["sh", "-n"], input=text, text=True).returncode == 0
    done = subprocess.run([TOP / "packaging/ring"], capture_output=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
