"""What the inventory of a cache says is damaged, by files that are written here."""

import pytest

import nix
from nix import cache_inventory

A, B, C, D = (letter * 32 for letter in "abcd")


@pytest.fixture
def folder(tmp_path):
    """The folder of a cache in which A needs B, which needs C; D needs itself alone."""
    (tmp_path / "nar").mkdir()
    (tmp_path / "nix-cache-info").touch()
    for name, needs in {A: [A, B], B: [C], C: [], D: [D]}.items():
        write(tmp_path, name, needs)
    return tmp_path


def write(folder, name, needs, nar=None):
    """Write a narinfo, and its nar."""
    nar = nar or f"{name}.nar.zst"
    (folder / "nar" / nar).touch()
    references = " ".join(f"{need}-tool" for need in needs)
    (folder / f"{name}.narinfo").write_text(f"URL: nar/{nar}\nReferences: {references}\n")


def test_what_needs_something_lost_is_damaged(folder):
    inventory = nix.CacheInventory()
    assert inventory.damaged(folder) == set()
    (folder / "nar" / f"{C}.nar.zst").unlink()
    assert inventory.damaged(folder) == {A, B, C}
    (folder / f"{C}.narinfo").unlink()
    assert inventory.damaged(folder) == {A, B}
    write(folder, C, [])
    assert inventory.damaged(folder) == set()


def test_a_narinfo_may_be_replaced(folder):
    inventory = nix.CacheInventory()
    inventory.damaged(folder)
    write(folder, C, [], "another.nar.zst")
    (folder / "nar" / f"{C}.nar.zst").unlink()
    assert inventory.damaged(folder) == set()
    (folder / "nar" / "another.nar.zst").unlink()
    assert inventory.damaged(folder) == {A, B, C}


def test_what_can_not_be_read_counts_as_whole(folder, monkeypatch):
    inventory = nix.CacheInventory()
    assert inventory.damaged(folder / "missing") == set()
    (folder / f"{D}.narinfo").write_text("nothing of the kind")
    (folder / "nar" / f"{C}.nar.zst").unlink()
    inventory.damaged(folder)
    (folder / f"{C}.narinfo").write_text("nothing of the kind")
    assert inventory.damaged(folder) == set()


def test_one_look_reads_a_bounded_number_of_files(folder, monkeypatch):
    inventory = nix.CacheInventory()
    (folder / "nar" / f"{C}.nar.zst").unlink()
    monkeypatch.setattr(cache_inventory, "READ_AT_ONCE", 1)
    for _ in range(4):
        found = inventory.damaged(folder)
    assert found == {A, B, C}
    monkeypatch.setattr(cache_inventory, "MANY", 3)
    assert nix.CacheInventory().damaged(folder) == set()
