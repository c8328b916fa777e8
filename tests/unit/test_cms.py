"""Signatures as scripts/sign-file writes them, made by openssl with the same flags, and changed ones."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kmodd.verify import cms

NEW = {
    "rsa": ("-newkey", "rsa:2048"),
    "ecdsa": ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"),
}
#: sign-file names the signer by issuer and serial number where it has -k off, and by its subject key identifier else.
NAMINGS: dict[str, tuple[str, ...]] = {"serial": (), "subject": ("-keyid",)}


def openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


def make_certificate(directory: Path, kind: str, name: str) -> bytes:
    """Make a key and its certificate, and return the latter (DER)."""
    pem, der = directory / f"{name}.pem", directory / f"{name}.der"
    openssl(
        "req", "-x509", *NEW[kind], "-nodes", "-subj", f"/CN={name}", "-keyout", directory / f"{name}.key", "-out", pem
    )
    openssl("x509", "-in", pem, "-outform", "DER", "-out", der)
    return der.read_bytes()


def sign(directory: Path, name: str, naming: str) -> bytes:
    content, message = directory / "content", directory / "message"
    content.write_bytes(b"an object")
    openssl(
        "cms", "-sign", "-binary", "-noattr", "-nocerts", "-nosmimecap", *NAMINGS[naming], "-md", "sha256",
        "-outform", "DER",
        "-in", content, "-out", message, "-signer", directory / f"{name}.pem", "-inkey", directory / f"{name}.key",
    )  # fmt: skip
    return message.read_bytes()


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("kind", NEW)
def test_what_sign_file_writes_is_whole_and_names_its_signer(tmp_path: Path, kind: str, naming: str) -> None:
    ours, others = make_certificate(tmp_path, kind, "ours"), make_certificate(tmp_path, kind, "others")
    signature = sign(tmp_path, "ours", naming)
    assert cms.find_damage(signature) == ""
    assert cms.is_by(signature, ours)
    assert not cms.is_by(signature, others)
    assert cms.is_by(signature, b"no certificate"), "openssl is to say what it is"


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_bit_before_the_algorithm_is_missed(tmp_path: Path, naming: str) -> None:
    """Whichever is turned: it is damaged, or names another signer, as the kernel compares byte for byte."""
    certificate = make_certificate(tmp_path, "ecdsa", "ours")
    signature = sign(tmp_path, "ours", naming)
    algorithm = signature.index(bytes.fromhex("2a8648ce3d0403"))  # of which the kernel takes several for one
    for at in range(algorithm):
        for bit in range(8):
            changed = bytearray(signature)
            changed[at] ^= 1 << bit
            found = cms.find_damage(bytes(changed))
            assert found or not cms.is_by(bytes(changed), certificate), (at, bit, changed[at])


@pytest.mark.parametrize("cut", [0, 1, 2, 10, 60])
def test_what_is_cut_off_is_damaged(tmp_path: Path, cut: int) -> None:
    make_certificate(tmp_path, "ecdsa", "ours")
    assert cms.find_damage(sign(tmp_path, "ours", "subject")[:cut])
