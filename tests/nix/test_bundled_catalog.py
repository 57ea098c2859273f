"""The bundled demonstration catalog: it builds on any machine, and its programs run."""

import os
import subprocess
from pathlib import Path

import pytest
from sandbox import sandboxed_store
from support import BUNDLED, at

import nix
from nix.store import call, text

VERSIONS = {
    "hello": ["2.12.1", "2.10.0"],
    "fortune": ["1.2.0"],
    "parrot": ["1.0.0"],
    "oracle": ["1.0.0"],
}
PACKAGES = [(name, version) for name, versions in VERSIONS.items() for version in versions]
GREETINGS = {
    "2.12.1": "Hello, world! This is hello 2.12.1.\n",
    "2.10.0": "Good day to you, world. This is still hello 2.10.0.\n",
}


@pytest.fixture
def build(store, tmp_path):
    """Return a function that builds a package of the catalog."""

    def build(name, version, store=store):
        tmp, root = tmp_path / "tmp", tmp_path / "roots" / f"{name}-{version}"
        found = nix.resolve(store, at(BUNDLED), name, version, tmp=tmp)
        limits = {"build_seconds": 60, "silence_seconds": 60}
        path = nix.realise(store, found.drv_path, "out", root, tmp=tmp, **limits)
        return nix.ProfilePackage(name, version, (path,))

    return build


@pytest.fixture
def profile(store, tmp_path):
    """Return a function that puts packages into a profile and returns its folder."""

    def profile(*packages):
        nix.set_profile(store, tmp_path / "profile", packages, tmp=tmp_path)
        return tmp_path / "profile"

    return profile


def run(program, *words, **options):
    """Run a program in a nearly empty environment, and return what it writes to stdout."""
    options = {"env": {"PATH": "/usr/bin:/bin"}, "capture_output": True, "text": True} | options
    done = subprocess.run([program, *words], **options, check=True)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("name", VERSIONS)
def test_every_version_is_offered(store, name):
    found = nix.offers(store, at(str(BUNDLED)), name)

    assert [offer.version for offer in found.versions] == VERSIONS[name]


def test_every_package_is_tested():
    folders = {path.parent.name for path in BUNDLED.glob("*/bin")}

    assert folders == {f"{name}-{version}" for name, version in PACKAGES}


def test_every_program_has_its_execute_bit():
    assert all(os.access(program, os.X_OK) for program in BUNDLED.glob("*/bin/*"))


@pytest.mark.parametrize(("name", "version"), PACKAGES)
def test_every_package_builds_and_runs(build, name, version):
    (path,) = build(name, version).paths

    assert run(f"{path}/bin/{name}", stdin=subprocess.DEVNULL)


def test_the_packages_build_in_a_sandbox(build, tmp_path):
    store = sandboxed_store(tmp_path / "store")

    (path,) = build("oracle", "1.0.0", store).paths

    assert Path(path).is_dir()


@pytest.mark.parametrize(("version", "greeting"), GREETINGS.items())
def test_the_versions_of_hello_greet_differently(build, profile, version, greeting):
    assert run(profile(build("hello", version)) / "bin" / "hello") == greeting


def test_hello_greets_the_person_it_is_given(build):
    assert run(f"{build('hello', '2.12.1').paths[0]}/bin/hello", "Ann").startswith("Hello, Ann!")


def test_fortune_writes_one_of_its_lines(build):
    (path,) = build("fortune", "1.2.0").paths
    lines = (BUNDLED / "fortune-1.2.0/share/fortune/fortunes").read_text().splitlines(True)

    assert {run(f"{path}/bin/fortune") for _ in range(5)} <= set(lines)


def test_parrot_repeats_its_arguments_or_its_input(build):
    program = f"{build('parrot', '1.0.0').paths[0]}/bin/parrot"

    assert run(program, "two", "words").splitlines()[1] == "| two words |"
    assert run(program, input="one\n  three\n").splitlines()[1:3] == ["| one     |", "|   three |"]


def test_oracle_depends_on_fortune(build, store):
    (fortune,), (oracle,) = build("fortune", "1.2.0").paths, build("oracle", "1.0.0").paths

    closure = text(call(store, ["nix-store", "--query", "--requisites", oracle]))

    assert fortune in closure.split()


@pytest.mark.parametrize(
    "others", [[], [("hello", "2.12.1"), ("fortune", "1.2.0"), ("parrot", "1.0.0")]]
)
def test_oracle_finds_fortune_in_any_profile(build, profile, others):
    folder = profile(build("oracle", "1.0.0"), *(build(*other) for other in others))

    answer = run(folder / "bin" / "oracle")

    fortunes = (BUNDLED / "fortune-1.2.0/share/fortune/fortunes").read_text().splitlines()
    assert answer.splitlines()[1].strip("| ") in fortunes
    assert run("oracle", env={"PATH": f"{folder}/bin:/usr/bin:/bin"})
