"""Durable writes: whole or absent."""

from pathlib import Path

import pytest

from tunesmith.errors import StorageError
from tunesmith.storage import atomic_file, atomic_folder, remove_unfinished, write_text


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for generation in ("one", "two"):
        with atomic_folder(target) as temporary:
            (temporary / generation).write_text(generation)
    assert [path.name for path in target.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "half").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_refusing_disk_is_one_line_with_the_path(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot write: .*; free space or choose another output"):
        write_text(blocker / "below.txt", "text")


def test_what_a_killed_write_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "other") as others, atomic_folder(target) as unfinished:
        (unfinished / "half").write_text("half")
        remove_unfinished(target)
        assert list(tmp_path.iterdir()) == [others]
        raise RuntimeError
