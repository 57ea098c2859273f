"""Processes: one command at a time, watched, limited, and ended with all that it started."""

import logging
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psutil

TICK_SECONDS = 0.25
GRACE_SECONDS = 3
CHUNK_BYTES = 64 * 1024
TAIL_BYTES = 64 * 1024
LINE_BYTES = 1024 * 1024
LAST_READS = 16
SWEEPS = 20

SIGNALS = {number.value: number.name for number in signal.Signals}

log = logging.getLogger(__name__)

Heard = Callable[[list[bytes]], None]


class NixError(Exception):
    """Nix did not do what it was asked to; the message says why."""

    code: ClassVar[str] = "build_failed"
    hint: ClassVar[str] = "read the message, then the service's log"


class NixMissing(NixError):
    """A program that Nix is run with is not on PATH."""

    hint = "install Nix (Debian: apt install nix-bin), and see to it that the service's PATH has it"


class NixCrashed(NixError):
    """A program was ended by a signal that nobody here sent."""

    hint = "look for the cause in the kernel's log (out of memory?), then try again"


class TimedOut(NixError):
    """A command ran past its limit; the message says which, and its value."""

    code = "timed_out"
    hint = "raise BUILD_SECONDS or SILENCE_SECONDS if it only needs longer, then try again"


@dataclass(frozen=True)
class Completed:
    """A command that ended by itself: its exit code, all of stdout, the end of stderr."""

    code: int
    stdout: bytes
    stderr: bytes


class Lines:
    """Parts a stream of bytes into lines; what a line holds beyond LINE_BYTES is dropped."""

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
        """Return the line that had no newline, if there is one."""
        return [self.rest] if self.rest else []


class Output:
    """What a child writes, read as it comes and without a thread."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self.child = child
        self.stdout: list[bytes] = []
        self.tail = b""
        self.lines = Lines()
        self.selector = selectors.DefaultSelector()
        for stream in filter(None, (child.stdout, child.stderr)):
            self.selector.register(stream, selectors.EVENT_READ)

    def read(self, seconds: float) -> list[bytes] | None:
        """Wait `seconds` at most; return stderr's new lines, or None when nothing was written."""
        if not self.selector.get_map():
            with suppress(subprocess.TimeoutExpired):
                self.child.wait(seconds)
            return None

        ready = self.selector.select(seconds)
        lines: list[bytes] = []
        for key, _ in ready:
            lines += self._take(key)
        return lines if ready else None

    def _take(self, key: selectors.SelectorKey) -> list[bytes]:
        data = os.read(key.fd, CHUNK_BYTES)
        if not data:
            self.selector.unregister(key.fileobj)
        elif key.fileobj is self.child.stdout:
            self.stdout.append(data)
        else:
            self.tail = (self.tail + data)[-TAIL_BYTES:]
            return self.lines.feed(data)
        return []

    def finish(self) -> list[bytes]:
        """Return stderr's last lines; whoever else holds the pipes open is not waited for."""
        lines: list[bytes] = []
        for _ in range(LAST_READS):
            more = self.read(0)
            if more is None:
                break
            lines += more
        return lines + self.lines.close()


def run(
    argv: Sequence[str],
    *,
    environ: Mapping[str, str],
    seconds: float,
    silence_seconds: float | None = None,
    grace_seconds: float = GRACE_SECONDS,
    heard: Heard = lambda _: None,
) -> Completed:
    """Run `argv` to its end and return what it wrote, whatever its exit code.

    `heard` is called from this thread with each batch of stderr's lines, and with an empty list at
    least every TICK_SECONDS; what it raises ends the command, with all that it started, and goes
    on to the caller. The command is asked to end, and killed `grace_seconds` later. Raises
    TimedOut past `seconds`, or past `silence_seconds` without a sign of life; NixMissing,
    NixCrashed.
    """
    find([argv[0]], environ)
    log.debug("%s", shlex.join(argv))

    # The kernel does the same when the thread that waits is gone: a service that is killed takes
    # its commands along.
    farewell = "TERM" if grace_seconds else "KILL"
    with subprocess.Popen(
        ["setpriv", "--pdeathsig", farewell, "--", *argv],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        output = Output(child)
        with output.selector:
            try:
                _watch(output, heard, seconds, silence_seconds or seconds)
            except BaseException:
                _stop(output, grace_seconds)
                raise

    if child.returncode < 0:
        name = SIGNALS.get(-child.returncode, f"signal {-child.returncode}")
        raise NixCrashed(f"{argv[0]} was ended by {name}")
    return Completed(child.returncode, b"".join(output.stdout), output.tail)


def find(programs: Iterable[str], environ: Mapping[str, str]) -> None:
    """Raise NixMissing for the first of the programs, and what runs them, that is not on PATH."""
    for program in ("setpriv", *programs):
        if shutil.which(program, path=environ.get("PATH")) is None:
            raise NixMissing(f"{program} is not on PATH")


def _watch(output: Output, heard: Heard, seconds: float, silence_seconds: float) -> None:
    start = sound = time.monotonic()
    read = bytes_read(output.child.pid)

    while output.child.poll() is None:
        lines = output.read(TICK_SECONDS)
        heard(lines or [])

        now = time.monotonic()
        if lines is not None:
            sound = now
        else:
            # A builder that only redraws a line (a progress bar) is read by Nix and not passed on.
            before, read = read, bytes_read(output.child.pid)
            sound = now if read != before else sound
        if now - start > seconds:
            raise TimedOut(f"it ran longer than {seconds:g} s")
        if now - sound > silence_seconds:
            raise TimedOut(f"it wrote nothing for {silence_seconds:g} s")

    heard(output.finish())


def bytes_read(pid: int) -> bytes:
    """Return how much the process has read so far in the kernel's words, b"" if it doesn't say."""
    try:
        return Path(f"/proc/{pid}/io").read_bytes().partition(b"\n")[0]
    except OSError:
        return b""


def _stop(output: Output, grace_seconds: float) -> None:
    """End the child and all that it started: ask, wait for a while, then kill."""
    child = output.child
    family = _descendants(child.pid)
    if grace_seconds:
        child.terminate()

    # It must be able to write while it ends, or it would wait for us for ever.
    deadline = time.monotonic() + grace_seconds
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
    """Make the directory `tmp`, empty, and remove it afterwards."""
    tmp = tmp.resolve()
    _remove(tmp)
    tmp.mkdir(parents=True)
    try:
        yield tmp
    finally:
        _remove(tmp)


def sweep(tmp: Path) -> None:
    """End every process that an attempt with the directory `tmp` left behind, then remove `tmp`.

    A builder carries its directory in its environment, and so do its children, however they were
    started: that finds the ones which forked away from it.
    """
    for _ in range(SWEEPS):
        left = _working_in(tmp)
        if not left:
            break
        for process in left:
            _kill(process)
        psutil.wait_procs(left, timeout=TICK_SECONDS)

    _remove(tmp)


def _working_in(tmp: Path) -> list[psutil.Process]:
    place = os.fsencode(tmp.resolve())
    ours = b"TMPDIR=%b/" % place, b"NIX_BUILD_TOP=%b/" % place

    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError, psutil.NoSuchProcess), open(f"/proc/{pid}/environ", "rb") as file:
            environ = file.read()
            if any((b"%b/" % entry).startswith(ours) for entry in environ.split(b"\0")):
                found.append(psutil.Process(int(pid)))
    return found


def _remove(tmp: Path) -> None:
    """Remove the tree, whatever its directories' modes; what can't be removed stays."""
    for top, names, _ in os.walk(tmp):
        for path in (Path(top, name) for name in names):
            if not path.is_symlink():
                with suppress(OSError):
                    path.chmod(0o700)
    shutil.rmtree(tmp, ignore_errors=True)
