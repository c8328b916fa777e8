"""When what could not be read is read again."""

from __future__ import annotations

from worlds import settings_of

from kmodd.reconcile.pauses import Pauses

RETRY = '[retry]\nfirst = "60s"\nlongest = "200s"\n'


def test_pauses_double_up_to_the_longest_and_begin_anew_after_a_success() -> None:
    again: Pauses[str] = Pauses(settings_of(RETRY))
    assert again.note(["a"], 1000) == {"a": 1060}
    assert again.note(["a", "b"], 1030) == {"a": 1060, "b": 1090}  # a look for other reasons
    assert again.note(["a"], 1060) == {"a": 1180}
    assert again.note(["a"], 1180) == {"a": 1380}
    assert again.note(["a"], 1380) == {"a": 1580}
    assert again.note([], 1390) == {}
    assert again.note(["a"], 1400) == {"a": 1460}


def test_no_pause_outlasts_a_clock_that_was_set_back() -> None:
    again: Pauses[str] = Pauses(settings_of(RETRY))
    again.note(["a"], 100_000)
    assert again.note(["a"], 1000) == {"a": 1120}
