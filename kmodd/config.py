"""The daemon's own settings: kmodd.toml(5). Everything has a default; the file may be absent."""

from __future__ import annotations

import os
from typing import Annotated, Literal, Optional

from pydantic import Field

from . import tomlfile
from .errors import Problem
from .modulefile import AbsolutePath, Name, Table, TimeSpan
from .paths import Sysroot


class DaemonTable(Table):
    quiet: TimeSpan = 0.25  # no event for so long, and the rpm transaction over: then look
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class BuildTable(Table):
    jobs: Annotated[Optional[int], Field(ge=1, le=4096)] = None  # of all builds together; default: the cores
    user: Name = "kmodd-build"
    keep_logs: Annotated[int, Field(ge=1)] = 10  # per target


class RetryTable(Table):
    first: TimeSpan = 60.0
    longest: TimeSpan = 3600.0


class SignTable(Table):
    key: AbsolutePath = "/etc/kmodd/keys/signing.key"
    certificate: AbsolutePath = "/etc/kmodd/keys/signing.x509"
    algorithm: Literal["rsa", "ecdsa"] = "rsa"
    trusted: bool = False  # every kernel trusts the key by other means than MOK, such as CONFIG_SYSTEM_TRUSTED_KEYS


class Settings(Table):
    daemon: DaemonTable = DaemonTable()
    build: BuildTable = BuildTable()
    retry: RetryTable = RetryTable()
    sign: SignTable = SignTable()

    @property
    def jobs(self) -> int:
        return self.build.jobs or len(os.sched_getaffinity(0))


def read_settings(sysroot: Sysroot) -> Settings:
    """Return the settings of a root. Raises Problem settings-invalid, which names file, table and key."""
    path = sysroot.configuration
    where = sysroot.inside(path)
    hint = "see kmodd.toml(5)"
    try:
        return tomlfile.parse(Settings, path.read_text())
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise Problem("settings-invalid", f"{where} cannot be read: {error.strerror}", hint) from error
    except ValueError as error:
        raise Problem("settings-invalid", f"{where}: {error}", hint) from error
