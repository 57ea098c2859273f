"""Store paths, profiles and their generations, and the garbage collector."""

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import nix
from nix import Collision, NixError, ProfilePackage

NOWHERE = "/nix/store/00000000000000000000000000000000-nowhere"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A store of this module's own, where everything may be collected."""
    return nix.private_store(tmp_path_factory.mktemp("own"))


@pytest.fixture
def package(own, tmp_path):
    """Return a function that puts files in the store, rooted, as a package."""

    def package(name, *files, version="1.0.0", content=None):
        folder = tmp_path / f"{name}-{version}"
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(content or str(tmp_path))
        added = nix.call(own, ["nix-store", "--add", str(folder)]).stdout.decode().strip()
        root = tmp_path / f"root-{name}-{version}"
        nix.text(nix.call(own, ["nix-store", "--realise", added, "--add-root", str(root)]))
        return ProfilePackage(name, version, (added,))

    return package


@pytest.fixture
def profile(tmp_path):
    """Where a profile of the test's own will be."""
    return tmp_path / "profiles" / "profile"


@pytest.fixture
def put(own, profile, tmp_path):
    """Return a function that makes the profile hold exactly these packages."""

    def put(*packages):
        nix.set_profile(own, profile, packages, tmp=tmp_path / "files")

    return put


@pytest.fixture
def numbers(own, profile):
    """Return a function that tells the generations' numbers, and the current one's."""

    def numbers():
        found = nix.generations(own, profile)
        return [g.number for g in found], *(g.number for g in found if g.current)

    return numbers


def names(found):
    """Return the names of what a profile holds, in order."""
    return sorted(name for name, _ in found)


@pytest.fixture(params=["here", "elsewhere", "out of reach"])
def asked(own, request, tmp_path):
    """The store as it is, with a database of another store beside it, and with none."""
    if request.param == "here":
        return own
    places = {"NIX_STATE_DIR": "state", "NIX_STORE_DIR": "store", "NIX_LOG_DIR": "log"}
    query = "&".join(f"{name}={own.environ[variable]}" for variable, name in places.items())
    state = tmp_path / "state"
    if request.param == "elsewhere":
        nix.text(nix.call(nix.private_store(tmp_path), ["nix-store", "--init"]))
        state = tmp_path / "var" / "nix"
    environ = {**own.environ, "NIX_REMOTE": f"local?{query}", "NIX_STATE_DIR": str(state)}
    return nix.Store(environ)


def test_a_closure_counts_each_path_once(asked, package):
    paths = [package(name, "file", content="x" * 1000).paths[0] for name in ("one", "two")]

    one, two, both = (nix.closure_size(asked, some) for some in (paths[:1], paths[1:], paths * 2))

    assert one == two > 1000
    assert both == one + two


def test_a_closure_holds_what_a_path_needs_and_nix_agrees(own):
    needing = nix.text(
        nix.call(own, ["nix-build", str(nix.BUNDLED_CATALOG), "--no-out-link"])
    ).split()
    requisites = nix.text(nix.call(own, ["nix-store", "--query", "--requisites", *needing]))
    sizes = nix.text(nix.call(own, ["nix-store", "--query", "--size", *requisites.split()]))

    assert len(requisites.split()) > 1
    assert nix.closure_size(own, needing) == sum(map(int, sizes.split()))


def test_the_closure_of_a_path_that_is_gone_is_an_error(own):
    gone = f"{own.environ['NIX_STORE_DIR']}/{Path(NOWHERE).name}"

    with pytest.raises(NixError, match="is not valid"):
        nix.closure_size(own, [gone])


def test_the_valid_paths_are_those_in_the_store(own, package, monkeypatch):
    monkeypatch.setattr(nix, "PATHS_A_CALL", 2)
    paths = {package(name, "file").paths[0] for name in ("a", "b", "c")}
    gone = f"{own.environ['NIX_STORE_DIR']}/{Path(NOWHERE).name}"

    assert nix.valid_paths(own, [*paths, gone]) == paths
    assert nix.valid_paths(own, []) == set()


def test_a_path_of_another_store_is_not_valid(own):
    assert nix.valid_paths(own, [NOWHERE, "relative", "/"]) == set()


def test_a_profile_holds_exactly_what_it_was_given(own, package, put, profile):
    one, two = package("one", "bin/one", "share/doc"), package("two", "bin/two", "share/man")

    put(one, two)

    assert (profile / "bin" / "one").resolve() == Path(one.paths[0], "bin", "one")
    assert (profile / "bin" / "two").resolve() == Path(two.paths[0], "bin", "two")
    assert sorted(nix.installed(own, profile)) == [
        ("one-1.0.0", one.paths[0]),
        ("two-1.0.0", two.paths[0]),
    ]


def test_a_package_is_replaced_in_one_step(own, package, put, profile):
    put(package("one", "bin/one", version="1.0.0", content="old"))

    put(package("one", "bin/one", version="2.0.0", content="new"))

    assert (profile / "bin" / "one").read_text() == "new"
    assert names(nix.installed(own, profile)) == ["one-2.0.0"]


def test_a_package_of_several_outputs_is_one(own, package, put, profile):
    main, more = package("main", "bin/one"), package("more", "man/one")

    put(ProfilePackage("one", "1.0.0", (*main.paths, *more.paths)))

    assert (profile / "man" / "one").exists()
    assert nix.installed(own, profile) == [("one-1.0.0", main.paths[0])]


def test_a_profile_can_be_empty(own, put, profile):
    put()

    assert nix.installed(own, profile) == []
    assert profile.is_dir()


def test_a_profile_holds_hundreds_of_packages(own, package, put, profile):
    (path,) = package("one", "bin/one").paths

    put(*(ProfilePackage(f"package-{'x' * 300}-{n}", "1.0.0", (path,)) for n in range(500)))

    assert len(nix.installed(own, profile)) == 500


def test_odd_names_are_only_names(own, package, put, profile):
    (path,) = package("one", "bin/one").paths
    odd = "a\"b${c}\\d''e$f"

    put(ProfilePackage(odd, "1.0.0", (path,)))

    assert nix.installed(own, profile) == [(f"{odd}-1.0.0", path)]


BY_HAND = """{ hand = derivation {
  name = "hand-1.0";
  system = builtins.currentSystem;
  outputs = [ "bin" "lib" ];
  builder = "/bin/sh";
  args = [ "-c" "PATH=/usr/bin:/bin; mkdir $bin $lib" ];
}; }"""


def test_what_was_installed_by_hand_is_told_too(own, package, put, profile, tmp_path):
    put(package("one", "bin/one"))
    (tmp_path / "hand.nix").write_text(BY_HAND)

    argv = ["nix-env", "--profile", str(profile), "--file", str(tmp_path / "hand.nix")]
    nix.text(nix.call(own, [*argv, "--install", "--attr", "hand"]))

    hand, one = sorted(nix.installed(own, profile))
    assert (hand[0], one[0]) == ("hand-1.0", "one-1.0.0")
    assert hand[1].endswith("-hand-1.0-bin")


def test_two_packages_with_a_file_in_common_are_refused(own, package, put, profile):
    one, two = package("one", "bin/same name", "b"), package("two", "bin/same name", "c")
    put(one)

    with pytest.raises(Collision) as caught:
        put(one, two)

    assert {caught.value.first, caught.value.second} == {"one 1.0.0", "two 1.0.0"}
    assert caught.value.file == "bin/same name"
    assert re.fullmatch("(one|two) 1.0.0 and .* both have the file .*", str(caught.value))
    assert names(nix.installed(own, profile)) == ["one-1.0.0"]


@pytest.mark.parametrize("first", ["one", "two"])
def test_a_file_and_a_folder_of_one_name_are_refused(package, put, first):
    packages = {"one": package("one", "bin/x"), "two": package("two", "bin/x/y")}

    with pytest.raises(Collision) as caught:
        put(packages.pop(first), *packages.values())

    assert caught.value.file == "bin/x"


def test_a_package_that_is_not_in_the_store_is_refused(own, put, package, profile):
    put(package("one", "bin/one"))
    gone = f"{own.environ['NIX_STORE_DIR']}/{Path(NOWHERE).name}"

    with pytest.raises(NixError, match=r"does not exist|is not valid"):
        put(ProfilePackage("gone", "1.0.0", (gone,)))

    assert names(nix.installed(own, profile)) == ["one-1.0.0"]


def test_each_change_is_a_generation(own, package, put, profile, numbers):
    before = datetime.now(UTC) - timedelta(seconds=1)
    one, two = package("one", "bin/one"), package("two", "bin/two")

    put(one)
    put(one, two)
    put(one, two)

    assert numbers() == ([1, 2], 2)
    assert all(before <= g.created <= datetime.now(UTC) for g in nix.generations(own, profile))


def test_what_a_generation_holds_can_be_asked_by_its_link(own, package, put, profile):
    put(package("one", "bin/one"))
    put(package("two", "bin/two"))

    held = [names(nix.installed(own, Path(f"{profile}-{n}-link"))) for n in (1, 2)]

    assert held == [["one-1.0.0"], ["two-1.0.0"]]


def test_a_profile_can_be_switched_to_any_generation(own, package, put, profile, numbers):
    for name in ("one", "two", "three"):
        put(package(name, f"bin/{name}"))

    nix.switch_generation(own, profile, 1)

    assert numbers() == ([1, 2, 3], 1)
    assert names(nix.installed(own, profile)) == ["one-1.0.0"]


def test_a_switch_to_what_is_not_there_is_an_error(own, package, put, profile, numbers):
    put(package("one", "bin/one"))

    with pytest.raises(NixError, match="does not exist"):
        nix.switch_generation(own, profile, 77)

    assert numbers() == ([1], 1)


def test_generations_can_be_deleted(own, package, put, profile, numbers):
    for name in ("one", "two", "three"):
        put(package(name, f"bin/{name}"))

    nix.delete_generations(own, profile, [1, 2])
    nix.delete_generations(own, profile, [])

    assert numbers() == ([3], 3)


def test_the_current_generation_can_not_be_deleted(own, package, put, profile, numbers):
    put(package("one", "bin/one"))

    with pytest.raises(NixError, match="current"):
        nix.delete_generations(own, profile, [1])

    assert numbers() == ([1], 1)


def test_a_profile_that_is_not_there_holds_nothing(own, profile):
    assert nix.generations(own, profile) == []
    assert nix.installed(own, profile) == []

    profile.parent.mkdir()

    assert nix.generations(own, profile) == []
    assert nix.installed(own, profile) == []


def test_a_profile_whose_store_path_is_gone_holds_nothing(own, profile):
    profile.parent.mkdir()
    profile.symlink_to(NOWHERE)

    assert nix.installed(own, profile) == []


def test_the_garbage_is_predicted_to_the_byte(own, package, tmp_path):
    nix.collect_garbage(own)
    kept, dropped = package("kept", "a"), package("dropped", "a", "b", content="x" * 5000)
    (tmp_path / "root-dropped-1.0.0").unlink()

    predicted = nix.garbage(own)

    assert predicted == nix.collect_garbage(own) == 10_000
    assert nix.valid_paths(own, [*kept.paths, *dropped.paths]) == set(kept.paths)
    assert nix.garbage(own) == nix.collect_garbage(own) == 0


def test_what_a_generation_holds_is_no_garbage(own, package, put, profile, tmp_path):
    one = package("one", "bin/one")
    put(one)
    put()
    (tmp_path / "root-one-1.0.0").unlink()

    nix.collect_garbage(own)
    assert nix.valid_paths(own, one.paths) == set(one.paths)

    nix.delete_generations(own, profile, [1])
    nix.collect_garbage(own)
    assert nix.valid_paths(own, one.paths) == set()


def test_a_file_that_is_shared_is_no_garbage(own, package, tmp_path):
    nix.collect_garbage(own)
    one, two = package("one", "a", content="x" * 5000), package("two", "b")
    os.chmod(two.paths[0], 0o700)
    os.link(f"{one.paths[0]}/a", f"{two.paths[0]}/c")
    os.link(f"{one.paths[0]}/a", tmp_path / "third")
    (tmp_path / "root-one-1.0.0").unlink()

    assert nix.garbage(own) == 0
    assert nix.collect_garbage(own) == 0


def test_the_garbage_without_some_roots_is_predicted_to_the_byte(own, package, tmp_path):
    nix.collect_garbage(own)
    package("kept", "a"), package("dropped", "a", content="x" * 5000)
    root = tmp_path / "root-dropped-1.0.0"

    assert nix.garbage(own) == 0
    predicted = nix.garbage(own, [root])
    root.unlink()

    assert predicted == nix.collect_garbage(own) == 5000


def test_a_store_path_can_be_kept_alive(own, package, tmp_path):
    one = package("one", "a")

    nix.add_root(own, one.paths[0], tmp_path / "more" / "root")
    (tmp_path / "root-one-1.0.0").unlink()
    nix.collect_garbage(own)

    assert nix.valid_paths(own, one.paths) == set(one.paths)


def test_a_catalog_is_where_its_name_leads(own, tmp_path):
    named = nix.Store({**own.environ, "NIX_PATH": f"pins={tmp_path}"})

    assert nix.catalog_path(named, "/srv/pins") == Path("/srv/pins")
    assert nix.catalog_path(named, "<pins>") == tmp_path
    assert not nix.catalog_path(named, "<other>").exists()
