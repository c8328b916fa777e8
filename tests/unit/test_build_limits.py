"""What a build may leave is bounded before anything of it is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kmodd.core.errors import Problem
from kmodd.kbuild.objects import LARGEST_SYMVERS, UNSTRIPPED, Limits, check_sizes, find_files, read_symvers

MIB = 1 << 20
LIMITS = Limits(largest=100 * MIB, most=5)


def sparse(path: Path, size: int) -> Path:
    path.touch()
    os.truncate(path, size)
    return path


SIZES = [
    ([100], 1, ""),
    ([100] * 4, 1, ""),
    ([101], 1, "0.ko has 101 MiB, more than 100 (build.largest_object)"),
    ([100] * 5, 1, "all objects together have 500 MiB"),
    ([1] * 6, 1, "the build yielded 6 objects, more than 5 (build.most_objects)"),
    ([800], UNSTRIPPED, ""),
    ([801], UNSTRIPPED, "0.ko has 801 MiB, more than 800"),
]


@pytest.mark.parametrize(("sizes", "times", "text"), SIZES)
def test_objects_are_bounded_in_size_and_number(tmp_path: Path, sizes: list[int], times: int, text: str) -> None:
    paths = [sparse(tmp_path / f"{number}.ko", size * MIB) for number, size in enumerate(sizes)]
    if not text:
        check_sizes(paths, LIMITS, times)
        return
    with pytest.raises(Problem) as caught:
        check_sizes(paths, LIMITS, times)
    assert (caught.value.code, caught.value.message.startswith(text)) == ("object-too-large", True)


def test_symvers_are_bounded(tmp_path: Path) -> None:
    sparse(tmp_path / "Module.symvers", LARGEST_SYMVERS + 1)
    with pytest.raises(Problem, match=r"Module\.symvers"):
        read_symvers(tmp_path, [tmp_path])


def test_search_of_what_a_build_left_is_bounded_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.ko").touch()
    (tmp_path / "link").symlink_to("a")
    assert [*find_files(tmp_path)] == [tmp_path / "a/x.ko"]
    tmp_path.joinpath(*["d"] * 200).mkdir(parents=True)
    with pytest.raises(Problem, match="directories in each other") as caught:
        list(find_files(tmp_path))
    assert caught.value.code == "object-invalid"
