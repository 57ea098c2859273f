"""Builds as processes: reaper.py starts each, and ends all that it leaves behind."""

import atexit
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Self

REAPER = Path(__file__).resolve().parent / "reaper.py"
NUMBER_BYTES = 4
START_SECONDS = 30
END_SECONDS = 5
# A log that flows is read in large pieces, and the build doesn't wait for the reader.
PIPE_BYTES = 1024 * 1024


class Reapers:
    """The program that forks a reaper for each build: one for this process, from the first on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def send(self, descriptors: Sequence[int], environ: Mapping[str, str]) -> None:
        """Ask for a reaper that has these descriptors. Raises OSError."""
        with self._lock:
            if self._requests is not None:
                with suppress(OSError):  # the program was killed
                    socket.send_fds(self._requests, [b"\0"], descriptors)
                    return
            socket.send_fds(self._start(environ), [b"\0"], descriptors)

    def _start(self, environ: Mapping[str, str]) -> socket.socket:
        """Start the program, in place of one that has ended."""
        self.close()
        # Without TMPDIR: a sweep of that folder must not kill it.
        kept = {name: value for name, value in environ.items() if name != "TMPDIR"}
        with ExitStack() as on_exception:
            requests, theirs = map(on_exception.enter_context, socket.socketpair())
            # Without site (-S), and what that imports, it starts sooner.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(REAPER)],
                env=kept,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
            on_exception.pop_all()
        theirs.close()
        requests.settimeout(START_SECONDS)
        self._requests = requests
        return requests

    def close(self) -> None:
        """End the program, but no build."""
        if self._requests is not None and self._process is not None:
            self._requests.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
            self._requests = None


reapers = Reapers()
atexit.register(reapers.close)


class Build:
    """A build under a reaper, with what process.py needs of Popen's interface.

    `pid` is the reaper's, `returncode` that of the command, or minus its signal.
    """

    def __init__(
        self, argv: Sequence[str], environ: Mapping[str, str], grace_seconds: float
    ) -> None:
        """Start the command. Raises OSError where the host can't."""
        command = {"argv": list(argv), "environ": dict(environ)}
        wanted = json.dumps({"command": command, "grace_seconds": grace_seconds})
        self.returncode: int | None = None
        with ExitStack() as ours, ExitStack() as theirs:
            self._control, control = socket.socketpair()
            ours.enter_context(self._control)
            theirs.enter_context(control)
            self.stdout, stdout = _pipe(ours, theirs)
            self.stderr, stderr = _pipe(ours, theirs)
            reapers.send([control.fileno(), stdout, stderr], environ)
            theirs.close()

            self._control.settimeout(START_SECONDS)
            self._control.sendall(f"{wanted}\n".encode())
            self.pid = self._number()
            if self.pid < 0:
                raise BrokenPipeError(errno.EPIPE, "the reaper of builds has ended")
            self._files = ours.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def poll(self) -> int | None:
        """Return the command's exit code once it has ended, with all that it left."""
        return self.wait(0)

    def wait(self, seconds: float) -> int | None:
        """Return the same; wait for it up to `seconds`."""
        if self.returncode is None:
            self._control.settimeout(seconds)
            with suppress(TimeoutError, BlockingIOError):
                self.returncode = self._number()
        return self.returncode

    def _number(self) -> int:
        """Return what the reaper answers next, as if by SIGKILL where it was killed."""
        answer = self._control.recv(NUMBER_BYTES)
        return int.from_bytes(answer, "little", signed=True) if answer else -signal.SIGKILL

    def terminate(self) -> None:
        """Have the command, and all that it started, ended within the grace."""
        self._control.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """Kill the reaper, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def _pipe(ours: ExitStack, theirs: ExitStack) -> tuple[IO[bytes], int]:
    """Return the two ends of a pipe, which the stacks close."""
    reading, writing = os.pipe()
    with suppress(OSError):  # past what a user may have of it
        fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    theirs.callback(os.close, writing)
    return ours.enter_context(open(reading, "rb", buffering=0)), writing
