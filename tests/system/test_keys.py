"""The key's life: taken over, enrolled, replaced while everything installed stays loadable, kept in a token."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from inside import enter
from world import World

from kmodd.core.sysroot import Sysroot
from kmodd.sign import Keyring
from kmodd.sign.making import KeyMaker
from kmodd.sign.signfile import is_signed

pytestmark = pytest.mark.system


def key(world: World, *words: str) -> dict[str, Any]:
    """Run kmoddctl key ... --json and return what it said, with its exit status."""
    done = world.ctl("key", *words, "--json")
    assert "Traceback" not in done.stderr, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return {**answer, "status": done.returncode}


def keys_of(world: World) -> Path:
    return world.root / "etc/kmodd/keys"


def signers(world: World) -> set[str]:
    return {item["signer"] for target in world.status()["targets"] for item in target["objects"]}


def attempts(world: World) -> list[float]:
    return sorted(target["last_attempt"]["began"] for target in world.status()["targets"])


def make_pair(directory: Path, passphrase: str = "") -> tuple[Path, Path]:
    """Make a pair as DKMS does: PEM key, DER certificate."""
    directory.mkdir(parents=True, exist_ok=True)
    private, certificate = directory / "mok.key", directory / "mok.pub"
    secret = ["-passout", f"pass:{passphrase}"] if passphrase else ["-nodes"]
    subprocess.run(
        ["openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", *secret, "-days", "36500", "-subj", "/CN=DKMS key/",
         "-outform", "DER", "-keyout", private, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    private.chmod(0o600)
    return private, certificate


# -- taking over -------------------------------------------------------------------------------------------------------
def test_the_key_of_dkms_is_taken_over(world: World) -> None:
    private, _ = make_pair(world.root / "var/lib/dkms")
    assert key(world, "import", "--from", "akmods")["error"]["problem"] == "signing-key-missing"
    assert not (keys_of(world) / "signing.key").exists()
    assert key(world, "import", "--from", "dkms", "--dry-run")["would"] == "import"
    assert not (keys_of(world) / "signing.key").exists()
    said = key(world, "import", "--from", "dkms")
    assert (said["status"], said["subject"]) == (0, "CN=DKMS key")
    assert (keys_of(world) / "signing.key").read_bytes() == private.read_bytes()
    assert (keys_of(world) / "signing.key").stat().st_mode & 0o777 == 0o600
    world.add("alpha")
    world.sync()
    assert signers(world) == {said["fingerprint"]}
    assert key(world, "import", "/var/lib/dkms/mok.key", "/var/lib/dkms/mok.pub")["error"]["problem"] == (
        "signing-key-exists"
    )


def test_taking_over_a_key_can_be_undone(world: World) -> None:
    private, certificate = make_pair(world.root / "var/lib/dkms")
    original = private.read_bytes(), certificate.read_bytes()
    assert key(world, "import", "--from", "dkms", "--undo")["error"]["problem"] == "signing-key-not-imported"
    taken = key(world, "import", "--from", "dkms")["fingerprint"]
    world.add("alpha")
    world.sync()
    assert signers(world) == {taken}
    built = attempts(world)
    assert key(world, "import", "--from", "akmods", "--undo")["error"]["problem"] == "signing-key-missing"
    assert key(world, "import", "--from", "dkms", "--undo", "--dry-run")["would"] == "undo"
    assert signers(world) == {taken}
    # a kill after the first file: the next try goes on
    (keys_of(world) / "signing.key").unlink()
    assert key(world, "import", "--from", "dkms", "--undo")["status"] == 0
    assert (private.read_bytes(), certificate.read_bytes()) == original
    assert not list(keys_of(world).iterdir())
    assert key(world, "status")["problem"]["problem"] == "signing-key-absent"
    world.sync()
    assert (world.verdict("alpha"), signers(world)) == ("ready", {taken})
    own = key(world, "generate")["fingerprint"]
    world.sync()
    assert (signers(world), taken == own, attempts(world)) == ({own}, False, built)
    assert key(world, "import", "--from", "dkms", "--undo")["error"]["problem"] == "signing-key-not-imported"


def test_halves_of_different_pairs_are_not_taken_over(world: World) -> None:
    make_pair(world.root / "one")
    make_pair(world.root / "two")
    said = key(world, "import", "/one/mok.key", "/two/mok.pub")
    assert (said["status"], said["error"]["problem"]) == (1, "signing-key-mismatch")
    assert list(keys_of(world).iterdir()) == []
    assert key(world, "import", "/one/mok.key")["error"]["problem"] == "usage-pair"


def test_a_generated_key_is_encrypted_where_a_passphrase_is_set(world: World) -> None:
    keys_of(world).mkdir(mode=0o700)
    secret = keys_of(world) / "passphrase"
    secret.write_text("open sesame\n")
    secret.chmod(0o600)
    world.settings('[sign]\npassphrase_file = "/etc/kmodd/keys/passphrase"\n')
    world.add("alpha")
    world.sync()
    assert b"ENCRYPTED" in (keys_of(world) / "signing.key").read_bytes()
    assert world.verdict("alpha") == "ready"


# -- rotation ----------------------------------------------------------------------------------------------------------
def test_rotation_signs_anew_without_building(world: World) -> None:
    world.add("alpha")
    world.add("beta")
    world.sync()
    before, began = key(world, "show"), attempts(world)
    assert key(world, "rotate", "--dry-run", "--algorithm", "ecdsa")["would"] == "rotate"
    assert signers(world) == {before["fingerprint"]}
    said = key(world, "rotate", "--algorithm", "ecdsa")
    assert (said["status"], said["rotated"]) == (0, True)
    now = key(world, "status")
    assert now["fingerprint"] == said["fingerprint"] != before["fingerprint"]
    assert now["algorithm"] == "ECDSA 384"
    assert now["objects"] == {"signed": 0, "signed_by_others": 2}
    assert world.verdict("alpha") == "ready"  # what the old key signed loads as long as nothing enforces
    world.sync()
    assert signers(world) == {said["fingerprint"]}
    assert key(world, "status")["objects"] == {"signed": 2, "signed_by_others": 0}
    assert attempts(world) == began
    assert world.verdict("alpha") == "ready"
    names = sorted(path.relative_to(keys_of(world)).as_posix() for path in keys_of(world).rglob("*"))
    old = before["fingerprint"][:16]
    assert names == ["retired", f"retired/{old}.key", f"retired/{old}.x509", "signing.key", "signing.x509"]
    assert (keys_of(world) / "signing.key").stat().st_mode & 0o777 == 0o600


def test_a_running_daemon_signs_anew_by_itself(world: World) -> None:
    world.add("alpha")
    world.start()
    world.wait_for("alpha", "ready")
    began = attempts(world)
    said = key(world, "rotate")
    world.wait(lambda: signers(world) == {said["fingerprint"]}, "the new signature")
    world.wait_for("alpha", "ready")
    assert attempts(world) == began
    assert "build started" not in world.log.read_text().partition("module installed")[2]


def test_under_enforcement_the_successor_waits_for_its_enrolment(world: World) -> None:
    world.add("alpha")
    world.sync()
    before = key(world, "show")["fingerprint"]
    entries = world.root / "boot/loader/entries"
    entries.mkdir(parents=True, exist_ok=True)
    (entries / "one.conf").write_text(f"version {world.kernel}\noptions root=/dev/vda module.sig_enforce=1\n")
    assert key(world, "status")["status"] == 4
    first = key(world, "rotate")
    assert (first["status"], first["rotated"], first["enforcing"]) == (4, False, world.kernel)
    assert key(world, "rotate")["successor"] == first["successor"]  # the same one waits
    assert key(world, "status")["successor"]["fingerprint"][:16] == first["successor"]
    assert key(world, "show")["fingerprint"] == before
    world.sync()
    assert signers(world) == {before}
    assert key(world, "rotate", "--abort")["aborted"] is True
    assert key(world, "rotate", "--abort")["aborted"] is False
    assert not (keys_of(world) / "next").exists()
    second = key(world, "rotate", "--now")
    assert second["rotated"] and second["fingerprint"] != before


def test_a_key_elsewhere_is_left_to_its_owner(world: World) -> None:
    make_pair(world.root / "var/lib/dkms")
    world.settings('[sign]\nkey = "/var/lib/dkms/mok.key"\ncertificate = "/var/lib/dkms/mok.pub"\n')
    world.add("alpha")
    world.sync()
    assert world.verdict("alpha") == "ready"
    assert key(world, "rotate")["error"]["problem"] == "signing-key-elsewhere"
    assert sorted(p.name for p in (world.root / "var/lib/dkms").iterdir()) == ["mok.key", "mok.pub"]


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from kmodd.core.sysroot import Sysroot
from kmodd.sign import Keyring, making, pairfiles
step, count = int(sys.argv[2]), 0
def counted(function):
    def call(*a, **k):
        global count
        count += 1
        if count == step: os.kill(os.getpid(), signal.SIGKILL)
        return function(*a, **k)
    return call
for owner, name in ((os, "link"), (Path, "rename"), (Path, "mkdir"), (Path, "unlink"), (making, "delete_tree"),
                    (making, "remove_tree"), (making, "sync_directory"), (pairfiles, "delete_tree"),
                    (pairfiles, "remove_tree"), (pairfiles, "replace_file"), (pairfiles, "run"),
                    (Keyring, "publish"), (pairfiles, "sync_directory")):
    setattr(owner, name, counted(getattr(owner, name)))
maker = making.KeyMaker(Keyring(Sysroot(Path(sys.argv[1]))))
async def rotate():
    await maker.prepare("ecdsa")
    await maker.switch()
asyncio.run(rotate())
print("end")
"""


def test_a_kill_at_any_step_of_a_rotation_leaves_a_whole_key(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    asyncio.run(KeyMaker(Keyring(Sysroot(tmp_path / "first"))).generate("ecdsa"))
    for step in range(1, 60):
        root = tmp_path / str(step)
        shutil.copytree(tmp_path / "first", root)
        old = Keyring(Sysroot(root)).signer().identity
        done = subprocess.run([sys.executable, "-c", KILLED, str(root), str(step)], capture_output=True, text=True)
        if "end" in done.stdout:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        keyring = Keyring(Sysroot(root))
        KeyMaker(keyring).heal()
        assert keyring.signer().fault is None
        asyncio.run(keyring._check_pair({}))  # a whole pair, the old one or the new one
        if keyring.signer().identity == old:  # what was begun can be ended
            asyncio.run(KeyMaker(keyring).prepare("ecdsa"))
            asyncio.run(KeyMaker(keyring).switch())
        assert keyring.signer().identity != old
        assert sorted(p.name for p in keyring.sysroot.keys.iterdir()) == ["retired", "signing.key", "signing.x509"]
    assert 12 < step < 59


# -- enrolment ---------------------------------------------------------------------------------------------------------
MOKUTIL = """\
#!/bin/sh
# Stands for mokutil(1), whose firmware is not here: keeps the lists of MOKs in files, and says what mokutil says.
state=/var/mok; mkdir -p $state
case $1 in
--test-key)
    sum=$(sha256sum <"$2")
    if grep -qs "$sum" $state/enrolled; then echo "$2 is already enrolled"; exit 1; fi
    if grep -qs "$sum" $state/new; then echo "$2 is already in the enrollment request"; exit 1; fi
    echo "$2 is not enrolled" ;;
--import)
    if [ "${3-}" = --root-pw ]; then echo root >$state/password
    else read -r one && read -r two && [ "$one" = "$two" ] || { echo "password doesn't match" >&2; exit 255; }
        echo "$one" >$state/password; fi
    sha256sum <"$2" >>$state/new ;;
esac
"""


def machine(world: World, *words: str, mokutil: bool = True) -> dict[str, Any]:
    """Run kmoddctl on the machine that the root would be, booted by EFI."""
    (world.root / "sys/firmware/efi/efivars").mkdir(parents=True, exist_ok=True)
    programs = world.root / "opt/fake"
    if mokutil:
        programs.mkdir(parents=True, exist_ok=True)
        (programs / "mokutil").write_text(MOKUTIL)
        (programs / "mokutil").chmod(0o755)
    env = {"KMODD_PROGRAM_PATH": "/opt/fake:/usr/sbin:/usr/bin:/sbin:/bin"}
    done = enter(world.root, sys.executable, "-m", "kmodd.ctl", *words, "--json", env=env, input="")
    assert done.stdout, done.stderr
    return {**json.loads(done.stdout), "status": done.returncode}


def test_enrolment_is_asked_for_once_and_a_rotation_waits_for_the_boot(world: World) -> None:
    world.add("alpha")
    world.sync()
    secret = world.root / "password"
    secret.write_text("one time\n")
    assert machine(world, "key", "enroll")["error"]["problem"] == "usage-password"  # nobody to ask
    said = machine(world, "key", "enroll", "--password-file", "/password")
    assert (said["status"], said["enrolment"]) == (0, "pending")
    assert (world.root / "var/mok/password").read_text() == "one time\n"
    assert machine(world, "key", "enroll", "--root-password")["enrolment"] == "pending"
    assert (world.root / "var/mok/password").read_text() == "one time\n"  # not asked for again
    (world.root / "var/mok/new").rename(world.root / "var/mok/enrolled")  # what MokManager does at the boot
    assert machine(world, "key", "enroll")["enrolment"] == "enrolled"
    entries = world.root / "boot/loader/entries"
    entries.mkdir(parents=True, exist_ok=True)
    (entries / "one.conf").write_text(f"version {world.kernel}\noptions module.sig_enforce=1\n")
    state = machine(world, "key", "status")
    assert (state["status"], state["kernels"][0]["trusted"], state["enrolment"]) == (0, True, "enrolled")
    assert machine(world, "status")["targets"][0]["verdict"] == "ready"
    # A successor is not used before the firmware trusts it.
    assert machine(world, "key", "rotate")["rotated"] is False
    assert machine(world, "key", "enroll", "--root-password")["enrolment"] == "pending"
    assert machine(world, "key", "rotate")["rotated"] is False
    (world.root / "var/mok/new").rename(world.root / "var/mok/enrolled")
    assert machine(world, "key", "rotate")["rotated"] is True
    assert machine(world, "key", "status")["enrolment"] == "enrolled"


def test_where_no_firmware_can_keep_the_key_enrolment_says_so(world: World) -> None:
    world.add("alpha")
    world.sync()
    said = key(world, "enroll", "--root-password")
    assert said["error"]["problem"] == "enrolment-impossible"  # of another root
    done = enter(world.root, sys.executable, "-m", "kmodd.ctl", "key", "enroll", "--root-password", env={})
    assert (done.returncode, "not booted by EFI" in done.stderr) == (1, True), done.stderr
    (world.root / "sys/firmware/efi/efivars").mkdir(parents=True)
    real = enter(world.root, sys.executable, "-m", "kmodd.ctl", "key", "enroll", "--root-password", env={})
    assert real.returncode == 1 and "EFI variables are not supported" in real.stderr, real.stderr  # mokutil itself


# -- a token -----------------------------------------------------------------------------------------------------------
URI = "pkcs11:token=kmodd;object=signing;type=private"


@pytest.fixture
def token(world: World) -> dict[str, str]:
    """Return sign's settings for a key in a SoftHSM token, made by its own tools."""
    library = next(Path("/usr/lib").glob("*/softhsm/libsofthsm2.so"))
    home = world.root / "var/lib/softhsm"
    (home / "tokens").mkdir(parents=True)
    conf = home / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {home}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    env = {**os.environ, "SOFTHSM2_CONF": str(conf), "PKCS11_MODULE_PATH": str(library)}
    keys_of(world).mkdir(mode=0o700, parents=True)
    pin = keys_of(world) / "pin"
    pin.write_text("1234\n")
    pin.chmod(0o600)

    def do(*argv: object) -> None:
        done = subprocess.run(list(map(str, argv)), env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + done.stdout

    private, certificate = make_pair(home)
    do("openssl", "pkcs8", "-topk8", "-nocrypt", "-in", private, "-out", home / "pkcs8.pem")
    do("softhsm2-util", "--init-token", "--free", "--label", "kmodd", "--so-pin", "0000", "--pin", "1234")
    do("softhsm2-util", "--import", home / "pkcs8.pem", "--token", "kmodd", "--label", "signing", "--id", "01",
       "--pin", "1234")  # fmt: skip
    private.unlink()
    (home / "pkcs8.pem").unlink()
    shutil.copy(certificate, keys_of(world) / "token.x509")
    return {"library": str(library), "conf": str(conf)}


def use_token(world: World, token: dict[str, str], uri: str = URI) -> None:
    world.settings(
        f'[sign]\nkey = "{uri}"\ncertificate = "/etc/kmodd/keys/token.x509"\n'
        f'passphrase_file = "/etc/kmodd/keys/pin"\npkcs11_module = "{token["library"]}"\n'
        f'environment = {{ SOFTHSM2_CONF = "{token["conf"]}" }}\n'
    )


def test_a_key_in_a_token_signs_and_verifies(world: World, token: dict[str, str]) -> None:
    use_token(world, token)
    world.add("alpha")
    done = world.sync()
    assert world.verdict("alpha") == "ready", done.stderr
    target = world.target("alpha")["objects"][0]
    assert target["signer"] == key(world, "show")["fingerprint"]
    assert is_signed(world.root / target["path"][1:])
    for words in (("generate",), ("rotate",)):
        assert key(world, *words)["error"]["problem"] == "signing-key-in-token"


def test_a_token_that_cannot_sign_is_explained(world: World, token: dict[str, str]) -> None:
    world.add("alpha")
    for change in ("pin", "uri"):
        if change == "pin":
            (keys_of(world) / "pin").write_text("9999\n")
            use_token(world, token)
        else:
            (keys_of(world) / "pin").write_text("1234\n")
            use_token(world, token, URI.replace("signing", "nobody"))
        world.sync()
        target = world.target("alpha")
        assert (target["verdict"], target["problem"]) == ("failed", "signing-failed"), change
        assert "p11tool" in target["hint"]
        assert world.extra() == []
    use_token(world, token)
    world.sync()
    assert world.verdict("alpha") == "ready"
