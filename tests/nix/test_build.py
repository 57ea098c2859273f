"""Building and fetching: the log, the progress, the limits, the failures, and the GC roots."""

import os
import re
import shutil
from contextlib import nullcontext
from itertools import count, groupby
from pathlib import Path

import psutil
import pytest
from sandbox import sandboxed_store
from support import at, until

import nix
from nix import (
    BuildFailed,
    DiskFull,
    HashMismatch,
    NixCrashed,
    NixUnavailable,
    Progress,
    TimedOut,
    build,
)

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


class BuildStopped(Exception):
    """Raised by a tick to end a build."""


class Trial:
    """Builds packages in a store, and records the log and the progress that `tick` gets."""

    def __init__(self, store, folder):
        self.store, self.folder = store, folder
        self.tmp, self.root = folder / "tmp", folder / "roots" / "1"
        self.options = {"build_seconds": 60, "silence_seconds": 60}
        self.log, self.progress, self.on_tick = b"", [], lambda: None

    def tick(self, log, progress):
        self.log += log
        self.progress.append(progress)
        self.on_tick()

    def realise(self, packages, output="out"):
        """Realise the package `thing` of a catalog with these packages."""
        catalog = self.folder / "catalog.nix"
        catalog.write_text(CATALOG % packages)
        found = nix.resolve(self.store, at(catalog), "thing", "1.0.0", tmp=self.tmp)
        options = self.options | {"tmp": self.tmp, "tick": self.tick}
        return nix.realise(self.store, found.drv_path, output, self.root, **options)

    def build(self, script):
        """Realise a package that this script builds."""
        (self.folder / "thing.sh").write_text(script)
        return self.realise('thing = build "thing" (builtins.readFile ./thing.sh) { };')

    def lines(self):
        """Return the lines of the log but those that announce a build."""
        return [line for line in self.log.decode().splitlines() if not line.startswith("building")]


def target(link):
    """Return the path that a symbolic link holds."""
    return str(link.readlink())


@pytest.fixture
def trial(store, tmp_path):
    """A trial in the store that all tests share, with packages that no other test builds."""
    return Trial(store, tmp_path)


def running(marker):
    """Return the processes with `marker` in their command line."""
    found = psutil.process_iter(["name", "cmdline", "status"])
    return [p for p in found if p.info["cmdline"] and marker in p.info["cmdline"]]


def test_a_built_path_is_valid_and_has_a_root(trial, store):
    path = trial.build("echo made > $out")

    assert nix.valid_paths(store, [path]) == {path}
    assert target(trial.root) == path
    assert not trial.tmp.exists()


def test_a_path_that_exists_is_not_built_again(trial):
    path = trial.build("echo made > $out")
    trial.log = b""

    assert trial.build("echo made > $out") == path
    assert trial.log == b""


def test_a_path_that_is_not_valid_is_built(trial, own):
    trial.store = own
    path = trial.build("echo made > $out")
    trial.root.unlink()
    nix.run(["nix-store", "--delete", path], environ=own.environ, seconds=60)
    Path(path).write_text("left by a build that was killed")

    assert trial.build("echo made > $out") == path
    assert Path(path).read_text() == "made\n"
    assert target(trial.root) == path


def test_a_derivation_that_is_gone_is_a_failed_build(trial, missing_path):
    with pytest.raises(BuildFailed, match="missing"):
        nix.realise(
            trial.store, f"{missing_path}.drv", "out", trial.root, tmp=trial.tmp, **trial.options
        )


def test_an_output_other_than_out_has_its_root_where_it_was_asked_for(trial):
    two = '{ outputs = [ "out" "dev" ]; }'

    path = trial.realise(f'thing = build "thing" "mkdir $out $dev" {two};', "dev")

    assert path.endswith("-thing-dev")
    assert target(trial.root) == path
    assert list(trial.root.parent.iterdir()) == [trial.root]


def test_the_progress_ends_with_building_and_rooting(trial):
    trial.build("echo made > $out")

    phases = [phase for phase, _ in groupby(trial.progress, lambda progress: progress.phase)]
    assert phases[-2:] == ["building", "rooting"]
    assert trial.progress[-1] == Progress(1, 1, "rooting")


def test_the_progress_counts_dependencies(trial):
    def on_tick():
        done, expected = trial.progress[-1].done, trial.progress[-1].expected
        (trial.folder / f"done-{done}-of-{expected}").touch()

    trial.on_tick = on_tick

    trial.realise("""
        on = name: "until [ -e ${toString ./.}/done-${name} ]; do sleep 0.01; done;";
        one = build "one" "${on "0-of-2"} echo > $out" { };
        thing = build "thing" "${on "1-of-2"} cat ${one} > $out" { };
    """)

    assert trial.progress[-1] == Progress(2, 2, "rooting")


def test_a_log_line_is_passed_on_while_its_build_runs(trial):
    def on_tick():
        if b"go on?" in trial.log:
            (trial.folder / "yes").touch()

    trial.on_tick = on_tick

    trial.build(f"echo 'go on?'; until [ -e {trial.folder}/yes ]; do sleep 0.01; done; touch $out")

    assert trial.lines() == ["go on?"]


def test_the_log_begins_with_the_derivation(trial):
    trial.build("echo one; echo two >&2; touch $out")

    first, *rest = trial.log.decode().splitlines()
    assert re.fullmatch(r"building '/\S+-thing.drv'", first)
    assert rest == ["one", "two"]


def test_the_log_is_plain_text(trial):
    trial.build(r"printf 'caf\351 \033[1;31mred\033[0m \007\000end\r\n'; touch $out")

    assert trial.lines() == ["caf\N{REPLACEMENT CHARACTER} red end"]


def test_lines_of_concurrent_builds_have_headers(trial):
    config = trial.store.environ["NIX_CONFIG"]
    trial.store = nix.Store({**trial.store.environ, "NIX_CONFIG": f"{config}\nmax-jobs = 2"})

    trial.realise("""
        go = name: "touch ${toString ./.}/${name};";
        on = name: "until [ -e ${toString ./.}/${name} ]; do sleep 0.01; done;";
        one = build "one" "echo 1; ${go "a"} ${on "b"} echo 3; ${go "c"} touch $out" { };
        two = build "two" "${on "a"} echo 2; ${go "b"} ${on "c"} touch $out" { };
        thing = build "thing" "echo ${one} ${two} > $out; echo 4" { };
    """)

    builders = {}
    for line in trial.lines():
        if line.endswith(">"):
            builder = line
        else:
            builders[line] = builder
    # Nix may read 3 before 2: what each writes is in a pipe of its own.
    assert (builders["1"], builders["2"], builders["3"]) == ("one>", "two>", "one>")


def test_the_error_of_a_failed_build_quotes_the_end_of_its_log(trial):
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


def test_the_error_of_a_failed_dependency_names_it_and_quotes_its_log(trial):
    with pytest.raises(BuildFailed) as caught:
        trial.realise("""
            one = build "one-1.5" "echo broken; exit 1" { };
            two = build "two" "cat ${one} > $out" { };
            thing = build "thing" "cat ${two} > $out" { };
        """)

    first, *rest = str(caught.value).splitlines()
    assert first.startswith("thing needs one-1.5, whose build failed: builder for '/")
    assert first.endswith("-one-1.5.drv' failed with exit code 1")
    assert rest == ["> broken"]


def test_a_long_log_line_is_quoted_in_part(trial):
    with pytest.raises(BuildFailed) as caught:
        trial.build("head -c 100000 /dev/zero | tr '\\0' x; exit 1")

    assert len(str(caught.value)) < 1000


def test_a_build_for_another_system_fails_with_the_reason(trial):
    with pytest.raises(BuildFailed, match="vax-ultrix"):
        trial.realise('thing = build "thing" "" { system = "vax-ultrix"; };')


def test_a_hash_mismatch_reports_both_hashes(trial):
    fixed = 'outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = '

    with pytest.raises(HashMismatch) as caught:
        trial.realise(f'thing = build "thing" "echo > $out" {{ {fixed} "{"0" * 52}"; }};')

    assert re.search(r"specified: +sha256-AAAA\S+=\s+got: +sha256-AbpH\S+=", str(caught.value))
    assert caught.value.code == "hash_mismatch"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root builds as other users")
def test_build_users_that_are_missing_are_no_fault_of_the_package(trial, tmp_path):
    trial.store = nix.private_store(tmp_path / "store", build_users_group="nosuchgroup")

    with pytest.raises(
        NixUnavailable, match=r"the group 'nosuchgroup' .* does not exist"
    ) as caught:
        trial.build("touch $out")

    assert "users that builds run as" in caught.value.hint


def test_a_build_on_a_full_disk_raises_disk_full(trial):
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
def test_a_build_past_a_limit_reports_its_value(trial, limit, script, reason):
    trial.options[limit] = 1

    with pytest.raises(TimedOut) as caught:
        trial.build(script)

    assert str(caught.value).startswith(reason)
    assert caught.value.code == "timed_out"


def test_a_progress_bar_counts_as_activity(trial):
    trial.options["silence_seconds"] = 1

    trial.build('for n in 1 2 3 4 5 6 7 8; do printf "$n\\r"; sleep 0.2; done; touch $out')

    assert trial.lines() == ["8"]


def test_a_long_log_is_complete(trial):
    trial.build("seq 100000; touch $out")

    assert trial.lines() == [str(n) for n in range(1, 100001)]


def test_a_line_beyond_the_limit_is_left_out(trial):
    trial.build("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo next; touch $out")

    assert trial.lines() == ["[a line of more than 1048576 bytes is left out]", "next"]


MISBEHAVED = {
    "hanging": "sleep {0}",
    "ignoring TERM, with children": "trap '' TERM; (trap '' TERM; sleep {0}) & sleep {0} & wait",
    "forked away": "setsid sh -c 'sleep {0} & wait' >/dev/null 2>&1 & sleep {0}",
}
numbers = count(100_000 + os.getpid() * 100)


@pytest.mark.parametrize("script", MISBEHAVED.values(), ids=MISBEHAVED)
def test_a_build_that_is_stopped_leaves_nothing_behind(trial, script):
    marker = str(next(numbers))

    def on_tick():
        if len(running(marker)) == script.count("{0}"):
            raise BuildStopped

    trial.on_tick = on_tick

    with pytest.raises(BuildStopped):
        trial.build(script.format(marker))

    until(lambda: not running(marker))
    assert not trial.tmp.exists()


def test_a_build_that_succeeds_leaves_nothing_behind(trial):
    marker = str(next(numbers))

    trial.build(f"setsid sleep {marker} >/dev/null 2>&1 & touch $out")

    until(lambda: not running(marker))


# Without environment, session and folder of the build, and without a parent that could be followed.
HIDDEN = "(setsid env -i sh -c 'cd /; sleep {0}' >/dev/null 2>&1 &)"


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("sleep 60", BuildStopped),
        ("trap '' TERM; sleep 60", BuildStopped),
        ("sleep 60 # too long", TimedOut),
        ("exit 3", BuildFailed),
        ("touch $out", None),
    ],
)
def test_processes_that_hide_from_a_build_end_with_it(trial, end, error):
    marker = str(next(numbers))
    if error is TimedOut:
        trial.options["build_seconds"] = 1

    def on_tick():
        if error is BuildStopped and running(marker):
            raise BuildStopped

    trial.on_tick = on_tick

    with pytest.raises(error) if error else nullcontext():
        trial.build(f"{HIDDEN.format(marker)}; sleep 0.3; {end}")

    assert not [process for process in running(marker) if process.info["name"] == "sleep"]


def test_a_stopped_build_can_be_started_again(trial):
    def on_tick():
        if b"started" in trial.log:
            raise BuildStopped

    script = f"echo started; until [ -e {trial.folder}/go ]; do sleep 0.01; done; touch $out"
    trial.on_tick = on_tick
    with pytest.raises(BuildStopped):
        trial.build(script)

    (trial.folder / "go").touch()
    trial.on_tick = lambda: None
    path = trial.build(script)

    assert target(trial.root) == path


def test_a_crash_of_nix_names_the_signal(trial, replace_program):
    trial.store = replace_program(trial.store, "nix-build", "kill -SEGV $$")

    with pytest.raises(NixCrashed, match="nix-build was ended by SIGSEGV"):
        trial.build("touch $out")


def test_a_nix_that_ignores_its_limit_is_ended(trial, replace_program, monkeypatch):
    monkeypatch.setattr("nix.build.MARGIN_SECONDS", -0.5)
    trial.options["build_seconds"] = 1
    script = "echo stuck >&2; while :; do sleep 0.1; done"
    trial.store = replace_program(trial.store, "nix-build", script)

    with pytest.raises(TimedOut, match=r"^it ran longer than 0\.5 s\n> stuck$"):
        trial.build("touch $out")


def test_a_failure_without_a_message_reports_the_exit_code(trial, replace_program):
    trial.store = replace_program(trial.store, "nix-build", "echo last words >&2; exit 9")

    with pytest.raises(BuildFailed, match=r"^nix-build ended with exit code 9\n> last words$"):
        trial.build("touch $out")


@pytest.mark.parametrize("written", ["", "/tmp/elsewhere", r"\377"])
def test_a_build_that_names_no_store_path_is_an_error(trial, replace_program, written):
    trial.store = replace_program(trial.store, "nix-build", f"printf '{written}'")

    with pytest.raises(nix.NixError, match=r"no store path|not UTF-8"):
        trial.build("touch $out")


@pytest.mark.parametrize(
    ("mode", "settings", "is_asked"),
    [(0o755, {}, True), (0o644, {}, False), (0o755, {"builders": "@/nowhere"}, False)],
    ids=["none", "hook that can't run", "in its configuration"],
)
def test_nix_is_told_where_there_are_no_other_machines(
    trial, tmp_path, monkeypatch, mode, settings, is_asked
):
    hook, asked = tmp_path / "hook", tmp_path / "asked"
    hook.write_text(f"#!/bin/sh\ntouch {asked}\nexec {build.NO_BUILDERS}\n")
    hook.chmod(mode)
    monkeypatch.setattr(build, "NO_BUILDERS", hook)
    trial.store = nix.private_store(
        Path(trial.store.environ["NIX_STATE_DIR"]).parents[1], **settings
    )

    path = trial.build("echo made >$out")

    assert Path(path).read_text() == "made\n"
    assert asked.exists() is is_asked


def test_builders_can_be_other_machines(trial):
    trial.store = sandboxed_store(trial.folder / "store")
    trial.options["builders"] = f"ssh-ng://localhost?remote-store={trial.folder}/other builtin"
    buildenv = 'system = "builtin"; builder = "builtin:buildenv"; derivations = [ ]'

    path = trial.realise(f"""
        thing = build "thing" "" {{ {buildenv}; manifest = builtins.toFile "manifest" ""; }};
    """)

    assert list(trial.folder.glob(f"other/**/store/{Path(path).name}"))
    assert nix.valid_paths(trial.store, [path]) == {path}


def test_a_path_that_is_missing_from_the_disk_is_built_again(trial, own):
    trial.store = own
    path = trial.build("echo made > $out")
    os.unlink(path)
    assert nix.valid_paths(own, [path]) == set()

    trial.progress.clear()
    assert trial.build("echo made > $out") == path

    assert Path(path).read_text() == "made\n"
    assert Progress(0, 1, "building") in trial.progress


def test_a_path_that_can_not_be_built_again_is_a_failed_build(own, package):
    (path,) = package("one", "file").paths
    os.chmod(path, 0o700)
    shutil.rmtree(path)

    with pytest.raises(BuildFailed, match=path):
        nix.restore(own, path)


def test_a_path_that_is_not_in_the_store_is_not_restored(own, missing_path):
    nix.restore(own, missing_path)

    assert not os.path.lexists(missing_path)


def test_the_valid_paths_are_those_in_the_store(own, package, missing_path, monkeypatch):
    monkeypatch.setattr("nix.store.PATHS_PER_CALL", 2)
    paths = {package(name, "file").paths[0] for name in ("a", "b", "c")}

    assert nix.valid_paths(own, [*paths, missing_path]) == paths
    assert nix.valid_paths(own, []) == set()


def test_paths_outside_the_store_are_not_valid(own):
    elsewhere = f"/nix/store/{'0' * 32}-elsewhere"

    assert nix.valid_paths(own, [elsewhere, "relative", "/", f"{own.directory}/x"]) == set()


def test_a_root_keeps_a_store_path_alive(own, package, root_of, tmp_path):
    one = package("one", "a")

    nix.add_root(own, one.paths[0], tmp_path / "more" / "root")
    root_of(one).unlink()
    nix.collect_garbage(own)

    assert nix.valid_paths(own, one.paths) == set(one.paths)


def test_a_root_of_a_missing_path_is_an_error(own, missing_path, tmp_path):
    with pytest.raises(nix.NixError, match=missing_path):
        nix.add_root(own, missing_path, tmp_path / "root")

    assert not os.path.lexists(tmp_path / "root")
