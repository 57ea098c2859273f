"""A program that runs a command, and ends whatever processes the command leaves behind.

    python reaper.py SECONDS TMPDIR COMMAND [ARGUMENT ...]

Processes whose parent has ended become children of the nearest subreaper among their ancestors, in
whatever session, folder or environment they are: so this one finds them all. On TERM it passes TERM
on, and kills what is left after SECONDS. It exits with the command's code, or 128 + its signal.

A PID namespace would do the same, but Nix names the file of a process's temporary roots by its
process id: of two builds with the same id in their namespaces, one would delete the other's file,
and a garbage collection could then delete what that build needs.

Each build starts one: it imports little, and nothing of site-packages.
"""

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress

TYPE_CHECKING = False  # typing has it too, and takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterator

PR_SET_CHILD_SUBREAPER = 36  # of linux/prctl.h; neither Python nor setpriv has it
WATCHED = {signal.SIGTERM, signal.SIGCHLD}
END_SECONDS = 5
PAUSE_SECONDS = 0.01


def main(grace_seconds: float, tmp: str, command: list[str]) -> int:
    """Run the command with this TMPDIR, end what it leaves, and return its exit code."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    environ = {**os.environ, "TMPDIR": tmp}
    pid = os.posix_spawnp(command[0], command, environ, setsigmask=[])

    ended = _wait(pid, grace_seconds)
    deadline = time.monotonic() + END_SECONDS
    while _reap(ended) and time.monotonic() < deadline:
        for child in _children():
            with suppress(OSError):  # it has ended, or is not ours to kill
                os.kill(child, signal.SIGKILL)
        time.sleep(PAUSE_SECONDS)

    code = os.waitstatus_to_exitcode(ended.get(pid, signal.SIGKILL))
    return code if code >= 0 else 128 - code


def _wait(pid: int, grace_seconds: float) -> dict[int, int]:
    """Wait until the child has ended, or the grace after a TERM; return who ended with what."""
    deadline = float("inf")
    ended: dict[int, int] = {}
    while pid not in ended and time.monotonic() < deadline:
        caught = signal.sigtimedwait(WATCHED, min(grace_seconds, 1))
        if caught is not None and caught.si_signo == signal.SIGTERM:
            os.kill(pid, signal.SIGTERM)
            deadline = min(deadline, time.monotonic() + grace_seconds)
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


def _children() -> "Iterator[int]":
    own = str(os.getpid()).encode()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            # pid (command) state parent …, where the command may hold anything.
            if file.read().rpartition(b")")[2].split()[1] == own:
                yield int(name)


sys.exit(main(float(sys.argv[1]), sys.argv[2], sys.argv[3:]))
