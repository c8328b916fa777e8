"""A small project of the autoconf kind: its configure looks for the kernel and tries to build against it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .command import run

CONFIGURE = """\
AC_INIT([foo], [1.2])
AC_PROG_CC
AC_ARG_WITH([linux], [AS_HELP_STRING([--with-linux=DIR], [the kernel's build tree])])
AS_IF([test -f "$with_linux/Makefile"], [], [AC_MSG_ERROR([no kernel in "$with_linux"])])
AC_MSG_CHECKING([whether modules can be built against $with_linux])
mkdir conftest.kernel
echo 'obj-m := conftest.o' >conftest.kernel/Makefile
cat >conftest.kernel/conftest.c <<_ACEOF
#include <linux/module.h>
MODULE_LICENSE("GPL");
_ACEOF
AS_IF([make -C "$with_linux" M="$PWD/conftest.kernel" modules],
      [AC_MSG_RESULT([yes])], [AC_MSG_FAILURE([cannot build against $with_linux])])
rm -rf conftest.kernel
AC_SUBST([LINUX], [$with_linux])
AC_CONFIG_FILES([Makefile])
AC_OUTPUT
"""
MAKEFILE = """\
all:
\t@echo this is PACKAGE_VERSION @PACKAGE_VERSION@
\t$(MAKE) -C @LINUX@ M=$(CURDIR)/src modules
"""


def files(code: str) -> dict[str, str]:
    """Return what a release of the project holds: configure as autoconf makes it, and the module foo of this code."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        (top / "configure.ac").write_text(CONFIGURE)
        run(["autoconf"], cwd=top)  # it leaves a cache where it runs
        configure = (top / "configure").read_text()
    return {
        "configure.ac": CONFIGURE,
        "configure": configure,
        "Makefile.in": MAKEFILE,
        "src/Kbuild": "obj-m := foo.o\n",
        "src/foo.c": code,
    }
