"""Catalogs that want a newer Nix: the error says which, and which one this is."""

from pathlib import Path

import pytest
from support import at

import nix
from nix import EvaluationFailed, NixTooOld
from nix.requirement import unmet

# The files of nixpkgs with a version of Nix that there will not be: of 2016, of 2018 and of 2026.
OLD = """
let requiredVersion = import ./lib/minver.nix; in
if builtins.compareVersions requiredVersion builtins.nixVersion == 1 then
  abort "This version of Nixpkgs requires Nix >= ${requiredVersion}, please upgrade! See https://x"
else { }
"""
MIDDLE = """
let requiredVersion = import ./lib/minver.nix; in
if builtins.compareVersions requiredVersion builtins.nixVersion == 1 then
  abort ''

    This version of Nixpkgs requires Nix >= ${requiredVersion}, please upgrade:

    - If you are running NixOS, use `nixos-rebuild' to upgrade your system.
  ''
else { }
"""
NEW = """
let missing = map ({ description, ... }: description) (import ./lib/minfeatures.nix).missing; in
if missing != [ ] then
  abort ''

    This version of Nixpkgs requires an implementation of Nix with the following features:
    - ${builtins.concatStringsSep "\\n- " missing}

    You are evaluating with Nix ${builtins.nixVersion or "(too old to know)"}, please upgrade:
  ''
else { }
"""
MINVER = '"99.4"'
MINFEATURES = (
    """{ missing = [ { description = "`builtins.nixVersion` reports at least 99.4"; } ]; }"""
)


@pytest.fixture
def tree(tmp_path):
    """Return a function that writes a catalog with these files in lib/, and returns its path."""

    def tree(default, **files):
        (tmp_path / "tree" / "lib").mkdir(parents=True)
        (tmp_path / "tree" / "default.nix").write_text(default)
        for name, text in files.items():
            (tmp_path / "tree" / "lib" / f"{name}.nix").write_text(text)
        return str(tmp_path / "tree")

    return tree


@pytest.mark.parametrize(
    ("default", "files"),
    [
        (OLD, {"minver": MINVER}),
        (MIDDLE, {"minver": MINVER}),
        (NEW, {"minfeatures": MINFEATURES}),
        ("throw ''ours needs Nix 99.4 or newer''", {}),
        ("throw ''please use Nix version 99.4 or later''", {}),
        ("a new |> syntax?", {"minver": MINVER}),
        (
            "a new |> syntax?",
            {"minfeatures": '{ x = compareVersions "99.4" builtins.nixVersion; }'},
        ),
    ],
)
def test_a_catalog_that_wants_a_newer_nix_names_both_versions(
    store, tree, tmp_path, default, files
):
    catalog, ours = tree(default, **files), nix.version(store)

    with pytest.raises(NixTooOld) as caught:
        nix.resolve(store, at(catalog), "hello", "1.0.0", tmp=tmp_path / "tmp")

    told = f"it wants Nix 99.4 or newer, and this is Nix {ours}"
    assert str(caught.value) == f"catalog {catalog}: {told}"
    assert (caught.value.code, bool(caught.value.hint)) == ("nix_too_old", True)
    assert nix.failing(store, at(catalog)) == (nix.CatalogFailure(catalog, "nix_too_old", told),)


def test_a_channel_and_a_file_of_a_catalog_are_looked_at_too(own, tree):
    catalog = tree("no |> syntax?", minver=MINVER)
    store = nix.Store({**own.environ, "NIX_PATH": f"there={catalog}"})

    found = nix.failing(store, at("<there>", f"{catalog}/default.nix", "<none>"))

    codes = [failure.code for failure in found]
    assert codes == ["nix_too_old", "nix_too_old", "evaluation_failed"]


def test_features_without_a_version_are_listed(store, tree):
    feature = '{ missing = [ { description = "a new builtin"; } { description = "more"; } ]; }'

    (failure,) = nix.failing(store, at(tree(NEW, minfeatures=feature)))

    ours = nix.version(store)
    told = f"it wants a newer Nix, and this is Nix {ours}; it lacks: a new builtin, more"
    assert (failure.code, failure.message) == ("nix_too_old", told)


@pytest.mark.parametrize("default", ["throw ''needs Nix 2.0 or newer''", OLD + "1"])
def test_a_catalog_that_fails_otherwise_is_not_too_new(store, tree, tmp_path, default):
    catalog = tree(default, minver='"2.0"')

    with pytest.raises(EvaluationFailed):
        nix.resolve(store, at(catalog), "hello", "1.0.0", tmp=tmp_path / "tmp")


def test_what_another_catalog_has_is_found_all_the_same(store, tree, catalog, tmp_path):
    other = catalog("{ hello = package ''hello'' ''1.0.0'' { }; }", "other")
    catalogs = at(tree(OLD, minver=MINVER), other)

    found = nix.resolve(store, catalogs, "hello", "1.0.0", tmp=tmp_path / "tmp")

    assert found.catalog == other


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("attribute 'convertHash' missing\n at x.nix:1:1:\n 1| builtins.convertHash", "2.19"),
        ("attribute 'readFileType' missing\n at x.nix:1:1:\n 1| builtins.readFileType", "2.14"),
        ("attribute 'convertHash' missing\n at x.nix:1:1:\n 1| lib.convertHash", None),
        ("attribute 'typo' missing\n at x.nix:1:1:\n 1| builtins.typo", None),
    ],
)
def test_a_builtin_that_this_nix_lacks_is_known_by_its_version(message, wanted):
    told = wanted and f"it wants Nix {wanted} or newer, and this is Nix 2.8.0"

    assert unmet(message, [Path("/nosuch")], "2.8.0") == told
