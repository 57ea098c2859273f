"""Versions: what each spelling of a catalog stands for, and the order of spellings."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from semver import Version
from spellings import PRERELEASES, RELEASES

from nix import versions
from nix.store import call, text

VERSIONS = Path(versions.__file__).with_suffix(".nix")
DETERMINISTIC = settings(derandomize=True, deadline=None, database=None)
FEW = settings(DETERMINISTIC, max_examples=12)  # each starts a program of Nix

# Words and marks of real spellings, and any text that Nix can hold.
WORDS = st.sampled_from(
    ["rc", "RC", "pre", "beta", "alpha", "dev", "ea", "M1", "a1", "b2", "git", "snapshot"]
)
UNSTABLE = st.sampled_from(["unstable-2024-01-15", "-unstable-", "xunstable", "deadbee"])
PIECES = (
    WORDS
    | UNSTABLE
    | st.sampled_from("0123....----__+~vVpukabmé\t")
    | st.integers(0, 10**11).map(str)
)
ANY_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200)
SPELLINGS = st.lists(PIECES, max_size=12).map("".join) | ANY_TEXT


def evaluate(store, tmp_path, expression, values):
    """Return what Nix makes of `values`, which the expression has as `values`."""
    file = tmp_path / "values.json"
    file.write_text(json.dumps(values))
    whole = f"let values = builtins.fromJSON (builtins.readFile {file}); in {expression}"
    done = call(store, ["nix-instantiate", "--eval", "--strict", "--json", "--expr", whole])
    return json.loads(text(done))


@pytest.mark.parametrize(("spelled", "version"), {**RELEASES, **PRERELEASES}.items())
def test_a_spelling_stands_for_one_semantic_version(spelled, version):
    assert versions.semantic(spelled) == version


@pytest.mark.parametrize("spelled", [*RELEASES, *PRERELEASES])
def test_a_prerelease_is_told_by_its_words_and_not_by_a_hyphen(spelled):
    assert versions.is_prerelease(spelled) == (spelled in PRERELEASES)


@DETERMINISTIC
@given(SPELLINGS)
def test_every_spelling_stands_for_a_valid_version_which_stands_for_itself(spelled):
    version = versions.semantic(spelled)

    assert Version.is_valid(version)
    assert len(version) <= versions.LENGTH
    assert versions.semantic(version) == version


@FEW
@given(st.lists(SPELLINGS, min_size=50, max_size=80))
def test_nix_and_python_agree_on_what_spellings_stand_for(own, tmp_path_factory, spelled):
    tmp_path = tmp_path_factory.mktemp("spelled")
    spelled += [*RELEASES, *PRERELEASES]

    found = evaluate(own, tmp_path, f"map (import {VERSIONS}) values", spelled)

    assert dict(zip(spelled, found, strict=True)) == {s: versions.semantic(s) for s in spelled}


@FEW
@given(st.lists(SPELLINGS, min_size=10, max_size=25))
def test_releases_are_in_the_order_of_nix(own, tmp_path_factory, spelled):
    tmp_path = tmp_path_factory.mktemp("spelled")
    releases = sorted(filter(lambda s: not versions.is_prerelease(s), spelled), key=versions.order)

    pairs = "map (a: map (builtins.compareVersions a) values) values"

    for at, row in enumerate(evaluate(own, tmp_path, pairs, releases)):
        assert all(sign >= 0 for sign in row[:at])
        assert all(sign <= 0 for sign in row[at:])


def test_a_prerelease_comes_between_the_releases_before_and_its_own():
    spelled = [
        "0.9",
        "1.0.0-alpha",
        "1.0rc1",
        "1.0~rc2",
        "1.0rc10",
        "1",
        "1.0",
        "1.0.1-m2",
        "1.0.1",
    ]

    for turned in (spelled, spelled[::-1]):
        assert sorted(turned, key=versions.order) == spelled


NUMBERS = st.lists(st.integers(0, 10**6).map(str), min_size=3, max_size=3).map(".".join)


@DETERMINISTIC
@given(st.lists(NUMBERS, min_size=2))
def test_plain_numbers_keep_their_order_as_semantic_versions(spelled):
    ordered = [Version.parse(versions.semantic(s)) for s in sorted(spelled, key=versions.order)]

    assert all(one <= two for one, two in pairwise(ordered))


def test_the_distance_of_versions_is_that_of_their_numbers():
    there = ["3.1.0", "2.0.0", "1.24.0", "1.24.7", "1.25.3", "1.26.1", "1.26.0-rc1", "1.25.9+k"]

    nearest = sorted(there, key=lambda version: versions.distance("1.25.9", version))

    assert nearest[:5] == ["1.25.9+k", "1.25.3", "1.24.7", "1.24.0", "1.26.0-rc1"]
    assert nearest[5:] == ["1.26.1", "2.0.0", "3.1.0"]
