"""Where kmodd is known to disagree with the kernel: rows of the tables of faults, each with what is wrong.

Some case of a row that is listed here must show it, where the seed and the cases are those of make vm: whoever mends it
takes it out.
"""

from __future__ import annotations

KNOWN = {
    "FA5 id_type of the trailer": "it loads as unsigned where that may be",
}
