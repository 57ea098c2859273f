"""Building and fetching: the log, the progress, the limits, and what goes wrong."""

import os
import re
from itertools import count, groupby
from pathlib import Path

import psutil
import pytest
from conftest import until
from sandbox import sandboxed_store

import nix
from nix import BuildFailed, DiskFull, HashMismatch, NixCrashed, Progress, TimedOut

CATALOG = """
let
  build = name: script: more: derivation ({
    inherit name;
    version = "1.0.0";
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" script ];
    PATH = "/usr/bin:/bin";
    fresh = toString ./.;
  } // more);
in
rec { %s }
"""


class Stop(Exception):
    """What a tick raises in these tests."""


class Trial:
    """Builds packages in a store, and keeps what the ticks told."""

    def __init__(self, store, folder):
        self.store, self.folder = store, folder
        self.tmp, self.root = folder / "tmp", folder / "roots" / "1"
        self.options = {"build_seconds": 60, "silence_seconds": 60}
        self.log, self.progress, self.heard = b"", [], lambda: None

    def tick(self, log, progress):
        self.log += log
        self.progress.append(progress)
        self.heard()

    def realise(self, packages, output="out"):
        """Realise the package `thing` of a catalog with these packages."""
        catalog = self.folder / "catalog.nix"
        catalog.write_text(CATALOG % packages)
        found = nix.resolve(self.store, [str(catalog)], "thing", "1.0.0", tmp=self.tmp)
        options = self.options | {"tmp": self.tmp, "tick": self.tick}
        return nix.realise(self.store, found.drv_path, output, self.root, **options)

    def build(self, script):
        """Realise a package that this script builds."""
        (self.folder / "thing.sh").write_text(script)
        return self.realise('thing = build "thing" (builtins.readFile ./thing.sh) { };')

    def said(self):
        """Return the lines of the log, without those that each build begins with."""
        return [line for line in self.log.decode().splitlines() if not line.startswith("building")]


@pytest.fixture
def trial(store, tmp_path):
    """A trial in the shared store; its packages are new to it."""
    return Trial(store, tmp_path)


def running(marker):
    """Return the processes that have `marker` in their command line."""
    found = psutil.process_iter(["cmdline", "status"])
    return [p for p in found if p.info["cmdline"] and marker in p.info["cmdline"]]


def test_what_is_built_is_valid_and_rooted(trial, store):
    path = trial.build("echo made > $out")

    assert nix.valid_paths(store, [path]) == {path}
    assert trial.root.readlink().as_posix() == path
    assert not trial.tmp.exists()


def test_what_is_built_already_is_returned_at_once(trial):
    path = trial.build("echo made > $out")
    trial.log = b""

    assert trial.build("echo made > $out") == path
    assert trial.log == b""


def test_another_output_has_a_root_of_its_own(trial):
    two = '{ outputs = [ "out" "dev" ]; }'

    path = trial.realise(f'thing = build "thing" "mkdir $out $dev" {two};', "dev")

    assert path.endswith("-thing-dev")
    assert trial.root.readlink().as_posix() == path
    assert list(trial.root.parent.iterdir()) == [trial.root]


def test_the_progress_ends_with_building_and_rooting(trial):
    trial.build("echo made > $out")

    phases = [phase for phase, _ in groupby(trial.progress, lambda progress: progress.phase)]
    assert phases[-2:] == ["building", "rooting"]
    assert trial.progress[-1] == Progress(1, 1, "rooting")


def test_the_progress_counts_what_is_needed_too(trial):
    def heard():
        done, expected = trial.progress[-1].done, trial.progress[-1].expected
        (trial.folder / f"done-{done}-of-{expected}").touch()

    trial.heard = heard

    trial.realise("""
        on = name: "until [ -e ${toString ./.}/done-${name} ]; do sleep 0.01; done;";
        one = build "one" "${on "0-of-2"} echo > $out" { };
        thing = build "thing" "${on "1-of-2"} cat ${one} > $out" { };
    """)

    assert trial.progress[-1] == Progress(2, 2, "rooting")


def test_a_log_line_is_told_while_its_build_goes_on(trial):
    def heard():
        if b"go on?" in trial.log:
            (trial.folder / "yes").touch()

    trial.heard = heard

    trial.build(f"echo 'go on?'; until [ -e {trial.folder}/yes ]; do sleep 0.01; done; touch $out")

    assert trial.said() == ["go on?"]


def test_the_log_begins_with_what_is_built(trial):
    trial.build("echo one; echo two >&2; touch $out")

    first, *rest = trial.log.decode().splitlines()
    assert re.fullmatch(r"building '/\S+-thing.drv'", first)
    assert rest == ["one", "two"]


def test_the_log_is_plain_text(trial):
    trial.build(r"printf 'caf\351 \033[1;31mred\033[0m \007\000end\r\n'; touch $out")

    assert trial.said() == ["caf\N{REPLACEMENT CHARACTER} red end"]


def test_the_lines_of_several_builds_are_told_apart(trial):
    config = trial.store.environ["NIX_CONFIG"]
    trial.store = nix.Store({**trial.store.environ, "NIX_CONFIG": f"{config}\nmax-jobs = 2"})

    trial.realise("""
        go = name: "touch ${toString ./.}/${name};";
        on = name: "until [ -e ${toString ./.}/${name} ]; do sleep 0.01; done;";
        one = build "one" "echo 1; ${go "a"} ${on "b"} echo 3; ${go "c"} touch $out" { };
        two = build "two" "${on "a"} echo 2; ${go "b"} ${on "c"} touch $out" { };
        thing = build "thing" "echo ${one} ${two} > $out; echo 4" { };
    """)

    assert trial.said()[-5:] == ["two>", "2", "one>", "3", "4"]


def test_a_failed_build_tells_the_end_of_its_log(trial):
    with pytest.raises(BuildFailed) as caught:
        trial.build("for n in $(seq 12); do echo step $n; done; exit 3")

    reason, *quoted = str(caught.value).splitlines()
    assert re.fullmatch(r"builder for '/\S+-thing.drv' failed with exit code 3", reason)
    assert quoted == [f"> step {n}" for n in range(3, 13)]
    assert (caught.value.code, bool(caught.value.hint)) == ("build_failed", True)


def test_a_failure_is_in_the_log_too(trial):
    with pytest.raises(BuildFailed):
        trial.build("exit 3")

    assert trial.log.endswith(b"failed with exit code 3\n")


def test_a_failed_dependency_is_named_with_its_log(trial):
    with pytest.raises(BuildFailed) as caught:
        trial.realise("""
            one = build "one" "echo broken; exit 1" { };
            thing = build "thing" "cat ${one} > $out" { };
        """)

    assert "one.drv' failed with exit code 1" in str(caught.value)
    assert str(caught.value).endswith("> broken")


def test_a_long_log_line_is_quoted_in_part(trial):
    with pytest.raises(BuildFailed) as caught:
        trial.build("head -c 100000 /dev/zero | tr '\\0' x; exit 1")

    assert len(str(caught.value)) < 1000


def test_a_build_for_another_system_fails_with_the_reason(trial):
    with pytest.raises(BuildFailed, match="vax-ultrix"):
        trial.realise('thing = build "thing" "" { system = "vax-ultrix"; };')


def test_a_wrong_hash_is_told_with_both_hashes(trial):
    fixed = 'outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = '

    with pytest.raises(HashMismatch) as caught:
        trial.realise(f'thing = build "thing" "echo > $out" {{ {fixed} "{"0" * 52}"; }};')

    assert re.search(r"specified: +sha256-AAAA\S+=\s+got: +sha256-AbpH\S+=", str(caught.value))
    assert caught.value.code == "hash_mismatch"


def test_a_full_disk_is_told_as_such(trial):
    with pytest.raises(DiskFull) as caught:
        trial.build("seq 9 > /dev/full")

    assert "No space left on device" in str(caught.value)
    assert caught.value.code == "disk_full"


@pytest.mark.parametrize(
    ("limit", "script", "reason"),
    [
        ("silence_seconds", "echo one; sleep 30", "it wrote nothing for 1 s\n> one"),
        ("build_seconds", "while :; do echo; sleep 0.1; done", "it ran longer than 1 s\n> \n"),
    ],
)
def test_a_limit_is_told_with_its_value(trial, limit, script, reason):
    trial.options[limit] = 1

    with pytest.raises(TimedOut) as caught:
        trial.build(script)

    assert str(caught.value).startswith(reason)
    assert caught.value.code == "timed_out"


def test_a_progress_bar_is_a_sign_of_life(trial):
    trial.options["silence_seconds"] = 1

    trial.build('for n in 1 2 3 4 5 6 7 8; do printf "$n\\r"; sleep 0.2; done; touch $out')

    assert trial.said() == ["8"]


def test_a_flood_of_log_is_borne(trial):
    trial.build("seq 100000; touch $out")

    assert trial.said() == [str(n) for n in range(1, 100001)]


def test_a_line_that_is_far_too_long_is_left_out(trial):
    trial.build("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo next; touch $out")

    assert trial.said() == ["[a line of more than 1048576 bytes is left out]", "next"]


MISBEHAVED = {
    "hanging": "sleep {0}",
    "ignoring TERM, with children": "trap '' TERM; (trap '' TERM; sleep {0}) & sleep {0} & wait",
    "forked away": "setsid sh -c 'sleep {0} & wait' >/dev/null 2>&1 & sleep {0}",
}
numbers = count(100_000 + os.getpid() * 100)


@pytest.mark.parametrize("script", MISBEHAVED.values(), ids=MISBEHAVED)
def test_a_build_that_is_stopped_leaves_nothing_behind(trial, script):
    marker = str(next(numbers))

    def heard():
        if len(running(marker)) == script.count("{0}"):
            raise Stop

    trial.heard = heard

    with pytest.raises(Stop):
        trial.build(script.format(marker))

    until(lambda: not running(marker))
    assert not trial.tmp.exists()


def test_a_build_that_succeeds_leaves_nothing_behind(trial):
    marker = str(next(numbers))

    trial.build(f"setsid sleep {marker} >/dev/null 2>&1 & touch $out")

    until(lambda: not running(marker))


def test_a_stopped_build_can_be_started_again(trial):
    def heard():
        if b"started" in trial.log:
            raise Stop

    script = f"echo started; until [ -e {trial.folder}/go ]; do sleep 0.01; done; touch $out"
    trial.heard = heard
    with pytest.raises(Stop):
        trial.build(script)

    (trial.folder / "go").touch()
    trial.heard = lambda: None

    assert trial.build(script)


@pytest.fixture
def fake(trial):
    """Return a function that puts a program of that name and script before the real one."""

    def fake(name, script):
        folder = trial.folder / "bin"
        folder.mkdir()
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
        path = f"{folder}:{trial.store.environ['PATH']}"
        trial.store = nix.Store({**trial.store.environ, "PATH": path})

    return fake


def test_a_crash_of_nix_is_told_as_such(trial, fake):
    fake("nix-build", "kill -SEGV $$")

    with pytest.raises(NixCrashed, match="nix-build was ended by SIGSEGV"):
        trial.build("touch $out")


def test_a_nix_that_does_not_keep_its_own_limit_is_ended(trial, fake, monkeypatch):
    monkeypatch.setattr(nix, "MARGIN_SECONDS", -0.5)
    trial.options["build_seconds"] = 1
    fake("nix-build", "echo stuck >&2; while :; do sleep 0.1; done")

    with pytest.raises(TimedOut, match=r"^it ran longer than 0\.5 s\n> stuck$"):
        trial.build("touch $out")


def test_a_failure_without_words_is_told_with_its_code(trial, fake):
    fake("nix-build", "echo last words >&2; exit 9")

    with pytest.raises(BuildFailed, match=r"^nix-build ended with exit code 9\n> last words$"):
        trial.build("touch $out")


def test_builds_go_to_other_machines(trial):
    trial.store = sandboxed_store(trial.folder / "store")
    trial.options["builders"] = f"ssh-ng://localhost?remote-store={trial.folder}/other builtin"
    buildenv = 'system = "builtin"; builder = "builtin:buildenv"; derivations = [ ]'

    path = trial.realise(f"""
        thing = build "thing" "" {{ {buildenv}; manifest = builtins.toFile "manifest" ""; }};
    """)

    assert list(trial.folder.glob(f"other/**/store/{Path(path).name}"))
    assert nix.valid_paths(trial.store, [path]) == {path}
