"""Problems by their cause, as every place lists them: status, check, gate and motd. Pure; imports nothing heavy.

The same cause on forty targets is one line, in the same words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Ends a reason where what was installed before is still there; it is no other cause.
KEPT = "; the previous build stays installed"
#: Verdicts, and what is said besides of targets, the worst first.
ORDER = ("failed", "blocked", "waiting", "pending", "building", "ready", "excluded", "stale", "warning", "note")
MOST_NAMED = 2  # modules or kernels that a line names


@dataclass(frozen=True)
class Group:
    """Targets that lack the same. rows: what each is, with at least module, kernel, verdict, reason and hint."""

    verdict: str
    reason: str
    hint: str
    rows: tuple[Mapping[str, Any], ...]

    @property
    def modules(self) -> str:
        """Return the modules, as "33 modules" where there are too many to be named."""
        return _list(sorted({str(row["module"]) for row in self.rows}), "modules")

    @property
    def subject(self) -> str:
        """Return modules and kernels, such as "33 modules on 6.1.0"."""
        kernels = list(dict.fromkeys(str(row["kernel"]) for row in self.rows))
        return f"{self.modules} on {_list(kernels, 'kernels')}"

    @property
    def text(self) -> str:
        """Return verdict, reason and hint as a part of one line."""
        return f"{self.verdict}, {self.reason}" + (f" -> {self.hint}" if self.hint else "")


def group(rows: Iterable[Mapping[str, Any]], *more: str) -> list[Group]:
    """Return rows by their cause: verdict, problem and reason; the worst first. more: other keys that part groups.

    The hint of a group is that of its first row.
    """
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((*find_cause(row), *(row[key] for key in more)), []).append(row)
    groups = [
        Group(key[0], str(alike[0]["reason"]) if _is_one(alike) else key[2], str(alike[0]["hint"]), tuple(alike))
        for key, alike in found.items()
    ]
    return sorted(groups, key=lambda one: ORDER.index(one.verdict))


def find_cause(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return verdict, problem and reason, which is the same of all that have the same cause."""
    reason = str(row["reason"])
    return row["verdict"], row.get("problem", ""), reason[: -len(KEPT)] if reason.endswith(KEPT) else reason


def _is_one(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether all rows have the same reason, word for word."""
    return len({row["reason"] for row in rows}) == 1


def _list(names: Sequence[str], what: str) -> str:
    return ", ".join(names) if len(names) <= MOST_NAMED else f"{len(names)} {what}"
