"""What `flask doctor` finds: one line each, how bad it is, and what to do about it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import nix


class Level(IntEnum):
    """How bad a finding is; the worst one is the exit code."""

    OK = 0
    WARNING = 1
    ERROR = 2


@dataclass(frozen=True)
class Finding:
    """What was found of one matter; `remedy` is what to do, "" where nothing is."""

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
    """Return that all is as it should be."""
    return Finding(about, Level.OK, text)


def warning(about: str, text: str, remedy: str) -> Finding:
    """Return what may be meant, or does no harm yet."""
    return Finding(about, Level.WARNING, text, remedy)


def error(about: str, text: str, remedy: str) -> Finding:
    """Return what keeps the service from doing its work, or puts it in danger."""
    return Finding(about, Level.ERROR, text, remedy)


def _one_line(text: str) -> str:
    return " ".join(nix.plain(text).split())
