"""The signature behind an object as the kernel parses it: what openssl passes over, and the kernel refuses, is found.

Format: the PKCS #7 message (RFC 5652, SignedData) that scripts/sign-file writes: of one signer, without certificates,
attributes or content. The kernel's reader is crypto/asymmetric_keys/pkcs7_parser.c; it compares the signer with its
keys byte for byte. Pure. Must not: check the signature itself.
"""

from __future__ import annotations

from typing import NamedTuple

SEQUENCE, SET, INTEGER, OCTETS, NULL, OID = 0x30, 0x31, 0x02, 0x04, 0x05, 0x06
FIRST, FIRST_PRIMITIVE = 0xA0, 0x80  # a field with the tag [0]
SIGNED_DATA = bytes.fromhex("2a864886f70d010702")
DATA = bytes.fromhex("2a864886f70d010701")
SUBJECT_KEY = bytes.fromhex("0603551d0e04")  # the extension subjectKeyIdentifier, and that octets follow
#: Versions of the message and its signer, and the tag of what then names the signer: issuer and serial number, or its
#: subject key identifier (pkcs7_note_signerinfo_version).
NAMINGS = {1: SEQUENCE, 3: FIRST_PRIMITIVE}
#: look_up_OID(), as far as pkcs7_sig_note_digest_algo() and pkcs7_sig_note_pkey_algo() take it.
SHA2_OR_3 = bytes.fromhex("6086480165030402")
DIGESTS = frozenset({bytes.fromhex("2b0e03021a"), *(SHA2_OR_3 + bytes([n]) for n in (1, 2, 3, 4, 8, 9, 10))})
RSA = bytes.fromhex("2a864886f70d010101")
ECDSA = bytes.fromhex("2a8648ce3d04")
KEYS = frozenset({RSA, ECDSA + b"\1", *(ECDSA + bytes([3, n]) for n in (1, 2, 3, 4))})
KEYS |= {bytes.fromhex("6086480165030403") + bytes([n]) for n in (10, 11, 12)}  # ECDSA with SHA-3


class Element(NamedTuple):
    """A value of DER. whole: with its tag and length."""

    tag: int
    body: bytes
    whole: bytes


def _elements(data: bytes) -> list[Element]:
    """Return the values that stand one behind the other. Raises ValueError and IndexError."""
    found = []
    at = 0
    while at < len(data):
        start, length = at + 2, data[at + 1]
        if length >= 0x80:
            start += length & 0x7F
            length = int.from_bytes(data[at + 2 : start], "big")
        if start + length > len(data):
            raise ValueError("it is cut off")
        found.append(Element(data[at], data[start : start + length], data[at : start + length]))
        at = start + length
    return found


def _open(element: Element, *tags: int) -> list[Element]:
    """Return what is in a value; it must have one of some tags. Raises ValueError and IndexError."""
    if element.tag not in tags:
        raise ValueError("something else is in its place")
    return _elements(element.body)


def _identifiers(certificate: bytes) -> tuple[bytes, bytes]:
    """Return how a signer with a certificate (DER) is named: issuer and serial number, or subject key identifier."""
    body, *_ = _open(_elements(certificate)[0], SEQUENCE)
    fields = [field for field in _open(body, SEQUENCE) if field.tag != FIRST]  # without its version
    serial, _, issuer, *_ = fields
    at = certificate.find(SUBJECT_KEY) + len(SUBJECT_KEY)
    extension = certificate[at + 1 : at + 1 + certificate[at]] if at >= len(SUBJECT_KEY) else b""
    return issuer.whole + serial.whole, _elements(extension)[0].body if extension else b""


def _algorithm(element: Element, known: frozenset[bytes]) -> bytes:
    """Return an AlgorithmIdentifier's OID. Raises ValueError and IndexError."""
    name, *rest = _open(element, SEQUENCE)
    if name.tag != OID or name.body not in known or [item.whole for item in rest] not in ([], [bytes([NULL, 0])]):
        raise ValueError("it is made by an algorithm that the kernel does not know")
    return name.body


def find_damage(signature: bytes) -> str:
    """Return what of a signature is not as the kernel takes it from sign-file, "" where all is."""
    try:
        (message,) = _elements(signature)
        kind, content = _open(message, SEQUENCE)
        (signed,) = _open(content, FIRST)
        version, digests, data, signers = _open(signed, SEQUENCE)
        (signer,) = _open(signers, SET)
        its_version, sid, digest, key, value = _open(signer, SEQUENCE)
        names = [(item.tag, item.body) for item in (kind, *_open(data, SEQUENCE))]
        if names != [(OID, SIGNED_DATA), (OID, DATA)]:
            return "it is no signature over data"
        number = version.body[0]
        if version.whole != bytes([INTEGER, 1, number]) or NAMINGS.get(number) != sid.tag:
            return f"its version {number} is not that of its form"
        if its_version.whole != version.whole:
            return "the versions of its parts differ"
        _algorithm(key, KEYS)
        if [_algorithm(item, DIGESTS) for item in _open(digests, SET)] != [_algorithm(digest, DIGESTS)]:
            return "its digest is not the one that it announces"
        return "" if value.tag == OCTETS else "it has no value"
    except (ValueError, IndexError):
        return "it is not as sign-file writes it"


def _signer(signature: bytes) -> Element:
    """Return what names the signer in a message. Raises ValueError and IndexError."""
    message = _elements(signature)[0].body
    signed = _elements(_elements(_elements(message)[1].body)[0].body)
    return _elements(_elements(signed[-1].body)[0].body)[1]


def find_signer(signature: bytes) -> bytes:
    """Return what names the signer in a message, empty where it cannot be read."""
    try:
        return _signer(signature).whole
    except (ValueError, IndexError):
        return b""


def is_by(signature: bytes, certificate: bytes) -> bool:
    """Tell whether a signature names the key of a certificate (DER) as its signer, as the kernel finds it.

    signature: in order, as find_damage has it. Of a certificate that cannot be read it is for openssl to say.
    """
    sid = _signer(signature)
    try:
        return sid.body == _identifiers(certificate)[sid.tag == FIRST_PRIMITIVE]
    except (ValueError, IndexError):
        return True
