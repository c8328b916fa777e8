"""What kernels' makefiles ask the compiler is asked once, and what they find is what they would have found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from world import GOOD, World

pytestmark = pytest.mark.system

#: Asks Kbuild's own questions, of which nobody asked the first before, and tells the numbers of its processes.
CURIOUS = r"""
obj-m := NAME.o
$(info told $(call cc-option,-fno-jump-tables -fno-tree-vrp,-no) $(call cc-option,-fno-such-thing,-no).)
$(info told $(call cc-option,-mno-sse,-no) $(call cc-option-yn,-Wall) $(call cc-disable-warning,no-such-warning).)
$(info told $(call as-instr,nop,-DNOP,-DNONE) $(call as-instr,nonsense %eax,-DNOP,-DNONE).)
$(info told $(call try-run,echo 'a b' "$$(printf 'c#%s' d)" >"$$TMP" && test -s "$$TMP",made,not).)
$(info told $(call try-run,! test -e "$$TMP",fresh,stale).)
$(info told $(notdir $(firstword $(MAKEFILE_LIST))) $(words $(MAKEFILE_LIST)).)
$(info process $(shell echo $$$$))
"""


def add(world: World, *names: str, makefile: str = CURIOUS) -> None:
    for name in names:
        world.add(name, {f"{name}.c": GOOD.format(name=name), "Makefile": makefile.replace("NAME", name)})


def answers(world: World, release: str = "") -> Path:
    return world.root / "var/cache/kmodd/cc-option" / f"{release or world.kernel}.mk"


def told(world: World, module: str) -> list[str]:
    """Return what a makefile told when it compiled; modpost reads it, too, and has none of Kbuild's questions."""
    return re.findall(r"^told (.*)\.$", world.build_log(module), re.MULTILINE)[:6]


def found(world: World) -> dict[str, tuple[list[str], str]]:
    """Return what makefiles found, and the digest of the object that was built of it."""
    return {m: (told(world, m), world.target(m)["objects"][0]["sha256"]) for m in ("alpha", "beta")}


def rebuild(world: World, *names: str) -> None:
    for name in names:
        assert world.ctl("rebuild", name).returncode == 0


def process(world: World, module: str) -> int:
    """Return the number, in its sandbox, of a process that make started after all questions."""
    return int(re.findall(r"^process (\d+)$", world.build_log(module), re.MULTILINE)[0])


@pytest.mark.parametrize("series", ["new", "other"])
def test_makefiles_find_the_same_whether_they_ask_or_it_is_known(bare: World, series: str) -> None:
    bare.kernel = getattr(bare.releases, series)
    bare.install(bare.kernel)
    add(bare, "alpha", "beta")
    bare.settings("[build]\ncc_option_cache = false\n")
    bare.sync()
    asked, started = found(bare), process(bare, "beta")
    assert not answers(bare).exists()
    bare.settings("")
    rebuild(bare, "alpha", "beta")
    assert told(bare, "alpha") == asked["alpha"][0]
    assert found(bare) == asked
    assert asked["alpha"][0][1:5] == ["-mno-sse y -Wno-no-such-warning", "-DNOP -DNONE", "made", "fresh"]
    assert process(bare, "beta") < started / 2


def test_a_source_with_a_try_run_of_its_own_keeps_it(world: World) -> None:
    own = "ifeq ($(KERNELRELEASE),)\ntry-run = mine $(1)\n$(info told $(call try-run,x).)\nall:\n"
    own += "\t$(MAKE) -C $(TREE) M=$(CURDIR) modules\nelse\nobj-m := NAME.o\nendif\n"
    add(world, "own", makefile=own)
    with world.registry("own").open("a") as stream:
        stream.write('[build]\ncommand = ["make", "TREE={build_tree}"]\n')
    world.sync()
    assert world.verdict("own") == "ready"
    assert told(world, "own") == ["mine x"]


def test_what_a_module_does_with_the_file_reaches_no_other(world: World) -> None:
    hostile = CURIOUS + (
        "$(info denied $(shell echo lie >>$(MAKEFILES) || echo no) $(shell rm -f $(MAKEFILES) || echo no))\n"
        "$(info kmodd-took:lie)\n"
    )
    add(world, "hostile", makefile=hostile)
    add(world, "later")
    world.sync()
    before = answers(world).read_text()
    assert before.count("-c!s-x!sc!s/dev/null") > 20
    assert "lie" not in before
    assert "denied no no" in world.build_log("hostile")
    rebuild(world, "hostile", "later")
    assert answers(world).read_text() == before
    assert world.verdict("later") == "ready"


def test_it_is_asked_anew_when_the_kernel_or_the_tools_change(world: World) -> None:
    add(world, "alpha")
    world.sync()
    first, inode = answers(world).read_text(), answers(world).stat().st_ino
    rebuild(world, "alpha")
    assert answers(world).stat().st_ino == inode
    answers(world).write_text("# of another compiler\n$(error not to be read)\n")
    gone = answers(world, "5.14.0-1.el9.x86_64")
    gone.write_text(first)
    rebuild(world, "alpha")
    assert world.verdict("alpha") == "ready"
    assert answers(world).read_text() == first
    assert not gone.exists()


def test_a_place_that_cannot_be_written_keeps_nobody_from_building(world: World) -> None:
    add(world, "alpha")
    answers(world).parent.parent.mkdir(parents=True, exist_ok=True)
    answers(world).parent.write_text("not a directory")
    world.sync()
    assert world.verdict("alpha") == "ready"
    assert "MAKEFILES" not in world.build_log("alpha")
