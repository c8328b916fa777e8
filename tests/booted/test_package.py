"""What the package says of itself: licences of everything in it, and how its files are treated."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from ground.command import run
from nspawn import Machine, Repository

pytestmark = pytest.mark.booted

CLASSIFIERS = {"MIT License": "MIT", "Python Software Foundation License": "PSF-2.0"}


@pytest.fixture(scope="module")
def package(machine: Machine, repository: Repository) -> Path:
    return machine.root / repository.kmodd.lstrip("/")


@pytest.fixture(scope="module")
def unpacked(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unpacked")
    subprocess.run(f"rpm2cpio {package} | cpio -idm --quiet", shell=True, cwd=out, check=True)
    return out


def query(package: Path, form: str) -> str:
    return run(["rpm", "-qp", "--qf", form, package])


def is_covered(expression: str, given: set[str]) -> bool:
    """Tell whether an SPDX expression is met by licences that are given: one of what is OR, all of what is AND."""
    for inner in re.findall(r"\(([^()]*)\)", expression):
        word = "yes" if is_covered(inner, given) else "no"
        return is_covered(expression.replace(f"({inner})", word), given)
    return any(
        all(one.strip() in given | {"yes"} for one in choice.split(" AND ")) for choice in expression.split(" OR ")
    )


def licences(about: Path) -> set[str]:
    """Return the SPDX expressions of a wheel, and of what is compiled into it by its SBOM (CycloneDX)."""
    text = (about / "METADATA").read_text().partition("\n\n")[0]
    found = set(re.findall(r"^License-Expression: (.*)$", text, re.MULTILINE))
    if not found:
        names = re.findall(r"^Classifier: License :: OSI Approved :: (.*)$", text, re.MULTILINE)
        found = {CLASSIFIERS[name] for name in names}
    for bill in about.glob("sboms/*.json"):
        for component in json.loads(bill.read_text())["components"]:
            for one in component.get("licenses", ()):
                found.add(one.get("expression") or one["license"]["id"])
    return found


def test_the_licence_covers_all_that_is_bundled(package: Path, unpacked: Path) -> None:
    given = set(query(package, "%{LICENSE}").split(" AND "))
    wheels = sorted((unpacked / "usr/lib/kmodd/site-packages").glob("*.dist-info"))
    assert len(wheels) >= 8
    for about in wheels:
        found = licences(about)
        assert found and all(is_covered(one, given) for one in found), (about.name, found)
        (texts,) = unpacked.glob(f"usr/share/licenses/kmodd*/{about.stem}")
        assert any(path.stat().st_size > 500 for path in texts.iterdir()), about.name
    assert is_covered("MIT", given) and not is_covered("GPL-2.0-only", given)
    assert not is_covered("(MIT OR Zlib) AND GPL-2.0-only", given)


def test_all_that_is_bundled_is_said(package: Path, unpacked: Path) -> None:
    wheels = {
        tuple(path.name[: -len(".dist-info")].split("-"))
        for path in (unpacked / "usr/lib/kmodd/site-packages").glob("*.dist-info")
    }
    provided = query(package, "[%{PROVIDENAME} %{PROVIDEVERSION}\n]")
    assert set(re.findall(r"^bundled\(python3dist\((.*)\)\) (.*)$", provided, re.MULTILINE)) == wheels
    # and nothing of it is offered to others, or asked of them
    assert not re.search(r"^(python3dist|lib.*\.so|pydantic)", provided, re.MULTILINE)
    assert "python3dist" not in query(package, "[%{REQUIRENAME}\n]")


def test_configuration_is_kept_and_the_key_is_closed(package: Path) -> None:
    lines = query(package, "[%{FILENAMES} %{FILEFLAGS:fflags} %{FILEMODES:octal} %{FILEUSERNAME}\n]").splitlines()
    files = {line.split(" ")[0]: line.split(" ")[1:] for line in lines}
    assert files["/etc/kmodd/kmodd.toml"] == ["cn", "100644", "root"]
    assert files["/etc/kmodd/keys"] == ["", "40700", "root"]
    assert {owner for _, _, owner in files.values()} == {"root"}
    assert [name for name, (_, mode, _) in files.items() if int(mode, 8) & 0o022 and not mode.startswith("12")] == []
    assert not [name for name in files if name.startswith(("/etc/systemd", "/lib/modules", "/usr/lib/modules"))]
