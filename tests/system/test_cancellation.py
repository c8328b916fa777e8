"""Hundreds of programs that are cancelled at random instants leave nothing behind."""

from __future__ import annotations

from pathlib import Path

from processes import cancel_many, nothing_left


def test_hundreds_of_cancellations_at_random_instants_leave_nothing(tmp_path: Path) -> None:
    mark = f"kmodd-test-{tmp_path}"
    with nothing_left(mark):
        cancel_many(500, mark)
