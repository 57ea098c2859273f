"""The findings of `flask doctor`, and running its checks.

The checks are in doctor_service.py and doctor_host.py. Each runs in a thread of its own, so that a
disk or a database that never answers hides nothing else. None changes anything.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

import nix
from config import ConfigError
from models import cause

DEADLINE_SECONDS = 60
# ValueError: rows with a value that is no time or no JSON.
FAULTS = (ConfigError, nix.NixError, OSError, SQLAlchemyError, ValueError)


class Level(IntEnum):
    """How bad a finding is; the worst one is the exit code."""

    OK = 0
    WARNING = 1
    ERROR = 2


@dataclass(frozen=True)
class Finding:
    """What a check found; `remedy` is what to do about it, "" where nothing is to do."""

    about: str
    level: Level
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        lines = [f"{self.level.name.lower():<8} {self.about}: {_one_line(self.text)}"]
        if self.remedy:
            lines.append(f"{'':<8} -> {_one_line(self.remedy)}")
        return "\n".join(lines)


Check = Callable[[], Iterator[Finding]]


def ok(about: str, text: str) -> Finding:
    """Return the finding that something is as it should be."""
    return Finding(about, Level.OK, text)


def warning(about: str, text: str, remedy: str) -> Finding:
    """Return a finding that may be on purpose, or does no harm yet."""
    return Finding(about, Level.WARNING, text, remedy)


def error(about: str, text: str, remedy: str) -> Finding:
    """Return a finding that keeps the service from its work, or puts it in danger."""
    return Finding(about, Level.ERROR, text, remedy)


def _one_line(text: str) -> str:
    return " ".join(nix.plain(text).split())


# --- Running the checks ---


class Examination(threading.Thread):
    """A check in a thread of its own, which does not keep the process from ending."""

    def __init__(self, app: Flask, check: Check) -> None:
        super().__init__(name=check.__name__, daemon=True)
        self.app = app
        self.check = check
        self.found: list[Finding] | None = None

    def run(self) -> None:
        """Run the check."""
        try:
            with self.app.app_context():
                self.found = list(self.check())
        except FAULTS as fault:
            self.found = [error(self._about, str(cause(fault)), "see above, and the log")]

    def result(self, deadline: float) -> list[Finding]:
        """Return what the check has found, or that it has not ended by the deadline."""
        self.join(max(0.0, deadline - time.monotonic()))
        if self.found is None:
            text = f"no answer within {DEADLINE_SECONDS} s"
            return [error(self._about, text, "something hangs: a disk, a mount, Nix, the database")]
        return self.found

    @property
    def _about(self) -> str:
        return self.check.__name__.replace("_", " ")


def examine(app: Flask, checks: Iterable[Check]) -> Iterator[Finding]:
    """Run all checks at once, and yield what they find, in order."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    examinations = [Examination(app, check) for check in checks]
    for one in examinations:
        one.start()
    for one in examinations:
        yield from one.result(deadline)
