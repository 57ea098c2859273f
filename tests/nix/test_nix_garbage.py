"""The garbage collector: what it deletes, what it keeps, and the bytes that this frees."""

import os
import resource
import shlex
import subprocess
from subprocess import PIPE

import pytest

import nix
from nix import garbage
from nix.store import call

# A builder that goes so many levels down, each name of so many letters.
DOWN = """
  mkdir $out; cd $out; i=0; PWD=
  while [ $i -lt 1300 ]; do mkdir NAME || exit 1; cd -P NAME || exit 1; i=$((i + 1)); done
  echo content > file
"""


@pytest.fixture
def deep(own, long_paths):
    """Return a function that builds a tree of 1,300 levels, and returns its path and success."""

    def deep(name):
        script = DOWN.replace("NAME", name)
        expression = f"""derivation {{
          name = "deep-{len(name)}";
          system = builtins.currentSystem;
          builder = "/bin/sh";
          PATH = "/usr/bin:/bin";
          args = [ "-c" ''{script}'' ];
        }}"""
        # Newer versions of Nix keep all folders open when they register an output.
        _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        build = ["prlimit", f"--nofile={limit}:", "nix-build", "--no-out-link"]
        # Nix 2.26 takes a minute for it, and more on a busy machine.
        built = call(own, [*build, "--expr", expression], seconds=600)
        (path,) = own.directory.glob(f"*-deep-{len(name)}")
        return path, built.code == 0

    return deep


@pytest.fixture
def usual_descriptors():
    """As many file descriptors as systemd lets a service open unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


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


@pytest.mark.usefixtures("usual_descriptors")
def test_a_dead_output_of_1300_levels_is_predicted_and_collected(own, deep):
    path, is_built = deep("d")
    assert is_built

    assert nix.garbage_bytes(own) > 0
    assert nix.collect_garbage(own) > 0
    assert not path.exists()


@pytest.mark.usefixtures("usual_descriptors")
def test_what_a_failed_build_left_beyond_the_longest_path_is_collected(own, deep):
    path, is_built = deep("d" * 10)
    assert not is_built
    assert path.exists()

    assert nix.garbage_bytes(own) == nix.collect_garbage(own) > 0
    assert not path.exists()
    assert nix.garbage_bytes(own) == nix.collect_garbage(own) == 0


@pytest.fixture
def process_in_the_way(tmp_path, long_paths):
    """A process that works in a folder whose path is longer than any may be."""
    down = "while [ $i -lt 50 ]; do mkdir $1 || exit; cd -P $1 || exit; i=$((i + 1)); done"
    script = f"i=0; {down}; echo arrived; exec sleep 60"
    argv = ["sh", "-c", script, "sh", "d" * 100]
    with subprocess.Popen(argv, cwd=tmp_path, env={"PATH": os.environ["PATH"]}, stdout=PIPE) as it:
        assert it.stdout.readline() == b"arrived\n"
        yield it
        it.kill()


def test_a_process_in_the_collectors_way_is_waited_for(own, process_in_the_way, replace_program):
    ended = f"kill {process_in_the_way.pid}; exit $code"
    noticing = replace_program(own, "nix-store", f'$real "$@"; code=$?; {ended}')

    assert nix.collect_garbage(noticing) == 0


def test_a_process_that_stays_in_the_collectors_way_is_no_endless_wait(
    own, process_in_the_way, monkeypatch
):
    monkeypatch.setattr(garbage, "IN_THE_WAY_SECONDS", 0)

    with pytest.raises(nix.NixError, match="File name too long"):
        nix.garbage_bytes(own)


@pytest.mark.parametrize("quote", ["'", '"'], ids=["Nix 2.8", "Nix 2.26"])
def test_a_valid_path_is_not_removed_whatever_the_collector_says(
    own, package, replace_program, quote
):
    (path,) = package("kept", "a").paths
    said = shlex.join(["echo", f"error: opening {quote}{path}/a{quote}: File name too long"])
    said = f"{said} >&2; exit 1"
    lying = f'[ "$*" = --gc ] || exec $real "$@"; {said}'

    with pytest.raises(nix.NixError, match=f"^paths in {path} are too long for Nix"):
        nix.collect_garbage(replace_program(own, "nix-store", lying))

    assert nix.valid_paths(own, [path]) == {path}
