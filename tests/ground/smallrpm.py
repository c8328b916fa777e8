"""A package with three files below /usr/lib/modules, for transactions that cost next to nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .command import run

SMALL = """\
Name: small
Version: 1
Release: 1
Summary: Some files among modules
License: MIT
BuildArch: noarch
AutoReqProv: no
%description
%{summary}.
%install
mkdir -p %{buildroot}/usr/lib/modules/0/extra
touch %{buildroot}/usr/lib/modules/0/extra/{1,2,3}
%files
/usr/lib/modules/0
"""


def make_small(out: Path) -> Path:
    """Build a package with three files below /usr/lib/modules."""
    with tempfile.TemporaryDirectory() as work:
        spec = Path(work) / "small.spec"
        spec.write_text(SMALL)
        run(["rpmbuild", "-bb", "--quiet", "--nodeps", "--define", f"_topdir {work}", spec])
        (made,) = Path(work).rglob("*.rpm")
        final = out / made.name
        final.write_bytes(made.read_bytes())
    return final
