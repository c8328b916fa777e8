"""How far a build is, by its log as it grows."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from kmodd.kbuild.progress import CompiledFiles, estimate

LOG = b"""\
make: Entering directory
  CC [M]  /build/source/a.o
  CC [M]  b.o
  LD [M]  m.o
 CC [M] no
  CC [M]  m.mod.o
  LD [M]  m.ko
"""


@given(st.lists(st.integers(0, len(LOG)), max_size=6))
def test_files_are_counted_once_however_the_log_grows(tmp_path_factory, cuts: list[int]) -> None:
    path = tmp_path_factory.mktemp("log") / "x.log"
    path.write_bytes(b"")
    files = CompiledFiles(path)
    edges = [0, *sorted(cuts), len(LOG)]
    for begin, end in zip(edges, edges[1:]):
        with path.open("ab") as stream:
            stream.write(LOG[begin:end])
        files.read()
    assert files.count == files.read() == 3


def test_estimate_is_that_of_the_newest_other_log(tmp_path: Path) -> None:
    logs = [tmp_path / name for name in ("6.1/1.log", "6.2/1.log", "6.3/1.log", "6.3/2.log")]
    for number, path in enumerate(logs):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"  CC [M]  x.o\n" * number)
    (tmp_path / "6.2/empty.log").write_text("no compiler\n")
    assert estimate(logs[3]) == 2
    assert estimate(logs[0]) == 3
    assert estimate(tmp_path / "other" / "6.1" / "1.log") is None
