"""Running a program to its end, bounded in time."""

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

TAIL_BYTES = 8192
TICK_SECONDS = 0.2
GRACE_SECONDS = 5


@dataclass(frozen=True)
class Finished:
    """How a program ended: its exit code, None if it took too long; and the end of its output."""

    code: int | None
    output: str


def run(
    argv: Sequence[str],
    *,
    environ: dict[str, str],
    seconds: float,
    show: Callable[[bytes], None],
    kept: Collection[int] = (),
) -> Finished:
    """Run a program; `show` gets what it writes. Raises OSError if it can't be started.

    It inherits the descriptors `kept`. If it takes longer than `seconds`, or the caller is
    interrupted, it is ended with all of its process group.
    """
    deadline = time.monotonic() + seconds
    process = subprocess.Popen(
        argv,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=kept,
    )
    tail = b""
    with suppress(subprocess.TimeoutExpired), process:
        try:
            for piece in _pieces(process, deadline):
                show(piece)
                tail = (tail + piece)[-TAIL_BYTES:]
            process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            is_late = process.poll() is None
            _end(process)
    return Finished(None if is_late else process.returncode, tail.decode(errors="replace"))


def _pieces(process: subprocess.Popen[bytes], deadline: float) -> Iterator[bytes]:
    """Yield what a program writes, until it has ended or the time is over.

    What it leaves running may hold its output open: that is not waited for.
    """
    assert process.stdout is not None  # noqa: S101 # for mypy: it is a pipe
    output = process.stdout.fileno()
    while time.monotonic() < deadline:
        has_ended = process.poll() is not None
        if select.select([output], [], [], 0 if has_ended else TICK_SECONDS)[0]:
            piece = os.read(output, TAIL_BYTES)
            if not piece:
                return
            yield piece
        elif has_ended:
            return


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program that still runs, and its process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
