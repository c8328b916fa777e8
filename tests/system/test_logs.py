"""How much a build's log holds, and how long it is kept."""

from __future__ import annotations

from world import QUICK, World

LIMIT = 4096
#: Each of two programs prints nearly as much as all of them may.
CHATTY = """\
[build]
command = [["sh", "-c", "yes one | head -c 3000"], ["sh", "-c", "yes two | head -c 3000"],
  ["make", "-C", "{build_tree}", "M={source}", "modules"]]
"""


def test_all_programs_of_a_build_share_a_limit_and_the_log_goes_with_the_module(world: World) -> None:
    world.settings(f'{QUICK}[build]\nlargest_log = "{LIMIT}"\n')
    world.add("alpha", more=CHATTY)
    world.sync()
    assert world.verdict("alpha") == "ready"
    (log,) = (world.root / "var/log/kmodd/alpha" / world.kernel).iterdir()
    said = log.read_text()
    printed = [line for line in said.splitlines() if line and not line.startswith("[kmodd: ")]
    assert "one" in printed and "two" in printed and "[kmodd: more output was dropped]" in said
    assert sum(len(line) + 1 for line in printed) <= LIMIT
    old = world.root / "var/log/kmodd/other/5.0/20261121T103752-0.log"
    old.parent.mkdir(parents=True)
    old.touch()
    world.registry("alpha").unlink()
    world.sync()
    assert list((world.root / "var/log/kmodd").iterdir()) == []
