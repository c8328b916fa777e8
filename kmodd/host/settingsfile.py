"""Reads the daemon's own settings: kmodd.toml(5). The file may be absent. Must not: know what they mean."""

from __future__ import annotations

from ..core import tomlfile
from ..core.errors import Problem
from ..core.settings import Settings
from ..core.sysroot import Sysroot
from ..system.reading import reach

LARGEST = 1 << 20  # bytes; a few lines are what it has


def read_settings(sysroot: Sysroot) -> Settings:
    """Return the settings of a root.

    Raises Problem settings-invalid, which names file, table and key, and source-unsafe.
    """
    path = sysroot.configuration
    where = sysroot.inside(path)
    hint = "see kmodd.toml(5)"
    try:
        with reach(sysroot, where) as found:
            if found.weakness:
                text = f"{where}: others than root can change it: {found.weakness.text}"
                raise Problem("source-unsafe", text, found.weakness.fix)
            if not found.is_file:
                raise ValueError("it is not a regular file")
            data = found.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise ValueError(f"it is larger than {LARGEST} bytes")
        return tomlfile.parse(Settings, data.decode())
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise Problem("settings-invalid", f"{where} cannot be read: {error.strerror}", hint) from error
    except ValueError as error:
        raise Problem("settings-invalid", f"{where}: {error}", hint) from error
