"""Processes: run one command, watch it, limit it, and end it with all that it started."""

import logging
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from nix import trees
from nix.errors import NixCrashed, NixKilled, NixMissing, NixUnavailable, TimedOut
from nix.reaping import Build

TICK_SECONDS = 0.25
NO_SUCH_PROGRAM = 127  # the exit code of setpriv and the reaper
GRACE_SECONDS = 3
REAP_SECONDS = 3
CHUNK_BYTES = 256 * 1024
TAIL_BYTES = 64 * 1024
LINE_BYTES = 1024 * 1024
# From output that flows, more is read at a time after such a pause, in which the pipe doesn't fill.
FLOWING_LINES, GATHER_SECONDS = 20, 0.01
FINAL_READS = 16
SWEEPS = 20
TURN_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 1.5  # of one that may hold a lock of the store, and hears of no end

SIGNALS = {number.value: number.name for number in signal.Signals}

log = logging.getLogger(__name__)

Heard = Callable[[list[bytes]], None]


@dataclass(eq=False)
class Priority:
    """How commands that run one after another share the host's processors with all else.

    `niceness` is what their priority is lowered to, 19 at most. `share` returns the part of the
    time in which they may run at present: after each turn of TURN_SECONDS they are stopped for the
    rest. For whatever the niceness is, Linux lets a program go on for up to 4 ms before one that
    wakes up gets the processor.
    """

    niceness: int = 0
    share: Callable[[], float] = lambda: 1
    _resumed_at: float = field(default_factory=time.monotonic, init=False)

    def rest(self, group: int) -> None:
        """Stop a group of processes for a while, if their turn is over."""
        turn = time.monotonic() - self._resumed_at
        if turn < TURN_SECONDS:
            return
        pause = turn * (1 / self.share() - 1)
        if pause:
            os.killpg(group, signal.SIGSTOP)
            time.sleep(min(pause, LONGEST_PAUSE_SECONDS))
            os.killpg(group, signal.SIGCONT)
        self._resumed_at = time.monotonic()


NORMAL = Priority()


@dataclass(frozen=True)
class Completed:
    """A command that ended by itself: its exit code, all of stdout, the end of stderr."""

    code: int
    stdout: bytes
    stderr: bytes


class LineSplitter:
    """Splits a stream of bytes into lines, and cuts each line at LINE_BYTES."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes, without their newlines."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = (self.rest + lines[0])[:LINE_BYTES]
            self.rest = b""
        self.rest = (self.rest + rest)[:LINE_BYTES]
        return lines

    def close(self) -> list[bytes]:
        """Return the last line if no newline ended it."""
        return [self.rest] if self.rest else []


class OutputReader:
    """Reads a child's stdout and stderr as they come, without a thread."""

    def __init__(self, child: subprocess.Popen[bytes] | Build) -> None:
        self.stdout: list[bytes] = []
        self.stderr_tail = b""
        self.splitter = LineSplitter()
        self.selector = selectors.DefaultSelector()
        self.child = child
        for stream in filter(None, (child.stdout, child.stderr)):
            self.selector.register(stream, selectors.EVENT_READ)

    def read(self, seconds: float) -> list[bytes] | None:
        """Wait up to `seconds` for output; return stderr's new lines, or None without output."""
        if not self.selector.get_map():
            with suppress(subprocess.TimeoutExpired):
                self.child.wait(seconds)
            return None

        ready = self.selector.select(seconds)
        if not ready:
            return None
        return [line for key, _ in ready for line in self._read_stream(key)]

    def read_rest(self) -> list[bytes]:
        """Return stderr's last lines, without waiting for others that hold the pipes open."""
        lines: list[bytes] = []
        for _ in range(FINAL_READS):
            more = self.read(0)
            if more is None:
                break
            lines += more
        return lines + self.splitter.close()

    def _read_stream(self, key: selectors.SelectorKey) -> list[bytes]:
        data = os.read(key.fd, CHUNK_BYTES)
        if not data:
            self.selector.unregister(key.fileobj)
        elif key.fileobj is self.child.stdout:
            self.stdout.append(data)
        else:
            self.stderr_tail = (self.stderr_tail + data)[-TAIL_BYTES:]
            return self.splitter.feed(data)
        return []


def run(
    argv: Sequence[str],
    *,
    environ: Mapping[str, str],
    seconds: float,
    grace_seconds: float = GRACE_SECONDS,
    heard: Heard = lambda _: None,
    is_build: bool = False,
    is_brief: bool = False,
    priority: Priority = NORMAL,
    cpu_seconds: float = 0,
    is_captured: bool = True,
) -> Completed:
    """Run `argv` to its end and return what it wrote, whatever its exit code.

    With `is_build`, all processes that it leaves behind are ended, too. One that `is_brief` ends
    soon by itself, and may go on for that long when the service is killed. `cpu_seconds` bounds the
    time of the processor that it itself may take; 0 is no bound. Unless it `is_captured`, it writes
    to where this process does.

    `heard` is called in this thread with each batch of stderr's lines, and with an empty list at
    least every TICK_SECONDS in which the command runs. An exception from it ends the command, with
    all that it started, and reaches the caller. A command is ended by TERM, and by KILL
    `grace_seconds` later.

    Raises TimedOut past `seconds` or `cpu_seconds`; NixMissing; NixCrashed; NixUnavailable where
    the host has no file descriptors or no memory left to start it.
    """
    log.debug("%s", shlex.join(argv))

    # A reaper needs time of its own after the command's.
    reap_seconds = REAP_SECONDS if is_build else 0
    stream = subprocess.PIPE if is_captured else None
    output = _start(argv, environ, grace_seconds, stream, is_build=is_build, is_brief=is_brief)
    with output.child as child, output.selector, ExitStack() as on_exception:
        on_exception.callback(_stop, output, grace_seconds, reap_seconds)
        if priority.niceness:
            _lower_priority(child.pid, priority.niceness)
        _watch(output, heard, seconds, cpu_seconds, priority)
        on_exception.pop_all()

    code = child.returncode or 0
    if code < 0:
        raise _crash(argv[0], -code)
    if code == NO_SUCH_PROGRAM:
        find([argv[0]], environ)
    return Completed(code, b"".join(output.stdout), output.stderr_tail)


def _lower_priority(pid: int, niceness: int) -> None:
    """Lower the priority of a process that leads a session of its own.

    Where Linux groups processes by session (sched_autogroup_enabled), niceness counts only within a
    session; against all others, that of the group does.
    """
    os.setpriority(os.PRIO_PROCESS, pid, niceness)
    with suppress(OSError):  # a kernel without groups, or one that takes only some changes a second
        Path(f"/proc/{pid}/autogroup").write_text(str(niceness))


def _crash(program: str, number: int) -> NixCrashed:
    """Return the error for a program that was ended by a signal."""
    if number == signal.SIGKILL:
        return NixKilled(f"{program} was ended by SIGKILL; out of memory is likely")
    return NixCrashed(f"{program} was ended by {SIGNALS.get(number, f'signal {number}')}")


def find(programs: Iterable[str], environ: Mapping[str, str]) -> None:
    """Raise NixMissing unless these programs, and setpriv to run them with, are on PATH."""
    for program in ("setpriv", *programs):
        if shutil.which(program, path=environ.get("PATH")) is None:
            raise NixMissing(f"{program} is not on PATH")


def _start(
    argv: Sequence[str],
    environ: Mapping[str, str],
    grace_seconds: float,
    stream: int | None,
    *,
    is_build: bool,
    is_brief: bool,
) -> OutputReader:
    try:
        if is_build:
            return _read(Build(argv, environ, grace_seconds))
        # The kernel signals the command when the thread that started it dies: if the service is
        # killed, its commands end too.
        bound = ["setpriv", "--pdeathsig", "TERM" if grace_seconds else "KILL", "--"]
        child = subprocess.Popen(
            argv if is_brief else [*bound, *argv],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
        return _read(child)
    except OSError as error:
        find([argv[0]], environ)
        raise NixUnavailable(f"{argv[0]} can't be started: {error.strerror or error}") from None


def _read(child: subprocess.Popen[bytes] | Build) -> OutputReader:
    """Return the reader of a child's output; where the host can't, kill the child."""
    try:
        return OutputReader(child)
    except OSError:
        with child:
            child.kill()
        raise


def _watch(
    output: OutputReader, heard: Heard, seconds: float, cpu_seconds: float, priority: Priority
) -> None:
    """Pass stderr on to `heard` until the child has ended. Raises TimedOut."""
    child = output.child
    bounds = _Bounds(child, seconds, cpu_seconds)
    flowing = 0  # lines since the last pause in the output
    while child.poll() is None:
        lines = output.read(TICK_SECONDS)
        heard(lines or [])
        if child.returncode is None:
            priority.rest(child.pid)
        flowing = flowing + len(lines) if lines else 0
        if flowing >= FLOWING_LINES:
            time.sleep(GATHER_SECONDS)
        bounds.check()

    heard(output.read_rest())


class _Bounds:
    """The time that a command may take, also of the processor (0 for any).

    No limit of the kernel for that: its signal is one that Nix's garbage collector uses.
    """

    def __init__(
        self, child: subprocess.Popen[bytes] | Build, seconds: float, cpu_seconds: float
    ) -> None:
        self.child = child
        self.seconds = seconds
        self.cpu_seconds = cpu_seconds
        self.began_at = self.looked_at = time.monotonic()

    def check(self) -> None:
        """Raise TimedOut past a bound."""
        now = time.monotonic()
        if now > self.began_at + self.seconds:
            raise TimedOut(f"it ran longer than {self.seconds:g} s")
        is_there = self.child.returncode is None  # though perhaps a zombie
        if self.cpu_seconds and is_there and now >= self.looked_at + TICK_SECONDS:
            self.looked_at = now
            if _cpu_seconds(self.child.pid) > self.cpu_seconds:
                raise TimedOut(f"it took more than {self.cpu_seconds:g} s of CPU")


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has taken."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def _stop(output: OutputReader, grace_seconds: float, reap_seconds: float) -> None:
    """End the child and all that it started: TERM, a grace, then KILL."""
    child = output.child
    family = _descendants(child.pid)
    if grace_seconds:
        child.terminate()

    # Keep reading: the child would block on a full pipe and never end.
    deadline = time.monotonic() + grace_seconds + reap_seconds
    while child.poll() is None and time.monotonic() < deadline:
        output.read(TICK_SECONDS)

    family |= _descendants(child.pid)
    child.kill()
    for process in family:
        _kill(process)


def _descendants(pid: int) -> set[psutil.Process]:
    with suppress(psutil.Error):
        return set(psutil.Process(pid).children(recursive=True))
    return set()


def _kill(process: psutil.Process) -> None:
    """Kill the process and its group, unless it is gone or not ours to kill."""
    with suppress(psutil.Error, OSError):
        group = os.getpgid(process.pid)
        if process.is_running() and group != os.getpgrp():
            os.killpg(group, signal.SIGKILL)
        process.kill()


@contextmanager
def scratch(tmp: Path) -> Iterator[Path]:
    """Create the directory `tmp`, empty; remove it afterwards."""
    tmp = tmp.resolve()
    trees.remove(tmp)
    tmp.mkdir(parents=True)
    try:
        yield tmp
    finally:
        trees.remove(tmp)


def sweep(tmp: Path) -> None:
    """Kill every process whose temporary directory is `tmp` or in it, then remove `tmp`.

    Builders and their children have that directory in their environment, so that this finds also
    those which have detached themselves from nix-build.
    """
    for _ in range(SWEEPS):
        left = _working_in(tmp)
        if not left:
            break
        for process in left:
            _kill(process)
        psutil.wait_procs(left, timeout=TICK_SECONDS)

    trees.remove(tmp)


def _working_in(tmp: Path) -> list[psutil.Process]:
    folder = os.fsencode(tmp.resolve())
    prefixes = b"TMPDIR=%b/" % folder, b"NIX_BUILD_TOP=%b/" % folder

    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError, psutil.NoSuchProcess):
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if any((b"%b/" % variable).startswith(prefixes) for variable in variables):
                found.append(psutil.Process(int(pid)))
    return found
