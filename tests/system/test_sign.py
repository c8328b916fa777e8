"""The key is made once and safely, and what is signed with it verifies over the very content."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from world import Kernels

from kmodd.core.errors import Problem
from kmodd.core.sysroot import Sysroot
from kmodd.sign import Keyring, certificate_facts
from kmodd.sign.certificate import decode_certificate
from kmodd.sign.making import KeyMaker
from kmodd.sign.signfile import MAGIC, is_signed

pytestmark = pytest.mark.system

CONTENT = b"\x7fELF" + os.urandom(3000)


@pytest.fixture(scope="session")
def sign_file(releases: Kernels, template: Path) -> Path:
    """Return a real kernel's sign-file."""
    return template / "usr/src/kernels" / releases.new / "scripts/sign-file"


@pytest.fixture
def root(open_path: Path) -> Path:
    (open_path / "root").mkdir()
    return open_path / "root"


@pytest.fixture
def tree(root: Path, sign_file: Path) -> Path:
    """Return a build tree in the root."""
    scripts = root / "usr/src/kernels/6.1/scripts"
    scripts.mkdir(parents=True)
    shutil.copy(sign_file, scripts / "sign-file")
    return scripts.parent


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return /etc/kmodd/keys of two roots, by algorithm."""
    found = {}
    for algorithm in ("rsa", "ecdsa"):
        root = tmp_path_factory.mktemp(algorithm)
        asyncio.run(KeyMaker(Keyring(Sysroot(root))).generate(algorithm))
        found[algorithm] = root / "etc/kmodd/keys"
    return found


@pytest.fixture(params=["rsa", "ecdsa"])
def keyring(request: pytest.FixtureRequest, root: Path, pairs: dict[str, Path]) -> Keyring:
    shutil.copytree(pairs[request.param], root / "etc/kmodd/keys")
    return Keyring(Sysroot(root))


def key_of(keyring: Keyring) -> Path:
    return keyring.sysroot.keys / "signing.key"


def certificate_of(keyring: Keyring) -> Path:
    return keyring.sysroot.keys / "signing.x509"


def make_object(root: Path) -> Path:
    path = root / "scratch" / "foo.ko"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(CONTENT)
    return path


def fault_of(keyring: Keyring) -> str:
    fault = keyring.signer().fault
    return fault.problem if fault else ""


def openssl(*argv: object, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["openssl", *map(str, argv)], input=data, capture_output=True)


def verifies(path: Path, certificate: Path, flip: bool = False) -> bool:
    """Tell whether openssl takes the appended signature (struct module_signature) over the rest."""
    data = path.read_bytes()
    assert data.endswith(MAGIC)
    data = data[: -len(MAGIC)]
    *kind, length = struct.unpack(">BBBBB3xI", data[-12:])
    assert kind == [0, 0, 2, 0, 0]  # PKEY_ID_PKCS7, everything else within it
    content, signature = data[: -12 - length], data[-12 - length : -12]
    assert content == CONTENT
    stripped, der, pem = (path.with_suffix(suffix) for suffix in (".stripped", ".p7s", ".pem"))
    stripped.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if flip else content)
    der.write_bytes(signature)
    pem.write_bytes(openssl("x509", "-inform", "DER", "-in", certificate).stdout)
    argv = ("cms", "-verify", "-binary", "-inform", "DER", "-in", der, "-content", stripped)
    return openssl(*argv, "-certfile", pem, "-noverify", "-out", os.devnull).returncode == 0


# -- making the key ----------------------------------------------------------------------------------------------------
def test_without_any_key_it_is_absent(root: Path) -> None:
    assert fault_of(Keyring(Sysroot(root))) == "signing-key-absent"


def test_generated_files_have_their_modes_and_identity(keyring: Keyring) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in keyring.sysroot.keys.iterdir()}
    assert modes == {"signing.key": 0o600, "signing.x509": 0o644}
    assert keyring.sysroot.keys.stat().st_mode & 0o777 == 0o700
    assert keyring.signer().identity == hashlib.sha256(certificate_of(keyring).read_bytes()).hexdigest()


def test_the_certificate_may_sign_modules_and_nothing_else(keyring: Keyring) -> None:
    text = openssl("x509", "-inform", "DER", "-in", certificate_of(keyring), "-noout", "-text").stdout.decode()
    for fact in ("Version: 3", "CA:FALSE", "Digital Signature\n", "Code Signing, 1.3.6.1.4.1.2312.16.1.2"):
        assert fact in text


def test_facts_of_the_certificate(keyring: Keyring) -> None:
    facts = asyncio.run(certificate_facts(keyring))
    assert facts["subject"].startswith("CN=kmodd ") and facts["subject"].endswith(" module signing key")
    assert facts["algorithm"] in ("RSA 3072", "ECDSA 384")
    assert facts["fingerprint"] == keyring.signer().identity
    assert int(facts["serial"], 16) > 0
    assert facts["not_after"] > "2120"


@pytest.mark.parametrize("host", ["h" * 64, "a$b{c}#d\\ e\n", "", "ünder"])
def test_any_host_name_makes_a_certificate(root: Path, host: str) -> None:
    (root / "etc").mkdir()
    (root / "etc/hostname").write_text(host)
    assert asyncio.run(KeyMaker(Keyring(Sysroot(root))).generate("ecdsa")).identity


def test_a_published_copy_is_readable_for_all(root: Path) -> None:
    keyring = Keyring(Sysroot(root))
    asyncio.run(KeyMaker(keyring).generate("ecdsa"))
    assert keyring.published.read_bytes() == certificate_of(keyring).read_bytes()
    assert keyring.published.stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in keyring.sysroot.keys.iterdir()) == ["signing.key", "signing.x509"]


def test_nothing_is_overwritten(keyring: Keyring) -> None:
    before = key_of(keyring).read_bytes(), certificate_of(keyring).read_bytes()
    for gone in ((), (certificate_of(keyring),), (key_of(keyring),)):
        for path in gone:
            path.rename(path.with_suffix(".away"))
        with pytest.raises(Problem) as caught:
            asyncio.run(KeyMaker(keyring).generate())
        assert caught.value.code == "signing-key-exists"
        for path in gone:
            path.with_suffix(".away").rename(path)
    assert before == (key_of(keyring).read_bytes(), certificate_of(keyring).read_bytes())


def test_of_two_generators_one_wins(root: Path) -> None:
    async def race() -> list[object]:
        rings = [KeyMaker(Keyring(Sysroot(root))) for _ in range(3)]
        return list(await asyncio.gather(*(ring.generate("ecdsa") for ring in rings), return_exceptions=True))

    outcomes = asyncio.run(race())
    lost = [outcome for outcome in outcomes if isinstance(outcome, Problem)]
    assert [problem.code for problem in lost] == ["signing-key-exists"] * 2
    assert Keyring(Sysroot(root)).signer() in outcomes


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from kmodd.core.sysroot import Sysroot
from kmodd.sign import Keyring, making, pairfiles
step, name = int(sys.argv[2]), None
def at(number, function):
    def call(*a, **k):
        if number == step: os.kill(os.getpid(), signal.SIGKILL)
        return function(*a, **k)
    return call
pairfiles.os.link = at(2, pairfiles.os.link)
pairfiles.run, pairfiles.replace_file = at(1, pairfiles.run), at(3, pairfiles.replace_file)
Keyring.publish = at(4, Keyring.publish)
pairfiles.remove_tree = at(5, pairfiles.remove_tree)
asyncio.run(making.KeyMaker(Keyring(Sysroot(Path(sys.argv[1])))).generate("ecdsa"))
"""


@pytest.mark.parametrize("step", range(1, 6))
def test_a_kill_at_any_step_heals(root: Path, tree: Path, step: int) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(root), str(step)])
    assert done.returncode == -signal.SIGKILL
    keyring = Keyring(Sysroot(root))
    if step < 4:
        assert fault_of(keyring) == "signing-key-absent"
        assert asyncio.run(KeyMaker(keyring).generate("ecdsa")).identity
    path = make_object(root)
    asyncio.run(keyring.sign(path, tree, "sha256"))
    assert verifies(path, certificate_of(keyring))
    assert keyring.published.read_bytes() == certificate_of(keyring).read_bytes()


# -- faults ------------------------------------------------------------------------------------------------------------
def test_faults_of_the_key(keyring: Keyring, tree: Path, root: Path) -> None:
    key, certificate = key_of(keyring), certificate_of(keyring)
    for mode, code in ((0o640, "signing-key-exposed"), (0o604, "signing-key-exposed"), (0o600, ""), (0o400, "")):
        key.chmod(mode)
        assert fault_of(keyring) == code
    os.chown(key, 1234, 0)
    assert fault_of(keyring) == "signing-key-exposed"
    os.chown(key, 0, 0)
    certificate.write_bytes(b"0\x82\x00\x04no")
    assert fault_of(keyring) == "signing-certificate-invalid"
    certificate.unlink()
    assert fault_of(keyring) == "signing-key-missing"
    key.unlink()
    assert fault_of(keyring) == "signing-key-absent"
    keyring.published.parent.mkdir(parents=True)
    keyring.published.write_bytes(b"")
    assert fault_of(keyring) == "signing-key-missing"  # it was there once, and may be enrolled
    with pytest.raises(Problem) as caught:
        asyncio.run(keyring.sign(make_object(root), tree, "sha256"))
    assert caught.value.code == "signing-key-missing"


def state_for_nobody(keyring: Keyring) -> str:
    """Return what an ordinary user gets to see."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(writable, keyring.signer().state.encode())
        finally:
            os._exit(0)
    os.close(writable)
    with os.fdopen(readable) as stream:
        said = stream.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_other_users_see_the_published_identity(keyring: Keyring) -> None:
    assert state_for_nobody(keyring) == "signing-key-unreadable"
    keyring.publish()
    assert state_for_nobody(keyring) == keyring.signer().identity


# -- signing -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("hash", ["sha256", "sha512"])
def test_a_signature_is_right_over_the_content(keyring: Keyring, root: Path, tree: Path, hash: str) -> None:
    path = make_object(root)
    assert not is_signed(path)
    asyncio.run(keyring.sign(path, tree, hash))
    assert is_signed(path)
    assert verifies(path, certificate_of(keyring))
    assert not verifies(path, certificate_of(keyring), flip=True)


def test_a_pem_certificate_has_the_same_identity_and_signs(keyring: Keyring, root: Path, tree: Path) -> None:
    before, der = keyring.signer(), certificate_of(keyring).read_bytes()
    pem = openssl("x509", "-inform", "DER", data=der).stdout
    certificate_of(keyring).write_bytes(pem)
    assert decode_certificate(pem) == der
    assert keyring.signer() == before
    path = make_object(root)
    asyncio.run(keyring.sign(path, tree, "sha256"))
    assert keyring.published.read_bytes() == der
    assert verifies(path, keyring.published)


def test_a_key_with_a_passphrase(keyring: Keyring, root: Path, tree: Path) -> None:
    key = key_of(keyring)
    secured = openssl("pkey", "-in", key, "-aes256", "-passout", "pass:open sesame").stdout
    assert b"ENCRYPTED" in secured
    key.write_bytes(secured)
    with pytest.raises(Problem) as caught:
        asyncio.run(keyring.sign(make_object(root), tree, "sha256"))
    assert caught.value.code == "signing-key-unreadable"
    secret = keyring.sysroot.keys / "passphrase"
    secret.write_text("open sesame\n")
    known = Keyring(keyring.sysroot, passphrase_file="/etc/kmodd/keys/passphrase")
    secret.chmod(0o644)
    assert fault_of(known) == "signing-key-exposed"
    secret.chmod(0o600)
    path = make_object(root)
    asyncio.run(known.sign(path, tree, "sha256"))
    assert verifies(path, certificate_of(keyring))


def test_a_key_of_another_certificate_is_refused(root: Path, tree: Path, pairs: dict[str, Path]) -> None:
    keys = root / "etc/kmodd/keys"
    shutil.copytree(pairs["rsa"], keys)
    keyring = Keyring(Sysroot(root))
    asyncio.run(keyring.sign(make_object(root), tree, "sha256"))
    shutil.copy(pairs["ecdsa"] / "signing.key", keys)
    path = make_object(root)
    with pytest.raises(Problem) as caught:
        asyncio.run(keyring.sign(path, tree, "sha256"))
    assert caught.value.code == "signing-key-mismatch"
    assert path.read_bytes() == CONTENT


def break_tree(tree: Path, how: str) -> None:
    program = tree / "scripts/sign-file"
    if how == "gone":
        program.unlink()
    elif how == "not executable":
        program.chmod(0o644)
    elif how == "foreign":
        program.write_bytes(b"\x7fELF\x02\x02\x01" + bytes(57))
    elif how == "library":
        program.write_text(
            "#!/bin/sh\necho 'sign-file: error while loading shared libraries: libcrypto.so.1.1' >&2; exit 127"
        )
    elif how == "writable":
        program.chmod(0o775)
    elif how == "owner":
        os.chown(tree / "scripts", 1234, 0)
    elif how == "silent":
        program.write_text("#!/bin/sh\nexit 0")
    elif how == "fails":
        program.write_text("#!/bin/sh\ntouch $4.~signed~; echo first >&2; echo the reason >&2; exit 1")


@pytest.mark.skipif(os.geteuid() != 0, reason="what is unsafe is so for root")
@pytest.mark.parametrize(
    "how, code",
    [
        ("gone", "sign-file-missing"),
        ("not executable", "sign-file-missing"),
        ("foreign", "sign-file-missing"),
        ("library", "sign-file-missing"),
        ("writable", "sign-file-unsafe"),
        ("owner", "sign-file-unsafe"),
        ("silent", "signing-failed"),
        ("fails", "signing-failed"),
    ],
)
def test_a_sign_file_that_cannot_serve(root: Path, tree: Path, pairs: dict[str, Path], how: str, code: str) -> None:
    shutil.copytree(pairs["ecdsa"], root / "etc/kmodd/keys")
    break_tree(tree, how)
    path = make_object(root)
    with pytest.raises(Problem) as caught:
        asyncio.run(Keyring(Sysroot(root)).sign(path, tree, "sha256"))
    assert caught.value.code == code
    assert caught.value.hint
    assert ("the reason" in caught.value.message) == (how == "fails")
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["foo.ko"]


def killed_once(directory: Path, program: str, real: object, words: str) -> None:
    """Put a program into a directory that kills itself the first time that its words hold a pattern of the shell's."""
    fake = directory / program
    mark = directory / "killed"
    fake.write_text(
        f'#!/bin/sh\ncase "$*" in {words}) [ -e {mark} ] || {{ touch {mark}; kill -KILL $$; }};; esac\n'
        f'exec {real} "$@"\n'
    )
    fake.chmod(0o755)


@pytest.mark.parametrize("words", ["*pkey*", "*x509*-pubkey*"])
def test_an_openssl_that_is_killed_says_nothing_of_the_key(
    root: Path, tree: Path, pairs: dict[str, Path], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(pairs["ecdsa"], root / "etc/kmodd/keys")
    killed_once(tmp_path, "openssl", shutil.which("openssl"), words)
    monkeypatch.setenv("KMODD_PROGRAM_PATH", f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin")
    keyring, path = Keyring(Sysroot(root)), make_object(root)
    with pytest.raises(Problem) as caught:
        asyncio.run(keyring.sign(path, tree, "sha256"))
    assert (caught.value.code, caught.value.transient) == ("tool-killed", True)
    asyncio.run(keyring.sign(path, tree, "sha256"))
    assert verifies(path, certificate_of(keyring))


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("kill -KILL $$", "tool-killed"),
        ("head -c 5 $4 > $4.~signed~; kill -TERM $$", "tool-killed"),
        ("exit 137", "tool-killed"),
        ("echo 'sign-file: x: Too many open files' >&2; exit 1", "signing-failed"),
        ("echo 'sign-file: x: No space left on device' >&2; exit 1", "signing-failed"),
        ("echo 'error while loading shared libraries: libc.so.6: Too many open files' >&2; exit 127", "signing-failed"),
        ("printf '~Module signature appended~\\n' > $4", "signing-failed"),
    ],
)
def test_a_sign_file_that_is_killed_or_lacks_something_is_tried_again(
    root: Path, tree: Path, pairs: dict[str, Path], script: str, code: str
) -> None:
    shutil.copytree(pairs["ecdsa"], root / "etc/kmodd/keys")
    (tree / "scripts/sign-file").write_text(f"#!/bin/sh\n{script}\n")
    path = make_object(root)
    with pytest.raises(Problem) as caught:
        asyncio.run(Keyring(Sysroot(root)).sign(path, tree, "sha256"))
    assert (caught.value.code, caught.value.transient) == (code, True)
    assert [p.name for p in path.parent.iterdir()] == ["foo.ko"]


def test_a_key_that_openssl_did_not_finish_is_none(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_once(tmp_path, "openssl", shutil.which("openssl"), "*req*")
    monkeypatch.setenv("KMODD_PROGRAM_PATH", f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin")
    maker = KeyMaker(Keyring(Sysroot(root)))
    with pytest.raises(Problem) as caught:
        asyncio.run(maker.generate("ecdsa"))
    assert (caught.value.code, caught.value.transient) == ("tool-killed", True)
    assert list((root / "etc/kmodd/keys").iterdir()) == []
    assert asyncio.run(maker.generate("ecdsa")).identity
    (tmp_path / "killed").unlink()
    with pytest.raises(Problem) as caught:
        asyncio.run(maker.prepare("ecdsa"))
    assert caught.value.code == "tool-killed"
    assert maker.successor() is None
    assert asyncio.run(maker.prepare("ecdsa"))


def test_an_unknown_hash_is_explained(keyring: Keyring, root: Path, tree: Path) -> None:
    with pytest.raises(Problem) as caught:
        asyncio.run(keyring.sign(make_object(root), tree, "sha999"))
    assert caught.value.code == "signing-failed"
    assert "sha999" in caught.value.message


def test_links_are_followed_inside_the_root(keyring: Keyring, root: Path, tree: Path) -> None:
    (root / "usr/lib/kbuild").mkdir(parents=True)
    (tree / "scripts").rename(root / "usr/lib/kbuild/scripts")
    (tree / "scripts").symlink_to("/usr/lib/kbuild/scripts")
    path = make_object(root)
    asyncio.run(keyring.sign(path, tree, "sha256"))
    assert is_signed(path)


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)
