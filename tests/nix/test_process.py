"""Running one command: its output, its limits, and that it leaves nothing behind."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from support import MEASURED, no_descriptors, until

import nix
from nix import (
    Completed,
    NixCrashed,
    NixKilled,
    NixMissing,
    NixUnavailable,
    Priority,
    TimedOut,
    process,
    reaping,
    run,
    sweep,
)
from nix.process import scratch

ROOT = Path(nix.__file__).parent.parent


@pytest.fixture(autouse=True)
def _measured_reaper(monkeypatch):
    """Have coverage measure the reaper, which looks at no PYTHONPATH and no site-packages."""
    if settings := os.environ.get("COVERAGE_AFTER_IMPORTS"):
        monkeypatch.setenv("COVERAGE_PROCESS_CONFIG", settings)
        monkeypatch.setattr(reaping, "REAPER", MEASURED / "reaper.py")


@pytest.fixture(autouse=True)
def _reapers(_measured_reaper, monkeypatch):
    """Have the reapers of a test forked by a program of its own, which ends with the test."""
    with closing(reaping.Reapers()) as reapers:
        monkeypatch.setattr(reaping, "reapers", reapers)
        yield


class CommandStopped(Exception):
    """Raised by a tick to end a command."""


def sh(script, **options):
    """Run a shell script by nix.run."""
    return run(["sh", "-c", script], **{"environ": os.environ, "seconds": 30} | options)


def is_running(pid):
    """Tell whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pids_in(folder):
    """Return the process ids that scripts have written down as names of files."""
    return [int(file.name) for file in folder.iterdir()]


def command_of(process):
    """Return the command line of a process; nothing of one that has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def stop_when(condition):
    """Return a tick that ends the command as soon as `condition` is true."""

    def heard(lines):
        if condition():
            raise CommandStopped

    return heard


@pytest.fixture
def pids(tmp_path):
    """A folder in which scripts write down process ids."""
    folder = tmp_path / "pids"
    folder.mkdir()
    return folder


def test_a_command_returns_its_exit_code_and_its_output():
    done = sh("echo out; echo err >&2; exit 3")

    assert done == Completed(3, b"out\n", b"err\n")


def test_the_input_of_a_command_is_empty():
    assert sh("cat").stdout == b""


def test_lines_are_passed_on_whole_and_in_order():
    heard = []

    sh("printf 'one\\ntw' >&2; printf 'o\\n\\nlast' >&2", heard=heard.extend)

    assert heard == [b"one", b"two", b"", b"last"]


def test_lines_are_passed_on_while_the_command_runs(tmp_path):
    def heard(lines):
        if b"go on?" in lines:
            (tmp_path / "yes").touch()

    done = sh(f"echo 'go on?' >&2; until [ -e {tmp_path}/yes ]; do sleep 0.01; done", heard=heard)

    assert done.code == 0


def test_a_silent_command_is_ticked(tmp_path):
    ticks = []

    def heard(lines):
        ticks.append(lines)
        if len(ticks) == 3:
            (tmp_path / "enough").touch()

    sh(f"until [ -e {tmp_path}/enough ]; do sleep 0.01; done", heard=heard)

    assert ticks[:3] == [[], [], []]


def test_long_output_is_passed_on_in_small_batches_and_only_its_end_is_kept():
    batches = []

    done = sh("yes | head -c 20000000 >&2", heard=lambda lines: batches.append(len(lines)))

    assert sum(batches) == 10_000_000
    assert max(batches) <= process.FINAL_READS * process.CHUNK_BYTES / 2
    assert len(done.stderr) == process.TAIL_BYTES


def test_a_very_long_line_is_cut():
    heard = []

    sh("head -c 5000000 /dev/zero >&2; echo >&2; echo next >&2", heard=heard.extend)

    assert [len(line) for line in heard] == [process.LINE_BYTES, len("next")]


def test_a_command_that_closes_its_output_runs_to_its_end():
    assert sh("exec >&- 2>&-; sleep 0.3; exit 7").code == 7


def test_run_does_not_wait_for_a_child_that_holds_the_output_open(pids):
    done = sh(f"sleep 60 & touch {pids}/$!")

    (left,) = pids_in(pids)
    assert done.code == 0
    assert is_running(left)
    os.kill(left, signal.SIGKILL)


def test_run_does_not_wait_for_a_child_that_keeps_writing(pids, monkeypatch):
    monkeypatch.setattr(process, "FINAL_READS", 0)

    assert sh(f"yes >&2 & touch {pids}/$!").code == 0

    until(lambda: not is_running(pids_in(pids)[0]))


def test_a_lower_priority_counts_against_other_sessions_too():
    # Users other than root may change a group's only ten times a second.
    script = """
        can_tell() { [ "$(id -u)" = 0 ] && [ -e /proc/self/autogroup ]; }
        for _ in $(seq 500); do
            [ "$(nice)" = 7 ] && { ! can_tell || grep 'nice 7$' /proc/self/autogroup; } && exit
            sleep 0.01
        done
        exit 1
    """
    assert sh(script, priority=Priority(niceness=7)).code == 0


def test_a_command_with_a_share_is_stopped_in_turns_and_loses_nothing(pids):
    script = f"touch {pids}/$$; for n in $(seq 500); do echo $n >&2; sleep 0.002; done"

    with ThreadPoolExecutor() as pool:
        running = pool.submit(sh, script, priority=Priority(share=lambda: 0.5))
        (pid,) = until(lambda: pids_in(pids))
        until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)

    assert running.result().stderr.split() == [b"%d" % number for number in range(1, 501)]


def test_a_command_with_a_share_is_not_stopped_for_long_after_a_listener_that_was_slow(monkeypatch):
    monkeypatch.setattr(process, "LONGEST_PAUSE_SECONDS", 0.1)

    # Without a bound it would be stopped for 50 s, and so time out.
    done = sh("sleep 0.1", heard=lambda _: time.sleep(0.1), priority=Priority(share=lambda: 0.002))

    assert done.code == 0


def test_a_command_that_is_stopped_in_its_turn_ends_with_its_children(pids):
    script = f"touch {pids}/$$; sleep 60 & touch {pids}/$!; while :; do echo >&2; done"

    with pytest.raises(CommandStopped):
        sh(
            script,
            grace_seconds=0,
            heard=stop_when(lambda: len(pids_in(pids)) == 2),
            priority=Priority(share=lambda: 0.5),
        )

    until(lambda: not any(map(is_running, pids_in(pids))))


@pytest.mark.parametrize("is_build", [False, True])
def test_a_command_that_can_not_be_watched_does_not_run_on(tmp_path, monkeypatch, is_build):
    def refuse():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(process.selectors, "DefaultSelector", refuse)

    with pytest.raises(NixUnavailable, match="Too many open files"):
        sh(f"sleep 60 # {tmp_path}", is_build=is_build)

    until(lambda: not [one for one in psutil.process_iter() if str(tmp_path) in command_of(one)])


def test_a_command_ends_at_its_bound_of_cpu():
    with pytest.raises(TimedOut, match=r"more than 0\.1 s of CPU"):
        sh("while :; do :; done", cpu_seconds=0.1)


def test_a_command_that_runs_too_long_is_ended():
    with pytest.raises(TimedOut, match=r"ran longer than 0\.3 s"):
        sh("while :; do echo; sleep 0.02; done", seconds=0.3)


def test_an_exception_of_a_tick_ends_the_command_and_reaches_the_caller(pids):
    with pytest.raises(CommandStopped):
        sh(f"touch {pids}/$$; sleep 60", heard=stop_when(lambda: pids_in(pids)))

    (pid,) = pids_in(pids)
    assert not is_running(pid)


def test_a_command_that_ignores_term_is_killed_with_its_children(pids):
    script = f"trap '' TERM; touch {pids}/$$; sleep 60 & touch {pids}/$!; setsid sleep 60"

    with pytest.raises(CommandStopped):
        sh(
            f"{script} & touch {pids}/$!; wait",
            grace_seconds=0.3,
            heard=stop_when(lambda: len(pids_in(pids)) == 3),
        )

    until(lambda: not any(map(is_running, pids_in(pids))))


def test_a_command_without_a_grace_is_killed_at_once(tmp_path):
    with pytest.raises(TimedOut):
        sh(f"trap 'touch {tmp_path}/asked' TERM; sleep 60", seconds=0.2, grace_seconds=0)

    assert list(tmp_path.iterdir()) == []


def test_a_command_can_write_while_it_is_being_ended(tmp_path):
    script = f"trap 'head -c 300000 /dev/zero >&2; touch {tmp_path}/ended; exit' TERM"

    with pytest.raises(TimedOut):
        sh(f"{script}; while :; do sleep 0.05; done", seconds=0.3)

    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize("options", [{}, {"is_brief": True}, {"is_build": True}])
def test_a_missing_program_is_named(tmp_path, options):
    (tmp_path / "setpriv").symlink_to(shutil.which("setpriv"))

    with pytest.raises(NixMissing, match="nix-build is not on PATH"):
        run(["nix-build"], environ={"PATH": str(tmp_path)}, seconds=1, **options)


@pytest.mark.parametrize(
    ("number", "name"),
    [("SEGV", "SIGSEGV"), ("60", "signal 60"), ("KILL", "SIGKILL; out of memory is likely")],
)
def test_a_crash_names_the_program_and_the_signal(number, name):
    with pytest.raises(NixCrashed, match=f"sh was ended by {name}"):
        sh(f"kill -{number} $$")


def test_a_command_ends_when_the_service_is_killed(pids):
    program = f"""
        import os, threading, nix
        argv = ["sh", "-c", "touch {pids}/$$; exec sleep 60"]
        threading.Thread(
            target=nix.run, args=[argv], kwargs=dict(environ=os.environ, seconds=60)
        ).start()
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT) as service:
        (pid,) = until(lambda: pids_in(pids))
        service.kill()

    until(lambda: not is_running(pid))


# --- Builds ---


def hiding(folder):
    """Return a script that starts a process which hides, and writes down its id in the folder."""
    return f"(setsid env -i PATH=$PATH sh -c 'cd /; touch {folder}/$$; exec sleep 60' >&- 2>&- &)"


def test_the_processes_that_a_build_leaves_are_ended(pids):
    done = sh(f"{hiding(pids)}; sleep 0.3; echo out; exit 7", is_build=True)

    assert done == Completed(7, b"out\n", b"")
    assert not any(map(is_running, pids_in(pids)))


def test_a_build_that_ignores_term_is_killed_after_the_grace(pids):
    script = f"trap '' TERM; {hiding(pids)}; touch {pids}/$$; while :; do sleep 0.05; done"

    with pytest.raises(CommandStopped):
        sh(
            script,
            is_build=True,
            grace_seconds=0.3,
            heard=stop_when(lambda: len(pids_in(pids)) == 2),
        )

    assert not any(map(is_running, pids_in(pids)))


def test_a_crash_of_a_build_names_the_signal():
    with pytest.raises(NixCrashed, match="sh was ended by SIGSEGV"):
        sh("kill -SEGV $$", is_build=True)


def to_reaper(pids, action):
    """Return a tick that does something to the reaper, once the build has written down its id."""

    def heard(lines):
        while pid := next(iter(pids_in(pids)), None):
            (pids / str(pid)).unlink()
            reaper = psutil.Process(pid).parent()
            action(reaper)

    return heard


def test_builds_at_the_same_time_end_only_what_they_left_themselves(pids):
    def first(lines):
        if b"hides" in lines:
            sh(f"{hiding(pids)}", is_build=True)

    script = (
        f"{hiding(pids)}; until [ $(ls {pids} | wc -l) = 1 ]; do sleep 0.01; done; echo hides >&2"
    )
    check = f"sleep 0.1; kill -0 $(ls -tr {pids} | head -1)"

    assert sh(f"{script}; {check}", is_build=True, heard=first).code == 0
    assert not any(map(is_running, pids_in(pids)))


def test_a_build_of_which_the_reaper_is_killed_counts_as_killed(pids):
    left = []

    def kill(reaper):
        left.extend(reaper.children())
        reaper.kill()

    with pytest.raises(NixKilled):
        sh(f"touch {pids}/$$; exec sleep 60", is_build=True, heard=to_reaper(pids, kill))

    until(lambda: not any(is_running(process.pid) for process in left))


def test_a_build_ends_when_its_reaper_gets_term(pids):
    with pytest.raises(NixCrashed, match="SIGTERM"):
        sh(
            f"touch {pids}/$$; exec sleep 60",
            is_build=True,
            heard=to_reaper(pids, psutil.Process.terminate),
        )


def test_a_reaper_that_hangs_is_killed_with_its_build(pids, monkeypatch):
    monkeypatch.setattr(process, "REAP_SECONDS", 0.3)
    left = []

    def stop(reaper):
        left.extend([reaper, *reaper.children()])
        reaper.suspend()
        raise CommandStopped

    with pytest.raises(CommandStopped):
        sh(
            f"touch {pids}/$$; exec sleep 60",
            is_build=True,
            grace_seconds=0.1,
            heard=to_reaper(pids, stop),
        )

    until(lambda: not any(is_running(process.pid) for process in left))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_builds_go_on_when_the_process_that_forks_reapers_has_ended(number):
    forking = int(sh("awk '{print $4}' /proc/$PPID/stat", is_build=True).stdout)
    os.kill(forking, number)
    until(lambda: not is_running(forking))

    assert sh("exit 7", is_build=True).code == 7


READING = """
import os, socket
_, [build, *_], _, _ = socket.recv_fds(socket.socket(fileno=os.dup(0)), 1, 3)
socket.socket(fileno=build).makefile().readline()
"""


@pytest.mark.parametrize("program", ["", READING])
def test_a_program_of_reapers_that_ends_at_once_is_the_hosts_fault(tmp_path, monkeypatch, program):
    (tmp_path / "reaper.py").write_text(program)
    monkeypatch.setattr(reaping, "REAPER", tmp_path / "reaper.py")

    with pytest.raises(NixUnavailable, match="sh can't be started: "):
        sh("true", is_build=True)


def test_a_build_whose_program_cannot_be_executed_ends_with_127(tmp_path):
    (tmp_path / "sh").write_text("#!/nowhere\n")
    (tmp_path / "sh").chmod(0o755)
    (tmp_path / "setpriv").symlink_to(shutil.which("setpriv"))
    sh("true", is_build=True)

    assert sh("true", environ={"PATH": str(tmp_path)}, is_build=True).code == 127


def test_a_build_has_its_temporary_folder_and_its_reaper_has_none(tmp_path):
    environ = {**os.environ, "TMPDIR": str(tmp_path / "one")}
    script = "echo $TMPDIR; tr '\\0' '\\n' </proc/$PPID/environ | grep -c ^TMPDIR="

    assert sh(script, environ=environ, is_build=True).stdout.split() == [
        str(tmp_path / "one").encode(),
        b"0",
    ]


def test_a_build_ends_with_what_hides_when_the_service_is_killed(pids):
    program = f"""
        import os, threading, nix
        argv = ["sh", "-c", {f"{hiding(pids)}; touch {pids}/$$; sleep 60"!r}]
        options = dict(environ=os.environ, seconds=60, is_build=True)
        threading.Thread(target=nix.run, args=[argv], kwargs=options).start()
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT) as service:
        until(lambda: len(pids_in(pids)) == 2)
        service.kill()

    until(lambda: not any(map(is_running, pids_in(pids))))


DEEP = (
    "mkdir {0}/tmp; cd {0}/tmp; i=0; while [ $i -lt 1300 ]; do mkdir d; cd -P d; i=$((i + 1)); done"
)


def test_a_scratch_directory_starts_empty_and_is_removed(tmp_path):
    place = tmp_path / "tmp" / "one"
    place.mkdir(parents=True)
    (place / "left").touch()

    with scratch(place) as folder:
        assert list(folder.iterdir()) == []
        (folder / "new").touch()

    assert not place.exists()


def test_a_sweep_removes_read_only_directories(tmp_path):
    inner = tmp_path / "tmp" / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "file").touch()
    (inner / "link").symlink_to(tmp_path)
    for folder in (inner, inner.parent):
        folder.chmod(0o500)

    sweep(tmp_path / "tmp")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("long_paths")
def test_a_sweep_removes_a_tree_of_1300_levels(tmp_path):
    subprocess.run(["sh", "-c", DEEP.format(tmp_path)], check=True)

    sweep(tmp_path / "tmp")

    assert list(tmp_path.iterdir()) == []


def test_a_sweep_kills_processes_that_have_detached_themselves(tmp_path, pids):
    for name in ("inside", "outside"):
        (pids / name).mkdir()
        script = f"setsid sh -c 'touch {pids / name}/$$; exec sleep 60' >&- 2>&- &"
        sh(script, environ={**os.environ, "TMPDIR": f"{tmp_path}/{name}/nix-build-x-0"})
    (inside,) = until(lambda: pids_in(pids / "inside"))
    (outside,) = until(lambda: pids_in(pids / "outside"))

    sweep(tmp_path / "inside")

    until(lambda: not is_running(inside))
    assert is_running(outside)
    os.kill(outside, signal.SIGKILL)


def test_a_sweep_kills_a_process_in_the_group_of_the_tests_alone(tmp_path):
    environ = {**os.environ, "TMPDIR": str(tmp_path / "one")}
    with subprocess.Popen(["sleep", "60"], env=environ) as left:
        sweep(tmp_path / "one")

        assert not is_running(left.pid)


def test_a_sweep_ends_even_if_processes_remain(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "SWEEPS", 1)
    environ = {**os.environ, "NIX_BUILD_TOP": str(tmp_path / "one")}
    with subprocess.Popen(["sleep", "60"], env=environ, start_new_session=True):
        sweep(tmp_path / "one")

    assert not (tmp_path / "one").exists()


def test_a_command_that_cannot_be_started_for_want_of_descriptors_is_the_hosts_fault():
    with no_descriptors(), pytest.raises(NixUnavailable, match="sh can't be started: Too many"):
        run(["sh", "-c", "true"], environ=dict(os.environ), seconds=10)
