"""Kernel releases compare as rpm compares versions, which rpm itself is asked for."""

from __future__ import annotations

import random
import subprocess

import pytest

from kmodd.core.versions import compare

CASES = [
    ("1.0", "1.0", 0), ("1.0", "1.1", -1), ("5.14.0-503.el9", "5.14.0-70.el9", 1), ("6.9", "6.12", -1),
    ("1.0~rc1", "1.0", -1), ("1.0^git1", "1.0", 1), ("1.0^git1", "1.0.1", -1), ("1.0~~", "1.0~", -1),
    ("1.0a", "1.0", 1), ("a", "1", -1), ("1.001", "1.1", 0), ("1_0", "1.0", 0), ("", "", 0), ("", "1", -1),
    ("1.", "1", 0), ("5.14.0-70.el9", "5.14.0.70_el9", 0), ("6.1.0", "6.1.0-1", -1), ("1.0~^", "1.0~", 1),
    ("007", "7", 0), ("1.0.", "1.0", 0), ("99999999999999999999", "1", 1),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right", "expected"), CASES)
def test_comparison(left: str, right: str, expected: int) -> None:
    assert compare(left, right) == expected
    assert compare(right, left) == -expected


def test_comparison_agrees_with_rpm() -> None:
    """rpm.vercmp() splits at - and :, which only separate in a kernel release, so there are none here."""
    dice = random.Random(1)
    parts = ["0", "1", "9", "10", "007", "a", "b", "rc", ".", "_", "~", "^", "..", "el9", "x86_64", "1a", "+"]
    words = ["".join(dice.choices(parts, k=dice.randint(1, 6))) for _ in range(600)]
    words += [w for case in CASES for w in case[:2] if w and "-" not in w]
    pairs = [(left, dice.choice(words)) for left in words] + [(w, w) for w in words[:50]]
    pairs += [(w, w + dice.choice(parts)) for w in words]
    table = ",".join(f'{{"{left}","{right}"}}' for left, right in pairs)
    lua = f'%{{lua: for _, p in ipairs({{{table}}}) do print(rpm.vercmp(p[1], p[2]) .. " ") end}}'
    done = subprocess.run(["rpm", "--eval", lua], capture_output=True, text=True, check=True)
    theirs = [int(word) for word in done.stdout.split()]
    assert len(theirs) == len(pairs)
    assert [(p, compare(*p)) for p in pairs] == list(zip(pairs, theirs))
