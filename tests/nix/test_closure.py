"""Closures: their sizes, by Nix's database and by Nix."""

import pytest
from support import BUNDLED

import nix
from nix.store import call, text


@pytest.fixture(params=["at hand", "of another store", "out of reach"])
def asked(own, request, tmp_path):
    """The store with its database at hand, with that of another store in its place, or without."""
    if request.param == "at hand":
        return own
    places = {"NIX_STATE_DIR": "state", "NIX_STORE_DIR": "store", "NIX_LOG_DIR": "log"}
    query = "&".join(f"{name}={own.environ[variable]}" for variable, name in places.items())
    state = tmp_path / "state"
    if request.param == "of another store":
        text(call(nix.private_store(tmp_path), ["nix-store", "--init"]))
        state = tmp_path / "var" / "nix"
    environ = {**own.environ, "NIX_REMOTE": f"local?{query}", "NIX_STATE_DIR": str(state)}
    return nix.Store(environ)


def test_a_closure_counts_each_path_once(asked, package):
    paths = [package(name, "file", content="x" * 1000).paths[0] for name in ("one", "two")]

    one, two, both = (nix.closure_size(asked, some) for some in (paths[:1], paths[1:], paths * 2))

    assert one == two > 1000
    assert both == one + two


def test_the_size_of_a_closure_is_the_sum_of_what_nix_says(own):
    built = text(call(own, ["nix-build", str(BUNDLED), "--no-out-link"])).split()
    requisites = text(call(own, ["nix-store", "--query", "--requisites", *built])).split()
    sizes = text(call(own, ["nix-store", "--query", "--size", *requisites])).split()

    assert len(requisites) > len(built)
    assert nix.closure_size(own, built) == sum(map(int, sizes))


def test_the_closure_of_a_missing_path_is_an_error(own, missing_path):
    with pytest.raises(nix.NixError, match="is not valid"):
        nix.closure_size(own, [missing_path])
