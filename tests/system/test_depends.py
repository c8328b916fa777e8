"""Modules that need the symbols of others: of registered ones (depends), of what somebody else built (symvers)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from test_main_job import show_depends
from world import GOOD, World

pytestmark = pytest.mark.system

PROVIDER = "int zeta_answer(int);\n{good}int zeta_answer(int of) {{ return of; }}\nEXPORT_SYMBOL_GPL(zeta_answer);\n"
USER = "int zeta_answer(int);\n{good}"


def provider(kind: str = "int") -> dict[str, str]:
    """Return the module zeta; kind: what its symbol takes, which its CRC depends on."""
    text = PROVIDER.format(good=GOOD.format(name="zeta")).replace("int zeta_answer(int", f"int zeta_answer({kind}")
    return {"zeta.c": text}


def user(name: str = "alpha") -> dict[str, str]:
    good = GOOD.format(name=name).replace("return 0", "return zeta_answer(0)")
    return {f"{name}.c": USER.format(good=good)}


def crc(world: World, path: Path) -> str:
    argv = ["modprobe", "--dump-modversions", path]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return next(line.split()[0] for line in said.splitlines() if line.endswith("\tzeta_answer"))


def extra(world: World, name: str) -> Path:
    return world.root / "lib/modules" / world.kernel / f"extra/{name}/{name}.ko"


def exported(world: World) -> str:
    """Return the CRC that the last build of zeta gave its symbol."""
    path = world.root / f"var/lib/kmodd/targets/{world.kernel}/zeta.objects/Module.symvers"
    return exported_in(path.read_text())


def exported_in(symvers: str) -> str:
    return next(line.split()[0] for line in symvers.splitlines() if "\tzeta_answer\t" in line)


def test_rebuilt_provider_rebuilds_its_users(world: World) -> None:
    world.add("zeta", provider())
    world.add("alpha", user(), '[build]\ndepends = ["zeta"]\n')
    world.add("beta", user("beta"), '[build]\ndepends = ["alpha", "zeta"]\n')
    world.sync()
    assert [world.verdict(name) for name in ("alpha", "beta", "zeta")] == ["ready"] * 3, world.plan()
    before = exported(world)
    assert crc(world, extra(world, "alpha")) == before
    (world.source("zeta") / "zeta.c").write_text(provider("long")["zeta.c"])
    for name in ("alpha", "beta"):
        path = world.source(name) / f"{name}.c"
        path.write_text(path.read_text().replace("zeta_answer(int)", "zeta_answer(long)"))
    plan = world.plan()
    order = [plan.index(f"build    {name} ") for name in ("zeta", "alpha", "beta")]
    assert order == sorted(order), plan
    world.sync()
    assert [world.verdict(name) for name in ("alpha", "beta", "zeta")] == ["ready"] * 3, world.ctl("status").stdout
    after = exported(world)
    assert after != before, "a symbol that takes something else has another CRC"
    assert [crc(world, extra(world, name)) for name in ("alpha", "beta")] == [after, after]


def test_provider_that_fails_makes_its_users_wait_for_it(world: World) -> None:
    world.add("zeta", {"zeta.c": "#error no luck\n"})
    world.add("alpha", user(), '[build]\ndepends = ["zeta"]\n')
    world.add("beta", user("beta"), '[build]\ndepends = ["alpha", "zeta"]\n')
    world.add("good")
    world.sync()
    found = {name: world.target(name) for name in ("alpha", "beta", "zeta", "good")}
    assert [found[name]["verdict"] for name in found] == ["waiting", "waiting", "failed", "ready"], found
    assert found["alpha"]["problem"] == "depends-not-ready"
    assert "needs zeta, which is not built: zeta.c:1:2: error: #error no luck" in found["alpha"]["reason"]
    (world.source("zeta") / "zeta.c").write_text(provider()["zeta.c"])
    world.sync()
    assert [world.verdict(name) for name in found] == ["ready"] * 4


def test_dependencies_that_cannot_be_met_are_failures(world: World) -> None:
    world.add("one", more='[build]\ndepends = ["two"]\n')
    world.add("two", more='[build]\ndepends = ["one"]\n')
    world.add("lonely", more='[build]\ndepends = ["nobody"]\n')
    world.add("off", more="[module]\nenabled = false\n")
    world.add("needy", more='[build]\ndepends = ["off"]\n')
    world.add("good")
    world.sync()
    for name, problem, reason in (
        ("one", "depends-cycle", "depend"),
        ("two", "depends-cycle", "depend"),
        ("lonely", "depends-unknown", "lonely depends on nobody, which is not registered"),
        ("needy", "depends-excluded", "needy depends on off, which is excluded"),
    ):
        found = world.target(name)
        assert (found["verdict"], found["problem"]) == ("failed", problem), found
        assert reason in found["reason"]
    assert world.extra() == ["good/good.ko"]


def test_module_of_somebody_else_is_built_against_by_its_symvers(world: World) -> None:
    """Somebody else has built and installed zeta, and left its Module.symvers."""
    world.add("zeta", provider())
    world.sync()
    stored = world.root / f"var/lib/kmodd/targets/{world.kernel}/zeta.objects/Module.symvers"
    other = world.root / f"usr/src/other/{world.kernel}/Module.symvers"
    other.parent.mkdir(parents=True)
    shutil.copy(stored, other)
    foreign = world.root / "lib/modules" / world.kernel / "updates/zeta.ko"
    foreign.parent.mkdir(exist_ok=True)
    shutil.copy(extra(world, "zeta"), foreign)
    world.registry("zeta").unlink()
    world.add("alpha", user(), '[build]\nsymvers = ["/usr/src/other/{kernel}/Module.symvers"]\n')
    world.add("lost", user("lost"), '[build]\nsymvers = ["/usr/src/nowhere/{kernel}/Module.symvers"]\n')
    (world.root / "usr/src/other/text").write_text("no symvers\n")
    world.add("wrong", user("wrong"), '[build]\nsymvers = ["/usr/src/other/text"]\n')
    world.add("without", user("without"))
    world.sync()
    assert world.verdict("alpha") == "ready", world.ctl("explain", "alpha").stdout
    assert [Path(line.split()[1]).name for line in show_depends(world, "alpha")] == ["zeta.ko", "alpha.ko"]
    for name, problem, reason in (
        ("lost", "symvers-missing", f"build.symvers: /usr/src/nowhere/{world.kernel}/Module.symvers does not exist"),
        ("wrong", "symvers-invalid", "wrong.toml: build.symvers: /usr/src/other/text is no Module.symvers"),
        ("without", "build-failed", 'modpost: "zeta_answer"'),
    ):
        found = world.target(name)
        assert (found["verdict"], found["problem"]) == ("failed", problem), found
        assert reason in found["reason"]
    assert world.plan() == "nothing to do"
    text = other.read_text()
    other.write_text(text.replace(exported_in(text), "0x12345678"))
    assert "the Module.symvers of others changed" in world.plan()
    foreign.unlink()
    subprocess.run(["depmod", "-b", world.root, world.kernel], check=True)
    other.write_text(text)
    found = world.target("alpha")
    assert (found["verdict"], found["problem"]) == ("blocked", "dependency-missing"), found
