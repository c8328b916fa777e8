"""Where kmodd is known to disagree with the kernel: rows of the tables of faults, each with what is wrong."""

from __future__ import annotations

#: Some case of these shows it in every run: whoever mends it takes the row out, or the tests fail.
KNOWN: dict[str, str] = {}
#: Of these only some cases do, as the seed has it.
SOMETIMES: dict[str, str] = {}
