"""What is remembered survives kills; what is damaged costs a rebuild and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from worlds import K2, K, T, failed, record

from kmodd.core.errors import Problem
from kmodd.core.model import Target
from kmodd.core.record import Built, Depmod, KernelRecord, TargetRecord
from kmodd.core.sysroot import Sysroot
from kmodd.host.store import SYMVERS, Store
from kmodd.system.files import temporary_name

PLACE = f"var/lib/kmodd/targets/{K}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Sysroot(tmp_path))


def keep(store: Store, tmp_path: Path, *contents: str, symvers: bool = False) -> Built:
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    paths = []
    for number, content in enumerate(contents):
        paths.append(scratch / f"m{number}.ko")
        paths[-1].write_text(content)
    (scratch / SYMVERS).write_text("0x1\tsymbol\n")
    return Built(inputs={}, objects=store.keep_objects(T, paths, (scratch / SYMVERS).read_bytes() if symvers else b""))


def test_records_are_read_back_by_another_process_too(store: Store, tmp_path: Path) -> None:
    one, two = record(attempt=failed()), record("a.b", K2)
    store.write(one)
    store.write(two)
    expected = {T: one, Target("a.b", K2): two}
    assert store.records() == expected
    assert Store(Sysroot(tmp_path)).records() == expected


def test_unknown_target_has_an_empty_record(store: Store) -> None:
    assert store.record(T) == TargetRecord(module="m", kernel=K)
    assert store.records() == {}


def test_file_says_its_schema(store: Store, tmp_path: Path) -> None:
    store.write(record())
    assert json.loads((tmp_path / PLACE / "m.json").read_text())["schema"] == 1


def test_change_by_another_process_is_seen(store: Store, tmp_path: Path) -> None:
    store.write(record())
    Store(Sysroot(tmp_path)).write(record(version="2"))
    assert store.record(T).version == "2"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"schema": 2, "module": "m", "kernel": "k"}', "\0", '{"schema": 1}']
)
def test_damaged_record_is_set_aside_and_forgotten(store: Store, tmp_path: Path, content: str) -> None:
    store.write(record())
    store.write(record("other"))
    path = tmp_path / PLACE / "m.json"
    path.write_text(content)
    assert set(store.records()) == {Target("other", K)}
    assert path.with_suffix(".json.damaged").read_text() == content
    assert not path.exists()
    store.write(record())
    assert set(store.records()) == {T, Target("other", K)}


def test_record_of_a_newer_kmodd_is_taken(store: Store, tmp_path: Path) -> None:
    store.write(record())
    path = tmp_path / PLACE / "m.json"
    document = json.loads(path.read_text())
    document["added_later"] = {"x": 1}
    path.write_text(json.dumps(document))
    assert Store(Sysroot(tmp_path)).records() == {T: record()}


def test_kept_objects_are_whole_until_somebody_changes_them(store: Store, tmp_path: Path) -> None:
    built = keep(store, tmp_path, "one", "two")
    assert [o.name for o in built.objects] == ["m0", "m1"]
    assert not store.is_damaged(T, built)
    path = store.objects(T) / "m1.ko"
    path.write_text("TWO")
    assert store.is_damaged(T, built)
    path.write_text("two")
    assert not store.is_damaged(T, built)
    path.unlink()
    assert store.is_damaged(T, built)


def test_kept_objects_replace_all_older_ones(store: Store, tmp_path: Path) -> None:
    keep(store, tmp_path, "one", "two", symvers=True)
    assert store.symvers(T) == store.objects(T) / SYMVERS
    keep(store, tmp_path, "three")
    assert os.listdir(store.objects(T)) == ["m0.ko"]
    assert store.symvers(T) is None


def test_kill_between_the_two_sets_shows_as_damage_and_heals(store: Store, tmp_path: Path) -> None:
    built = keep(store, tmp_path, "one")
    fresh = store.objects(T).with_suffix(".objects.new")
    store.objects(T).rename(fresh)
    assert store.is_damaged(T, built)
    store.heal()
    assert not fresh.exists()
    again = keep(store, tmp_path, "one")
    assert not store.is_damaged(T, again)


def test_leftovers_of_a_kill_are_healed(store: Store, tmp_path: Path) -> None:
    store.write(record())
    store.write_kernel(KernelRecord(kernel=K))
    before = sorted(p for p in tmp_path.rglob("*"))
    temporary_name(tmp_path / PLACE / "m.json").write_text("half")
    temporary_name(tmp_path / "var/lib/kmodd/kernels" / f"{K}.json").write_text("half")
    (tmp_path / PLACE / "m.objects.new").mkdir()
    (tmp_path / PLACE / "m.objects.new/m.ko").write_text("half")
    store.heal()
    assert sorted(p for p in tmp_path.rglob("*")) == before
    assert set(store.records()) == {T}


def test_dotted_names_do_not_share_objects(store: Store) -> None:
    names = [store.objects(Target(name, K)) for name in ("a", "a.b", "a.c", "a.objects")]
    assert len({n.with_suffix(".objects.new") for n in names}) == len(names)


def test_forgetting_leaves_nothing_of_the_target_and_all_of_the_others(store: Store, tmp_path: Path) -> None:
    keep(store, tmp_path, "one", symvers=True)
    store.write(record())
    store.write(record("other"))
    store.forget(T)
    assert os.listdir(tmp_path / PLACE) == ["other.json"]
    store.forget(Target("other", K))
    assert not (tmp_path / PLACE).exists()
    store.forget(T)


def test_kernels_are_remembered_and_forgotten(store: Store, tmp_path: Path) -> None:
    found = KernelRecord(kernel=K, steps={"depmod": failed("install")})
    store.write_kernel(found)
    (tmp_path / "var/lib/kmodd/kernels/bad.json").write_text("{")
    assert store.kernel_records() == {K: found}
    store.forget_kernel(K)
    assert store.kernel_records() == {}


def test_what_an_older_version_remembered_of_a_kernel_is_read(store: Store, tmp_path: Path) -> None:
    last = failed("install")
    old = {"schema": 1, "kernel": K, "attempt": last.model_dump(), "depmod": {"inputs": "x"}}
    (tmp_path / "var/lib/kmodd/kernels").mkdir(parents=True)
    (tmp_path / f"var/lib/kmodd/kernels/{K}.json").write_text(json.dumps(old))
    assert store.kernel_records() == {K: KernelRecord(kernel=K, steps={"depmod": last}, depmod=Depmod(inputs="x"))}


def test_state_that_cannot_be_made_is_a_problem(store: Store, tmp_path: Path) -> None:
    store.check_writable()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/var").write_text("a file")
    with pytest.raises(Problem) as caught:
        Store(Sysroot(tmp_path / "other")).check_writable()
    assert caught.value.code == "state-unwritable"
