"""A program that runs builds, and ends whatever processes each of them leaves behind.

Its stdin is a Unix socket. For each build nix/reaping.py sends three descriptors: a socket for this
build alone, by which all else is said, and what are to be its stdout and stderr. A fork of this
program becomes the build's reaper: to start a Python for each build takes 15 ms of CPU time, and a
fork one.

Processes whose parent has ended become children of the nearest subreaper among their ancestors, in
whatever session, folder or environment they are: so the reaper finds them all. Once the build's
socket is closed, as also the end of the service does, it sends TERM to the command, and kills what
is left after the grace. Otherwise it kills what the command has left, and answers its exit code.

A PID namespace would do the same, but Nix names the file of a process's temporary roots by its
process id: of two builds with the same id in their namespaces, one would delete the other's file,
and a garbage collection could then delete what that build needs.
"""

import ctypes
import json
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NoReturn

# Of linux/prctl.h; neither has a function in Python.
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
NUMBER_BYTES = 4  # of an answer
NO_SUCH_PROGRAM = 127
END_SECONDS = 5
PAUSE_SECONDS = 0.01

prctl = ctypes.CDLL(None).prctl


def main() -> None:
    """Fork a reaper for each build until the service has ended, or on TERM."""
    requests = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # the stdin of all builds
    wakes = _wake_on_signals()
    watched: list[Any] = [requests, wakes]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if wakes in ready and signal.SIGTERM in os.read(wakes, 64):
            return
        _reap({})
        if requests in ready:
            _, descriptors, _, _ = socket.recv_fds(requests, 1, 3, socket.MSG_CMSG_CLOEXEC)
            if not descriptors:
                return
            if os.fork() == 0:
                requests.close()  # only where nobody listens any more, the service starts another
                _be_reaper(*descriptors)
            for descriptor in descriptors:
                os.close(descriptor)


def _wake_on_signals() -> int:
    """Return a pipe from which the numbers of signals can be read, TERM and CHLD."""
    wakes, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return wakes


def _be_reaper(control: int, stdout: int, stderr: int) -> NoReturn:
    """Run one build, end what it leaves, and answer its exit code, or minus its signal."""
    try:
        with socket.socket(fileno=control) as build, suppress(OSError):  # the service is gone
            build.sendall(_number(os.getpid()))
            build.sendall(_number(_run(build, stdout, stderr)))
    finally:
        os._exit(0)


def _number(value: int) -> bytes:
    return value.to_bytes(NUMBER_BYTES, "little", signed=True)


def _run(build: socket.socket, stdout: int, stderr: int) -> int:
    wakes = _wake_on_signals()
    os.setsid()
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with build.makefile("rb") as lines:
        wanted = json.loads(lines.readline())
    pid = os.fork()
    if pid == 0:
        _exec(stdout, stderr, **wanted["command"])
    os.close(stdout)
    os.close(stderr)

    ended = _wait(pid, build, wakes, wanted["grace_seconds"])
    deadline = time.monotonic() + END_SECONDS
    while _reap(ended) and time.monotonic() < deadline:
        for child in _children():
            with suppress(OSError):  # it has ended, or is not ours to kill
                os.kill(child, signal.SIGKILL)
        time.sleep(PAUSE_SECONDS)
    return os.waitstatus_to_exitcode(ended.get(pid, signal.SIGKILL))


def _exec(stdout: int, stderr: int, argv: list[str], environ: dict[str, Any]) -> NoReturn:
    """Become the command, which gets TERM should the reaper be killed."""
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
            signal.signal(number, signal.SIG_DFL)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.execvpe(argv[0], argv, environ)  # noqa: S606 # no shell is wanted
    finally:
        os._exit(NO_SUCH_PROGRAM)


def _wait(pid: int, build: socket.socket, wakes: int, grace_seconds: float) -> dict[int, int]:
    """Wait until the child has ended, or for the grace once it is to; return who ended how."""
    deadline = float("inf")
    watched: list[Any] = [build, wakes]
    ended: dict[int, int] = {}
    while pid not in ended and (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select(watched, [], [], min(left, 1))
        signals = os.read(wakes, 64) if wakes in ready else b""
        if build in watched and (build in ready or signal.SIGTERM in signals):
            watched.remove(build)
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + grace_seconds
        _reap(ended)
    return ended


def _reap(ended: dict[int, int]) -> bool:
    """Note the statuses of the children that have ended; tell whether any is left.

    That is known without a look at all processes, of which there may be thousands.
    """
    try:
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = found[1]
    except ChildProcessError:
        return False
    return True


def _children() -> Iterator[int]:
    own = str(os.getpid()).encode()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            # pid (command) state parent …, where the command may hold anything.
            if file.read().rpartition(b")")[2].split()[1] == own:
                yield int(name)


main()
