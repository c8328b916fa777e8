"""A package as drivers for DKMS are packaged: a source with a dkms.conf in /usr/src, and scriptlets that call dkms."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .command import run

SPEC = """\
Name: own-dkms
Version: {version}
Release: {release}
Summary: A driver for tests
License: MIT
BuildArch: noarch
AutoReqProv: no
Requires: dkms >= 2.2
%description
%{{summary}}.
%install
mkdir -p %{{buildroot}}/usr/src
cp -r {source} %{{buildroot}}/usr/src/own-{version}
%files
/usr/src/own-{version}
%post
dkms add -m own -v {version} --rpm_safe_upgrade && dkms build -m own -v {version} && dkms install -m own -v {version}
%preun
dkms remove -m own -v {version} --all --rpm_safe_upgrade
"""
CODE = """\
#include <linux/module.h>
static int __init own_init(void) {{ return 0; }}
static void __exit own_exit(void) {{ }}
module_init(own_init);
module_exit(own_exit);
MODULE_LICENSE("GPL");
MODULE_VERSION("{version}-{release}");
"""
CONF = 'PACKAGE_NAME=own\nPACKAGE_VERSION={version}\nDEST_MODULE_LOCATION=/extra\nAUTOINSTALL="yes"\n'


def make(output: Path, version: str, release: str = "1", conf: str = "", script: str = "") -> Path:
    """Build own-dkms into a directory; returns the RPM. conf: more lines; script: the source's script.sh."""
    with tempfile.TemporaryDirectory(prefix=".rpmbuild.", dir=output) as name:
        top, source = Path(name), Path(name) / "source"
        source.mkdir()
        (source / "own.c").write_text(CODE.format(version=version, release=release))
        (source / "Makefile").write_text("obj-m := own.o\n")
        (source / "dkms.conf").write_text(CONF.format(version=version) + conf)
        (source / "script.sh").write_text(f"#!/bin/sh\n{script}")
        (source / "script.sh").chmod(0o755)
        (top / "own.spec").write_text(SPEC.format(version=version, release=release, source=source))
        run(["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {top}", top / "own.spec"])
        (built,) = top.glob("RPMS/*/*.rpm")
        return built.rename(output / built.name)
