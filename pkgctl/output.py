"""What pkgctl shows: tables and a bar on a terminal, plain lines in a pipe, JSON for programs.

Names, messages and logs are other people's text: nothing of it reaches a terminal that could
control it.
"""

import codecs
import json
import os
import sys
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import IO, Any, Protocol, Self

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pkgctl.client import Document, printable

Columns = dict[str, Callable[[Document], object]]

TABLE_WIDTH = 10_000
STYLES = {
    "activated": "green",
    "downloaded": "cyan",
    "succeeded": "green",
    "running": "cyan",
    "failed": "red",
    "cancelled": "yellow",
}


class View(Protocol):
    """Where a task is shown while it goes on."""

    wants_log: bool
    whole_log: bool

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End, with whatever is left to show."""

    def show(self, task: Document) -> None:
        """Show how the task is."""

    def log(self, data: bytes) -> None:
        """Show what is new in its log."""

    def tell(self, message: str) -> None:
        """Say that the server is away."""


class Screen:
    """The standard output, as a person or a program wants it."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.is_terminal = sys.stdout.isatty() and not as_json

    def say(self, text: str) -> None:
        """Print a line for people; a program gets a document instead."""
        if not self.as_json:
            click.echo(printable(text))

    def document(self, document: object) -> None:
        """Print a document for programs; people get lines instead."""
        if self.as_json:
            click.echo(json.dumps(document, indent=2))

    def answer(self, document: object, text: str) -> None:
        """Print what a change came to: the server's document, or a line."""
        self.say(text)
        self.document(document)

    def rows(self, documents: Iterable[Document], columns: Columns, whole: object = None) -> None:
        """Print a list, a line each; `whole` is the document that it is a part of."""
        if self.as_json:
            self.document(whole or list(documents))
            return
        rows = ([_cell(value(document)) for value in columns.values()] for document in documents)
        if not self.is_terminal:
            for row in rows:
                click.echo("\t".join(row))
            return

        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(Text(cell, STYLES.get(cell, "")) for cell in row))
        # a narrow terminal wraps the lines: a table fitted into it would have pieces of ids
        _console(sys.stdout, width=TABLE_WIDTH).print(table)

    def fields(self, document: Document, columns: Columns) -> None:
        """Print one thing, a line for each of its properties."""
        if self.as_json:
            self.document(document)
            return
        width = max(map(len, columns)) + 2 if self.is_terminal else 0
        for name, value in columns.items():
            label = f"{name}:".ljust(width) if width else f"{name.lower()}\t"
            click.echo(label + _cell(value(document)))

    def tell(self, message: str) -> None:
        """Say that the server is away."""
        click.echo(f"{message}; trying again", err=True)

    def log(self, data: bytes) -> None:
        """Print a log: as it is, or on a terminal what is harmless of it."""
        if not self.as_json:
            LogWriter(sys.stdout).write(data)

    def progress(self, label: str, *, whole_log: bool) -> View:
        """Return where to show a task; with --json that is not the standard output."""
        stream = sys.stderr if self.as_json else sys.stdout
        if stream.isatty() and os.environ.get("TERM") not in (None, "dumb"):
            return Bar(stream, label, whole_log=whole_log)
        return Lines(stream, label, whole_log=whole_log, stages=not self.as_json)


class LogWriter:
    """Writes a log in pieces, which may end within a character."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, data: bytes) -> None:
        """Write a piece: as it is, or to a terminal what is harmless of it."""
        if self._stream.isatty():
            click.echo(harmless(self._decoder.decode(data)), self._stream, nl=False)
        else:
            click.echo(data, self._stream, nl=False)


class Lines:
    """Shows a task in lines: each stage, or its whole log."""

    wants_log: bool

    def __init__(self, stream: IO[str], label: str, *, whole_log: bool, stages: bool) -> None:
        self.wants_log = self.whole_log = whole_log
        self._stream = stream
        self._label = label
        self._stages = stages and not whole_log
        self._shown = ""
        self._writer = LogWriter(stream)

    def __enter__(self) -> Self:
        """Begin to show."""
        return self

    def __exit__(self, *_: object) -> None:
        """End; every line is complete."""

    def show(self, task: Document) -> None:
        """Print the stage, if it is another one."""
        line = printable(f"{self._label}: {stage(task)}")
        if self._stages and line != self._shown:
            click.echo(line, self._stream)
        self._shown = line

    def log(self, data: bytes) -> None:
        """Write what is new in the log."""
        self._writer.write(data)

    def tell(self, message: str) -> None:
        """Say that the server is away."""
        click.echo(f"{message}; trying again", err=True)


class Bar:
    """Shows a task as a bar on a terminal, with the log's latest line under it or all above it."""

    wants_log = True

    def __init__(self, stream: IO[str], label: str, *, whole_log: bool) -> None:
        self.whole_log = whole_log
        self._console = _console(stream)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = self._line = ""
        self._latest = Text(style="dim", no_wrap=True, overflow="ellipsis")
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[stage]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._id = self._progress.add_task(printable(label), total=None, stage="")
        self._live = Live(
            Group(self._progress, self._latest), console=self._console, transient=True
        )

    def __enter__(self) -> Self:
        """Draw the bar."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        self._live.stop()
        if self.whole_log and self._rest:
            self._print(self._rest)

    def show(self, task: Document) -> None:
        """Move the bar; it only swings while nobody knows how much there is to do."""
        self._latest.plain = self._line
        progress = task["progress"]
        total = progress["expected"] or None
        self._progress.update(
            self._id, completed=progress["done"], total=total, stage=printable(stage(task))
        )

    def log(self, data: bytes) -> None:
        """Print the log's new lines above the bar, or keep the latest one under it."""
        *lines, self._rest = (self._rest + self._decoder.decode(data)).split("\n")
        if self.whole_log:
            for line in lines:
                self._print(line)
        elif latest := [line for line in lines if line.strip()]:
            self._latest.plain = self._line = printable(latest[-1].expandtabs())

    def tell(self, message: str) -> None:
        """Say that the server is away, where the stage was."""
        self._progress.update(self._id, stage="reconnecting")
        self._latest.plain = message

    def _print(self, line: str) -> None:
        self._console.print(Text(harmless(line)), soft_wrap=True)


def stage(task: Document) -> str:
    """Return how far a task is, in a few words."""
    progress = task["progress"]
    words = progress["phase"] or task["status"] if task["status"] == "running" else task["status"]
    if task["waiting"]:
        words += f", {task['waiting']}"
    elif task["status"] == "running" and progress["expected"]:
        words += f" {progress['done']}/{progress['expected']}"
    return f"{words} (attempt {task['attempt']})" if task["attempt"] > 1 else words


def harmless(text: str) -> str:
    """Return a log's text as it may reach a terminal."""
    return "".join(char if char in "\n\t" else printable(char) for char in text)


def moment(time: str | None) -> str | None:
    """Return a time without the fractions of its seconds."""
    return time and f"{time[:19]}Z"


def _cell(value: object) -> str:
    return "-" if value in (None, "") else printable(str(value))


def _console(stream: IO[Any], width: int | None = None) -> Console:
    """Return a console that takes text as it is: a name with brackets is no markup."""
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False)
