"""What kmodd.toml(5) may say: the frozen models of the settings, and where those in force are found.

Must not: read the file; host.settingsfile does.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, Literal, Optional
from urllib.parse import unquote

from pydantic import AfterValidator, Field

from .modulefile import AbsolutePath, Line, Name, Size, SizeOrNone, Table, TimeSpan, TimeSpanOrNone


def _key(value: str) -> str:
    if not value.startswith(("/", "pkcs11:")) or any(c.isspace() or not c.isprintable() for c in value):
        raise ValueError("must be an absolute path or a pkcs11: URI (RFC 7512)")
    if value.startswith("pkcs11:") and _tells_pin(value):
        raise ValueError("must not hold a PIN (pin-value), which everybody could read; use sign.passphrase_file")
    return value


def _tells_pin(uri: str) -> bool:
    """Tell whether a pkcs11: URI has the attribute pin-value, however it is written: it becomes a word of openssl's."""
    plain = uri
    while "%" in plain and (decoded := unquote(plain)) != plain:
        plain = decoded
    return "pin-value" in plain.lower()


def _variable(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("must be the name of an environment variable")
    return value


LARGEST_LOG = 32 << 20  # bytes; as many are read


class DaemonTable(Table):
    quiet: TimeSpan = 0.25  # no event for so long, and the rpm transaction over: then a pass begins
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class BuildTable(Table):
    jobs: Annotated[Optional[int], Field(ge=1, le=4096)] = None  # of all builds together; default: the cores
    user: Name = "kmodd-build"
    largest_object: Size = 256 << 20  # bytes of an object, stripped where it is to be
    most_objects: Annotated[int, Field(ge=1)] = 500  # of a build
    keep_logs: Annotated[int, Field(ge=1)] = 10  # per target
    largest_log: Annotated[Size, Field(ge=4096, le=LARGEST_LOG)] = 16 << 20  # bytes that an attempt may write
    reserve: SizeOrNone = 256 << 20  # bytes that stay free where builds, state and logs are, 0 for none
    log_group: Name = "adm"  # may read build logs; root alone where there is no such group
    cc_option_cache: bool = True  # what makefiles ask of the compiler is asked once for a kernel


class SourcesTable(Table):
    srpm_path: tuple[AbsolutePath, ...] = ("/srv/srpms",)  # where the kernels' source RPMs lie
    fetch: bool = False  # those that are missing, by dnf
    allow_unsigned: bool = False  # those without a good signature by a key that rpm trusts


class KernelsTable(Table):
    fetch_devel: bool = False  # install a kernel-devel that is missing, by dnf


class DkmsTable(Table):
    adopt: bool = False  # what has a dkms.conf in /usr/src and no module file is a module
    allow_hooks: tuple[Name, ...] = ()  # modules whose dkms.conf may have scripts run at installation, as root
    force_version_override: tuple[Name, ...] = ()  # modules that are installed over newer ones of the kernel's own


class RetryTable(Table):
    first: TimeSpan = 60.0
    longest: TimeSpan = 3600.0


class BootTable(Table):
    guard: Literal["entry", "off"] = "entry"  # a new kernel gets its boot entry when it is ready, or at once
    hold_at_most: TimeSpanOrNone = 0.0  # for which a kernel is held, 0 for ever
    delay: TimeSpanOrNone = 300.0  # for which a reboot waits while a kernel becomes bootable


class DnfTable(Table):
    keep_proven: bool = True  # the newest kernel that is proven to work stays installed


class VerifyTable(Table):
    strict: bool = False


class SignTable(Table):
    key: Annotated[str, AfterValidator(_key)] = "/etc/kmodd/keys/signing.key"
    certificate: AbsolutePath = "/etc/kmodd/keys/signing.x509"
    passphrase_file: Optional[AbsolutePath] = None  # the key's passphrase or the token's PIN, in its first line
    pkcs11_module: Optional[AbsolutePath] = None  # the token's library; default: what p11-kit is configured for
    environment: dict[Annotated[str, AfterValidator(_variable)], str] = Field(default_factory=dict)  # for sign-file
    algorithm: Literal["rsa", "ecdsa"] = "rsa"
    trusted: bool = False  # every kernel trusts the key by other means than MOK, such as CONFIG_SYSTEM_TRUSTED_KEYS


def _textfile(value: str) -> str:
    if not value.endswith(".prom"):
        raise ValueError("must end with .prom, else node_exporter does not read it")
    return value


class MetricsTable(Table):
    textfile: Optional[Annotated[AbsolutePath, AfterValidator(_textfile)]] = None  # in-root, for node_exporter


def _command(value: tuple[str, ...]) -> tuple[str, ...]:
    if value and not value[0].startswith("/"):
        raise ValueError("must begin with the absolute path of a program")
    return value


class NotifyTable(Table):
    command: Annotated[tuple[Line, ...], AfterValidator(_command)] = ()  # argv, run when verdicts change
    user: Name = "kmodd-build"
    timeout: TimeSpan = 30.0


class Settings(Table):
    daemon: DaemonTable = DaemonTable()
    build: BuildTable = BuildTable()
    sources: SourcesTable = SourcesTable()
    kernels: KernelsTable = KernelsTable()
    dkms: DkmsTable = DkmsTable()
    retry: RetryTable = RetryTable()
    boot: BootTable = BootTable()
    dnf: DnfTable = DnfTable()
    verify: VerifyTable = VerifyTable()
    sign: SignTable = SignTable()
    metrics: MetricsTable = MetricsTable()
    notify: NotifyTable = NotifyTable()

    @property
    def jobs(self) -> int:
        return self.build.jobs or len(os.sched_getaffinity(0))


class SettingsSource:
    """The settings in force. What depends on one reads it here each time: a reload means what a restart means.

    now: is replaced as a whole when the file was read again.
    """

    def __init__(self, now: Optional[Settings] = None) -> None:
        self.now = now or Settings()
