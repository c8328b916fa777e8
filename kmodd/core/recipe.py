"""What a dkms.conf says for one kernel: how to build, and which objects that yields. All of it frozen.

It is made of what code of others printed, so its model accepts nothing that is not a plain name or an inner path.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import AfterValidator, Field

from .modulefile import InnerPath, Name, ObjectName, Table

DKMS_TREE = "/var/lib/dkms"  # dkms_tree, as a dkms.conf sees it; there is nothing there but the build
MAKE_FLAGS = "kmodd_makeflags"  # the shell variable with make's MAKEFLAGS


def _version(value: str) -> str:
    if value in (".", "..") or "/" in value or any(c.isspace() or not c.isprintable() for c in value):
        raise ValueError("must be one word without slashes")
    return value


def _script(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not hold a NUL")
    return value


Version = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_version)]
Script = Annotated[str, Field(max_length=1 << 17), AfterValidator(_script)]


class DkmsObject(Table):
    """An object: its file name after the build without .ko, where that is, its name when installed."""

    built: ObjectName
    path: InnerPath
    name: ObjectName
    strip: bool


class Recipe(Table):
    """name, version: PACKAGE_NAME and PACKAGE_VERSION. excluded: why it is not for this kernel, "" if it is.

    patches: relative to the source's directory patches/. before, make, after: lines for bash, "" for none. autoinstall:
    whether DKMS builds it unasked. hooks: scripts of the time of installation, by directive. said: what the conf
    printed as errors.
    """

    name: Name
    version: Version
    excluded: str = ""
    depends: tuple[Name, ...] = ()
    patches: tuple[InnerPath, ...] = ()
    before: Script = ""
    make: Script = ""
    after: Script = ""
    objects: tuple[DkmsObject, ...] = ()
    autoinstall: bool = True
    hooks: dict[str, Script] = Field(default_factory=dict)
    said: str = ""

    @property
    def place(self) -> str:
        """Return where the source is while it is built, as seen inside the sandbox."""
        return f"{DKMS_TREE}/{self.name}/{self.version}/build"

    @property
    def digest(self) -> str:
        """Return the sha256 of all that decides what is built."""
        kept = self.model_dump_json(exclude={"said", "excluded", "autoinstall", "hooks"})
        return hashlib.sha256(kept.encode()).hexdigest()
