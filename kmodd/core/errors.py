"""The one exception type for what an administrator can cause or must know.

Must not: import anything of kmodd but the table of codes and what makes text fit to be shown, print, or exit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from .problems import TRANSIENT
from .visible import visible_lines

if TYPE_CHECKING:
    from .fault import Fault


class Problem(Exception):
    """A failure with a stable kebab-case code, a message, a hint and attributes.

    code: stable; scripts and alerts may key on it (listed in kmodd.problems(7)). Each has a row in problems.TRANSIENT.
    message: one sentence that says what happened to what.
    Both it and the hint may quote what comes from outside, and are made fit to be shown.
    hint: what to do about it, or "" where nothing helps.
    transient: True where the same try may succeed later without any change of inputs; by default as the table says.
    What another version of kmodd calls by a code that is not in it is taken for transient: trying again does no harm.
    attributes: more facts for logs and --json, such as path or field.
    """

    def __init__(
        self, code: str, message: str, hint: str = "", *, transient: Optional[bool] = None, **attributes: object
    ) -> None:
        self.code = code
        self.message = visible_lines(message)
        self.hint = visible_lines(hint)
        super().__init__(self.message)
        self.transient = TRANSIENT.get(code, True) if transient is None else transient
        self.attributes = attributes

    @classmethod
    def of(cls, fault: Fault, *, transient: Optional[bool] = None) -> Problem:
        """Return what raises a fault that was found earlier."""
        return cls(fault.problem, fault.message, fault.hint, transient=transient)

    @property
    def fault(self) -> Fault:
        from .fault import Fault  # not above: kmoddctl imports this for each answer of the daemon

        return Fault(self.code, self.message, self.hint)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message
