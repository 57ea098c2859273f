"""The garbage collector: what it deletes, what it keeps, and the bytes that this frees."""

import os

import pytest

import nix


@pytest.fixture(autouse=True)
def _collected(own):
    """Let each test begin with a store that has no garbage."""
    nix.collect_garbage(own)


def test_the_garbage_is_predicted_to_the_byte(own, package, root_of):
    kept, dropped = package("kept", "a"), package("dropped", "a", "b", content="x" * 5000)
    root_of(dropped).unlink()

    predicted = nix.garbage_bytes(own)

    assert predicted == nix.collect_garbage(own) == 10_000
    assert nix.valid_paths(own, [*kept.paths, *dropped.paths]) == set(kept.paths)
    assert nix.garbage_bytes(own) == nix.collect_garbage(own) == 0


def test_the_garbage_without_some_roots_is_predicted_to_the_byte(own, package, root_of):
    package("kept", "a")
    root = root_of(package("dropped", "a", content="x" * 5000))

    assert nix.garbage_bytes(own) == 0
    predicted = nix.garbage_bytes(own, [root])
    root.unlink()

    assert predicted == nix.collect_garbage(own) == 5000


def test_a_store_path_that_a_generation_holds_is_no_garbage(own, package, root_of, tmp_path):
    profile, one = tmp_path / "profile", package("one", "bin/one")
    nix.set_profile(own, profile, [one], tmp=tmp_path)
    nix.set_profile(own, profile, [], tmp=tmp_path)
    root_of(one).unlink()

    nix.collect_garbage(own)
    assert nix.valid_paths(own, one.paths) == set(one.paths)

    nix.delete_generations(own, profile, [1])
    nix.collect_garbage(own)
    assert nix.valid_paths(own, one.paths) == set()


def test_a_file_with_links_elsewhere_is_not_counted(own, package, root_of, tmp_path):
    one, two = package("one", "a", content="x" * 5000), package("two", "b")
    os.chmod(two.paths[0], 0o700)
    os.link(f"{one.paths[0]}/a", f"{two.paths[0]}/c")
    os.link(f"{one.paths[0]}/a", tmp_path / "third")
    root_of(one).unlink()

    assert nix.garbage_bytes(own) == 0
    assert nix.collect_garbage(own) == 0
    assert nix.valid_paths(own, one.paths) == set()
