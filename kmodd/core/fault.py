"""Something found wrong, wherever it is: in a problem, a check, a judgement, a wait, an attempt. Must not: judge."""

from __future__ import annotations

from dataclasses import dataclass

from .visible import visible_lines


@dataclass(frozen=True)
class Fault:
    """Something found wrong: problem code, sentence, what to do; they are made fit to be shown."""

    problem: str
    message: str
    hint: str = ""

    def __post_init__(self) -> None:
        make_visible(self, "message", "hint")


def make_visible(thing: object, *names: str) -> None:
    """Have texts of a frozen object shown as they are, whatever they quote of what comes from outside."""
    for name in names:
        text = getattr(thing, name)
        shown = visible_lines(text)
        if shown is not text:
            object.__setattr__(thing, name, shown)
