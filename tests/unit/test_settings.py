"""The daemon's settings: defaults, every key, and faults by table and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmodd.core.errors import Problem
from kmodd.core.settings import Settings
from kmodd.core.sysroot import Sysroot
from kmodd.host.settingsfile import read_settings

FULL = """
[daemon]
quiet = "500ms"
log_level = "debug"
[build]
jobs = 3
user = "builder"
keep_logs = 2
reserve = 0
log_group = "wheel"
[retry]
first = "10s"
longest = "2h"
[sign]
key = "/srv/key"
certificate = "/srv/cert"
algorithm = "ecdsa"
"""


def read(root: Path, content: bytes) -> Settings:
    path = root / "etc/kmodd/kmodd.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return read_settings(Sysroot(root))


def test_missing_and_empty_files_are_the_defaults(tmp_path: Path) -> None:
    assert read_settings(Sysroot(tmp_path)) == Settings() == read(tmp_path, b"")
    assert Settings().jobs >= 1


def test_every_key_is_taken(tmp_path: Path) -> None:
    found = read(tmp_path, FULL.encode())
    assert (found.daemon.quiet, found.daemon.log_level, found.jobs) == (0.5, "debug", 3)
    assert (found.build.user, found.build.keep_logs, found.build.log_group) == ("builder", 2, "wheel")
    assert (found.build.reserve, Settings().build.reserve) == (0, 256 << 20)
    assert (found.retry.first, found.retry.longest) == (10, 7200)
    assert (found.sign.key, found.sign.certificate, found.sign.algorithm) == ("/srv/key", "/srv/cert", "ecdsa")


BAD = [
    (b"[deamon]\n", "deamon: unknown key"),
    (b"[build]\njob = 1\n", "build.job: unknown key"),
    (b"[build]\njobs = 0\n", "build.jobs: "),
    (b'[build]\njobs = "4"\n', "build.jobs: "),
    (b"[build]\nreserve = -1\n", "build.reserve: "),
    (b'[retry]\nfirst = "soon"\n', "retry.first: "),
    (b'[sign]\nkey = "key"\n', "sign.key: must be an absolute path"),
    (b'[sign]\nalgorithm = "dsa"\n', "sign.algorithm: "),
    (b'[sign]\nkey = "pkcs11:token=t?pin-value=8642"\n', "sign.key: must not hold a PIN"),
    (b'[sign]\nkey = "pkcs11:token=t;object=o?module-name=m&pin-value=8642"\n', "sign.key: must not hold a PIN"),
    (b'[sign]\nkey = "pkcs11:token=t?PIN-Value=8642"\n', "sign.key: must not hold a PIN"),
    (b'[sign]\nkey = "pkcs11:token=t?p%69n%2dvalue=8642"\n', "sign.key: must not hold a PIN"),
    (b'[sign]\nkey = "pkcs11:token=t?%2570in-value=8642"\n', "sign.key: must not hold a PIN"),
    (b'[sign]\nkey = "pkcs11:token=t;pin-value=8642"\n', "sign.key: must not hold a PIN"),
    (b"[", "not valid TOML"),
    (b"\xff", "utf-8"),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_bad_setting_names_file_table_and_key(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(Problem) as caught:
        read(tmp_path, content)
    assert caught.value.code == "settings-invalid"
    assert caught.value.message.startswith("/etc/kmodd/kmodd.toml: ")
    assert message in caught.value.message
    assert "8642" not in caught.value.message  # no message repeats a PIN


def test_pin_in_a_file_is_taken(tmp_path: Path) -> None:
    uri = "pkcs11:token=t;object=o?pin-source=file:/etc/kmodd/keys/pin"
    assert read(tmp_path, f'[sign]\nkey = "{uri}"\n'.encode()).sign.key == uri


def test_directory_in_its_place_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "etc/kmodd/kmodd.toml").mkdir(parents=True)
    with pytest.raises(Problem, match="it is not a regular file"):
        read_settings(Sysroot(tmp_path))
