"""Profiles and their generations."""

import re
from pathlib import Path

import pytest

import nix
from nix import Collision, ProfilePackage
from nix.store import call, text


@pytest.fixture
def profile(tmp_path):
    """Where the profile of the test will be."""
    return tmp_path / "profiles" / "profile"


@pytest.fixture
def put(own, profile, tmp_path):
    """Return a function that makes the profile hold exactly these packages."""

    def put(*packages):
        nix.set_profile(own, profile, packages, tmp=tmp_path / "files")

    return put


@pytest.fixture
def numbers(profile):
    """Return a function that returns the numbers of all generations and that of the current."""

    def numbers():
        return list(nix.generations(profile)), nix.current_generation(profile)

    return numbers


@pytest.fixture
def names(own, profile):
    """Return a function that returns the names of the packages in a profile or a generation."""

    def names(of=profile):
        return sorted(name for name, _ in nix.installed(own, of))

    return names


def test_a_profile_holds_exactly_the_packages_it_is_set_to(own, package, put, profile):
    one, two = package("one", "bin/one", "share/doc"), package("two", "bin/two", "share/man")

    put(one, two)

    assert (profile / "bin" / "one").resolve() == Path(one.paths[0], "bin", "one")
    assert (profile / "bin" / "two").resolve() == Path(two.paths[0], "bin", "two")
    assert sorted(nix.installed(own, profile)) == [
        ("one-1.0.0", one.paths),
        ("two-1.0.0", two.paths),
    ]


def test_a_package_is_replaced_in_one_step(package, put, profile, names):
    put(package("one", "bin/one", version="1.0.0", content="old"))

    put(package("one", "bin/one", version="2.0.0", content="new"))

    assert (profile / "bin" / "one").read_text() == "new"
    assert names() == ["one-2.0.0"]


def test_a_package_of_many_outputs_is_listed_once_with_all_of_them_in_order(
    own, package, put, profile
):
    paths = [package(f"output-{n}", f"share/{n}").paths[0] for n in range(12)]

    put(ProfilePackage("one", "1.0.0", tuple(paths)))

    assert (profile / "share" / "11").exists()
    assert nix.installed(own, profile) == [("one-1.0.0", tuple(paths))]


def test_a_profile_can_be_empty(own, put, profile):
    put()

    assert nix.installed(own, profile) == []
    assert profile.is_dir()


def test_a_profile_can_hold_hundreds_of_packages(own, package, put, profile):
    (path,) = package("one", "bin/one").paths

    put(*(ProfilePackage(f"package-{'x' * 300}-{n}", "1.0.0", (path,)) for n in range(500)))

    assert len(nix.installed(own, profile)) == 500


def test_a_name_is_never_read_as_nix(own, package, put, profile):
    (path,) = package("one", "bin/one").paths
    odd = "a\"b${c}\\d''e$f"

    put(ProfilePackage(odd, "1.0.0", (path,)))

    assert nix.installed(own, profile) == [(f"{odd}-1.0.0", (path,))]


BY_HAND = """{ hand = derivation {
  name = "hand-1.0";
  system = builtins.currentSystem;
  outputs = [ "bin" "lib" ];
  builder = "/bin/sh";
  args = [ "-c" "PATH=/usr/bin:/bin; mkdir $bin $lib" ];
}; }"""


def test_a_package_that_was_installed_by_hand_is_listed(own, package, put, profile, tmp_path):
    put(package("one", "bin/one"))
    (tmp_path / "hand.nix").write_text(BY_HAND)

    argv = ["nix-env", "--profile", str(profile), "--file", str(tmp_path / "hand.nix")]
    text(call(own, [*argv, "--install", "--attr", "hand"]))

    hand, one = sorted(nix.installed(own, profile))
    assert (hand[0], one[0]) == ("hand-1.0", "one-1.0.0")
    assert [path[-12:] for path in hand[1]] == ["hand-1.0-bin", "hand-1.0-lib"]


def test_two_packages_with_the_same_file_are_refused(package, put, names):
    one, two = package("one", "bin/same name", "b"), package("two", "bin/same name", "c")
    put(one)

    with pytest.raises(Collision) as caught:
        put(one, two)

    assert {caught.value.first, caught.value.second} == {"one 1.0.0", "two 1.0.0"}
    assert caught.value.file == "bin/same name"
    assert re.fullmatch("(one|two) 1.0.0 and .* both have the file .*", str(caught.value))
    assert names() == ["one-1.0.0"]


@pytest.mark.parametrize("first", ["one", "two"])
def test_a_file_and_a_directory_of_the_same_name_are_refused(package, put, first):
    packages = {"one": package("one", "bin/x"), "two": package("two", "bin/x/y")}

    with pytest.raises(Collision) as caught:
        put(packages.pop(first), *packages.values())

    assert caught.value.file == "bin/x"


def test_a_package_that_is_not_in_the_store_is_refused(put, package, names, missing_path):
    put(package("one", "bin/one"))

    with pytest.raises(nix.ProfileRefused, match=r"does not exist|is not valid"):
        put(ProfilePackage("missing", "1.0.0", (missing_path,)))

    assert names() == ["one-1.0.0"]


def test_each_change_is_a_generation(package, put, numbers):
    one, two = package("one", "bin/one"), package("two", "bin/two")

    put(one)
    put(one, two)
    put(one, two)

    assert numbers() == ([1, 2], 2)


def test_the_packages_of_a_generation_are_listed_by_its_link(package, put, profile, names):
    put(package("one", "bin/one"))
    put(package("two", "bin/two"))

    held = [names(Path(f"{profile}-{number}-link")) for number in (1, 2)]

    assert held == [["one-1.0.0"], ["two-1.0.0"]]


def test_a_profile_can_be_switched_to_any_generation(own, package, put, profile, numbers, names):
    for name in ("one", "two", "three"):
        put(package(name, f"bin/{name}"))

    nix.switch_generation(own, profile, 1)

    assert numbers() == ([1, 2, 3], 1)
    assert names() == ["one-1.0.0"]


def test_a_switch_to_a_missing_generation_is_an_error(own, package, put, profile, numbers):
    put(package("one", "bin/one"))

    with pytest.raises(nix.NixError, match="does not exist"):
        nix.switch_generation(own, profile, 77)

    assert numbers() == ([1], 1)


def test_generations_can_be_deleted(own, package, put, profile, numbers):
    for name in ("one", "two", "three"):
        put(package(name, f"bin/{name}"))

    nix.delete_generations(own, profile, [1, 2])

    assert numbers() == ([3], 3)


def test_to_delete_no_generations_deletes_none(own, package, put, profile, numbers):
    for name in ("one", "two"):
        put(package(name, f"bin/{name}"))

    nix.delete_generations(own, profile, [])

    assert numbers() == ([1, 2], 2)


def test_the_current_generation_can_not_be_deleted(own, package, put, profile, numbers):
    put(package("one", "bin/one"))

    with pytest.raises(nix.NixError, match="current"):
        nix.delete_generations(own, profile, [1])

    assert numbers() == ([1], 1)


def test_a_profile_that_does_not_exist_holds_nothing(own, profile):
    assert nix.generations(profile) == {}
    assert nix.installed(own, profile) == []

    profile.parent.mkdir()

    assert nix.generations(profile) == {}
    assert nix.installed(own, profile) == []


def test_a_profile_whose_store_path_is_missing_holds_nothing(own, profile, missing_path):
    profile.parent.mkdir()
    profile.symlink_to(missing_path)

    assert nix.installed(own, profile) == []


@pytest.mark.parametrize("written", ["", "[", "[1]", '{"a": {}}', '{"a": {"outputs": [1]}}'])
def test_a_list_that_can_not_be_read_is_an_error(own, profile, replace_program, written):
    odd = replace_program(own, "nix-env", f"echo '{written}'")

    with pytest.raises(nix.NixError, match="can't be read"):
        nix.installed(odd, profile)


def test_a_package_without_an_output_is_not_listed(own, profile, replace_program):
    odd = replace_program(own, "nix-env", """echo '{"a": {"name": "a", "outputs": {}}}'""")

    assert nix.installed(odd, profile) == []


# --- What else can be in the place of a profile ---


def test_a_generation_whose_link_is_gone_is_still_the_current_one(package, put, profile, numbers):
    put(package("one", "bin/one"))
    put(package("two", "bin/two"))
    nix.generation_link(profile, 2).unlink()

    assert numbers() == ([1], 2)


@pytest.mark.parametrize("target", ["other-1-link", "sub/profile-1-link", "/tmp/profile-1-link"])
def test_a_link_to_something_else_is_no_generation(package, put, profile, target):
    put(package("one", "bin/one"))
    nix.relink(profile, Path(target))

    assert nix.current_generation(profile) is None
    assert nix.leads_to(profile) == Path(target)


def test_a_link_by_the_whole_path_is_a_generation_too(package, put, profile):
    put(package("one", "bin/one"))
    nix.relink(profile, nix.generation_link(profile, 1))

    assert nix.current_generation(profile) == 1


def test_a_profile_that_led_nowhere_is_no_link_again(package, put, profile):
    assert nix.leads_to(profile) is None
    put(package("one", "bin/one"))

    nix.relink(profile, None)

    assert not profile.is_symlink()


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda profile: profile.mkdir(parents=True), "but is a folder"),
        (lambda profile: (profile.parent.mkdir(), profile.touch()), "but is a file"),
        (lambda profile: profile.parent.touch(), "Not a directory"),
    ],
)
def test_what_is_not_a_link_in_place_of_the_profile_is_told(profile, make, what):
    make(profile)

    with pytest.raises(nix.ProfileReplaced, match=what):
        nix.leads_to(profile)
    assert nix.current_generation(profile) is None


def test_a_folder_of_the_profile_that_can_not_be_made_is_an_error(own, tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(nix.NixError, match="folder can't be made"):
        nix.set_profile(own, tmp_path / "file" / "profile", [], tmp=tmp_path / "files")


# --- What a profile can't hold ---


@pytest.fixture
def odd(own, tmp_path):
    """Return a function that puts what a function makes at a path into the store, as a package."""

    def odd(name, make):
        make(tmp_path / name)
        path = text(call(own, ["nix-store", "--add", str(tmp_path / name)])).strip()
        return ProfilePackage(name, "1.0.0", (path,))

    return odd


def looping(folder):
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "loop").symlink_to("loop")


def propagating(needed):
    def make(folder):
        (folder / "nix-support").mkdir(parents=True)
        (folder / "nix-support" / "propagated-user-env-packages").write_text(needed)

    return make


@pytest.fixture
def directories_and_file(own, tmp_path):
    """Two packages with a directory `bin`, and one with a file `bin`, in the order of their paths.

    Of 20 candidates each, at least two directories come before a file but once in 6 billion times.
    """
    files = {tmp_path / f"file-{n}": "bin" for n in range(20)}
    files |= {tmp_path / f"directory-{n}": f"bin/{n}" for n in range(20)}
    for folder, file in files.items():
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_text(str(folder))
    paths = sorted(text(call(own, ["nix-store", "--add", *map(str, files)])).split())

    first, second = [path for path in paths if "-directory-" in path][:2]
    last = [path for path in paths if "-file-" in path][-1]
    assert second < last
    packages = {"one": first, "two": second, "three": last}
    return [ProfilePackage(name, "1.0.0", (path,)) for name, path in packages.items()]


def test_a_file_in_place_of_a_directory_of_two_packages_is_refused(directories_and_file, put):
    # Nix takes packages in the order of their paths, and words this otherwise where the file comes
    # last, as here.
    one, two, three = directories_and_file

    with pytest.raises(Collision) as caught:
        put(one, two, three)

    assert caught.value.first == str(three)
    assert caught.value.second in (str(one), str(two))
    assert caught.value.file == "bin"


def test_a_loop_of_links_is_refused_with_the_package(package, odd, put, names):
    one = package("one", "bin/one")
    put(one)

    with pytest.raises(nix.ProfileRefused, match=r"loop 1\.0\.0: .*Too many levels") as caught:
        put(one, odd("loop", looping))

    assert not isinstance(caught.value, Collision)
    assert names() == ["one-1.0.0"]


@pytest.mark.parametrize("needed", ["/nonexistent/needed", "word"])
def test_a_needed_package_that_does_not_exist_is_refused(odd, put, needed):
    with pytest.raises(nix.ProfileRefused, match=needed):
        put(odd("needy", propagating(needed)))


def test_a_profile_that_can_not_be_written_is_no_refusal(own, package, tmp_path):
    one = package("one", "bin/one")

    with pytest.raises(nix.NixError) as caught:
        nix.set_profile(own, Path("/proc/profile"), [one], tmp=tmp_path / "files")

    assert not isinstance(caught.value, nix.ProfileRefused)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.touch(), "is a single file"),
        (lambda path: path.symlink_to("/tmp"), "is a link out of the store"),
        (lambda path: path.symlink_to("nowhere"), "is a link to nothing"),
    ],
)
def test_an_output_with_nothing_for_a_profile_is_refused(own, odd, make, reason):
    package = odd("odd", make)

    with pytest.raises(nix.ProfileRefused, match=reason):
        nix.check_activatable(own, package)


def test_an_output_may_be_a_link_to_another_package(own, package, odd):
    one = package("one", "bin/one")

    assert nix.check_activatable(own, one) is None
    assert (
        nix.check_activatable(own, odd("link", lambda path: path.symlink_to(one.paths[0]))) is None
    )
