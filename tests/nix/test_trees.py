"""Walking through trees of files that no path, no recursion and no set of descriptors can reach."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from nix import trees

NAME = "d" * 100


def make_deep(folder, levels, name=NAME):
    """Make folders in each other, with a file in the last one; return the first."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("file", os.O_CREAT, dir_fd=here))
    os.close(here)
    return folder / name


def count(path):
    """Return the number of files in a tree."""
    return len(list(trees.files(path)))


@pytest.mark.usefixtures("long_paths")
def test_a_tree_deeper_than_any_path_is_counted_and_removed(tmp_path):
    deep = make_deep(tmp_path, 3000)

    assert count(deep) == 1
    trees.remove(deep)
    assert list(tmp_path.iterdir()) == []


def test_links_are_counted_and_not_followed(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "kept")

    assert count(tmp_path / "tree") == 1
    trees.remove(tmp_path / "tree")
    assert list(tmp_path.rglob("*")) == [tmp_path / "kept", tmp_path / "kept" / "file"]


def test_what_does_not_exist_has_no_files(tmp_path):
    assert count(tmp_path / "none") == count(tmp_path / "no" / "folder") == 0
    trees.remove(tmp_path / "none")


def test_a_folder_that_cannot_be_read_counts_as_empty():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "closed").mkdir(mode=0)
        (folder / "file").touch()
        user = os.geteuid()
        os.seteuid(user or 65534)
        try:
            assert count(folder) == 1
        finally:
            os.seteuid(user)


def test_a_walk_ends_where_its_folder_is_moved_away(tmp_path):
    for place in ("tree/a", "tree/b", "other/a", "other/b"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "file").touch()
    found = trees.files(tmp_path / "tree")
    seen = next(found)

    here = "a" if os.path.samestat((tmp_path / "tree/a/file").stat(), seen) else "b"
    (tmp_path / "tree" / here).rename(tmp_path / "other" / "moved")

    assert stat.S_ISREG(seen.st_mode)
    assert list(found) == []


def test_a_missing_folder_is_listed_as_empty_and_no_other(tmp_path):
    (tmp_path / "file").touch()

    assert trees.listed(tmp_path) == [tmp_path / "file"]
    assert trees.listed(tmp_path / "none") == []
    with pytest.raises(NotADirectoryError):
        trees.listed(tmp_path / "file")
