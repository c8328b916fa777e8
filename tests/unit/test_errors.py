"""Every problem says whether it may pass by itself."""

from __future__ import annotations

import pytest
from problemcodes import compared, made

from kmodd.core.errors import Problem
from kmodd.core.problems import TRANSIENT


def test_every_code_has_a_row_that_says_whether_it_is_transient() -> None:
    assert made() == set(TRANSIENT)
    assert compared() <= set(TRANSIENT)


@pytest.mark.parametrize(
    ("problem", "transient"),
    [
        (Problem("tool-timeout", "x"), True),
        (Problem("tool-killed", "x"), True),
        (Problem("tool-failed", "x"), False),
        (Problem("tool-failed", "x", transient=True), True),
        (Problem("disk-full", "x", transient=False), False),
        (Problem("of-another-version", "x"), True),
    ],
)
def test_a_problem_says_whether_it_is_transient(problem: Problem, transient: bool) -> None:
    assert problem.transient is transient
