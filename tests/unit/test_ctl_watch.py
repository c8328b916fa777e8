"""What kmoddctl watch makes of events: lines, and on a terminal bars below them."""

from __future__ import annotations

import io
import re
from typing import Any, TextIO, cast

import pytest

from kmodd.ctl.terminal import Door
from kmodd.ctl.watch import BAR, Progress, bar, sentence

TARGET = {"module": "m", "kernel": "6.1", "time": 0.0}
STARTED = {**TARGET, "event": "started", "log": "/l"}
ENDED = {**TARGET, "event": "ended", "outcome": "succeeded", "seconds": 2.5, "log": "/l"}


def compiled(count: int, total: Any = None) -> dict[str, Any]:
    return {**TARGET, "event": "compiled", "compiled": count, "total": total}


class Terminal(io.StringIO):
    """A terminal as far as the sequences go that are used: what a person sees on it."""

    def isatty(self) -> bool:
        return True

    def seen(self) -> list[str]:
        lines: list[str] = []
        for piece in re.split(r"(\x1b\[\d+F\x1b\[J)", self.getvalue()):
            up = re.match(r"\x1b\[(\d+)F", piece)
            if up:
                del lines[len(lines) - int(up[1]) :]
            else:
                assert "\x1b" not in piece
                lines += piece.splitlines()
        return lines


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"event": "activity", "text": "idle"}, "idle"),
        (STARTED, "m for 6.1: building"),
        (compiled(3), ""),
        (ENDED, "m for 6.1: build succeeded after 2.5 s"),
        (
            {**TARGET, "event": "verdict", "verdict": "waiting", "reason": "no headers", "hint": "dnf install them"},
            "m for 6.1: waiting, no headers → dnf install them",
        ),
        ({"event": "verdict", "module": "", "kernel": "6.1", "verdict": None}, "kernel 6.1: gone"),
        ({"event": "something of a later version"}, ""),
    ],
)
def test_events_are_sentences(event: dict[str, Any], expected: str) -> None:
    assert sentence(event) == expected


@pytest.mark.parametrize(
    ("count", "total", "filled"), [(0, 10, 0), (5, 10, BAR // 2), (10, 10, BAR), (12, 10, BAR), (1, 10_000, 0)]
)
def test_bar_shows_the_share(count: int, total: int, filled: int) -> None:
    text = bar(compiled(count, total))
    assert text.count("#") == filled
    assert text.endswith(f"{count}/{total}")


def test_build_without_an_estimate_has_no_bar() -> None:
    assert bar(compiled(3)).strip() == "compiled 3"
    assert bar(STARTED).strip() == "compiled 0"


def test_terminal_shows_bars_below_the_lines_as_long_as_builds_run() -> None:
    terminal = Terminal()
    progress = Progress(cast(TextIO, Door(terminal)))
    progress.show({"event": "activity", "text": "building", "time": 0.0})
    progress.show(dict(STARTED))
    progress.show({**STARTED, "module": "n"})
    progress.show(compiled(12, 24))
    progress.draw()
    seen = terminal.seen()
    assert [line[10:] for line in seen[:3]] == ["building", "m for 6.1: building", "n for 6.1: building"]
    assert re.match(r"  \[#{12}-{12}\] 12/24  m for 6.1, ", seen[3])
    assert re.match(r"  compiled 0 +  n for 6.1, ", seen[4])
    assert len(seen) == 5
    progress.show(ENDED, tail="".join(f"line {n}\n" for n in range(99)))
    seen = terminal.seen()
    assert seen[3].endswith("m for 6.1: build succeeded after 2.5 s")
    assert seen[4].strip() == "| line 87"
    assert re.match(r"  compiled 0 +  n for 6.1, ", seen[-1])


def test_nothing_from_a_log_steers_the_terminal() -> None:
    terminal = Terminal()
    progress = Progress(cast(TextIO, Door(terminal)))
    verdict = {**TARGET, "event": "verdict", "verdict": "failed", "reason": "x.c:1: \x1b[2Jerror"}
    progress.show(verdict, tail="\x1b]0;title\x07\n")
    assert "\x1b" not in "".join(terminal.seen())


def test_elsewhere_lines_are_all() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    for event in (STARTED, compiled(1, 2), ENDED):
        progress.show(dict(event))
        progress.draw()
    assert [line[10:] for line in stream.getvalue().splitlines()] == [
        "m for 6.1: building",
        "m for 6.1: build succeeded after 2.5 s",
    ]
