"""What pkgctl prints: tables and a bar on a terminal, plain lines in a pipe, JSON for programs.

Names, messages and logs come from other people: they reach a terminal without control characters.
"""

import codecs
import json
import os
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import IO, Any, Protocol, Self

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pkgctl.client import JsonObject
from pkgctl.errors import one_line, printable
from pkgctl.tables import Columns, Kind, fit, long_cell, plain_cell, plain_row

TABLE_WIDTH = 10_000
STATUS_STYLES = {
    "activated": "green",
    "current": "green",
    "behind": "yellow",
    "silent": "red",
    "active": "green",
    "failing": "yellow",
    "disabled": "red",
    "downloaded": "cyan",
    "succeeded": "green",
    "running": "cyan",
    "failed": "red",
    "cancelled": "yellow",
}


class TaskView(Protocol):
    """Shows a task while a command waits for it."""

    wants_log: bool
    whole_log: bool

    def __enter__(self) -> Self:
        """Start the display."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the display, and print what is left of the log."""

    def show(self, task: JsonObject) -> None:
        """Show the task's stage and progress."""

    def log(self, data: bytes) -> None:
        """Show the next piece of the task's log, which may end within a character."""

    def report_outage(self, message: str) -> None:
        """Show that the server is unreachable."""


class Printer:
    """Prints the results of commands to the standard output, for people or as JSON."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.is_terminal = sys.stdout.isatty() and not as_json

    def line(self, text: str) -> None:
        """Print a line, unless JSON is wanted."""
        if not self.as_json:
            click.echo(printable(text))

    def json(self, document: object) -> None:
        """Print a JSON document, if JSON is wanted."""
        if self.as_json:
            click.echo(json.dumps(document, indent=2))

    def result(self, document: object, text: str) -> None:
        """Print what a change resulted in: the server's document, or a line."""
        self.line(text)
        self.json(document)

    def table(
        self,
        objects: Iterable[JsonObject],
        columns: Columns,
        whole: object = None,
        *,
        empty: str = "There are none.",
    ) -> None:
        """Print a row for each object; as JSON, the list, or `whole` if that is given.

        `empty` is what a terminal shows where there is no object.
        """
        if self.as_json:
            self.json(whole or list(objects))
        elif self.is_terminal:
            rows = list(objects)
            if not rows:
                click.echo(empty)
                return
            _print_table(fit(rows, columns, _console(sys.stdout).width), columns)
        else:
            for one in objects:
                click.echo("\t".join(plain_row(one, columns)))

    def record(self, one: JsonObject, columns: Columns) -> None:
        """Print one object, a line for each column."""
        if self.as_json:
            self.json(one)
            return

        width = max(map(len, columns)) + 2
        for name, column in columns.items():
            value = column.get(one)
            if self.is_terminal:
                click.echo(f"{name}:".ljust(width) + long_cell(column, value))
            else:
                click.echo(f"{name.lower()}\t{plain_cell(column, value)}")

    def log(self, data: bytes) -> None:
        """Print a whole log, unless JSON is wanted."""
        if not self.as_json:
            LogWriter(sys.stdout).write(data)

    def task_view(self, label: str, *, whole_log: bool) -> TaskView:
        """Return a view of a task, on the standard error if JSON is wanted."""
        stream = sys.stderr if self.as_json else sys.stdout
        if stream.isatty() and os.environ.get("TERM") not in (None, "dumb"):
            return BarView(stream, label, whole_log=whole_log)
        return PlainView(stream, label, whole_log=whole_log, stages=not self.as_json)


class LogWriter:
    """Writes the pieces of a log, each of which may end within a character."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, data: bytes) -> None:
        """Write a piece: to a terminal without control characters, elsewhere byte by byte."""
        if self._stream.isatty():
            click.echo(printable_log(self._decoder.decode(data)), self._stream, nl=False)
        else:
            click.echo(data, self._stream, nl=False)


class PlainView:
    """Shows a task in lines: a line for each stage, or the whole log."""

    wants_log: bool

    def __init__(self, stream: IO[str], label: str, *, whole_log: bool, stages: bool) -> None:
        self.wants_log = self.whole_log = whole_log
        self._stream = stream
        self._label = label
        self._stages = stages and not whole_log
        self._last_line = ""
        self._writer = LogWriter(stream)

    def __enter__(self) -> Self:
        """Return the view; nothing has to be set up."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: all lines have been printed."""

    def show(self, task: JsonObject) -> None:
        """Print the task's stage if it has changed."""
        line = printable(f"{self._label}: {stage(task)}")
        if self._stages and line != self._last_line:
            click.echo(line, self._stream)
        self._last_line = line

    def log(self, data: bytes) -> None:
        """Print the next piece of the log."""
        self._writer.write(data)

    def report_outage(self, message: str) -> None:
        """Print that the server is unreachable to the standard error."""
        report_outage(message)


class BarView:
    """Shows a task as a bar on a terminal, with the log above it, or its latest line below it."""

    wants_log = True

    def __init__(self, stream: IO[str], label: str, *, whole_log: bool) -> None:
        self.whole_log = whole_log
        self._console = _console(stream)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._partial_line = self._latest_line = ""
        self._footer = Text(style="dim", no_wrap=True, overflow="ellipsis")

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[stage]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._bar = self._progress.add_task(printable(label), total=None, stage="")
        self._live = Live(
            Group(self._progress, self._footer), console=self._console, transient=True
        )

    def __enter__(self) -> Self:
        """Draw the bar."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar, and print the log's last line if it has no line break."""
        self._live.stop()
        if self.whole_log and self._partial_line:
            self._print(self._partial_line)

    def show(self, task: JsonObject) -> None:
        """Move the bar; it pulses as long as the total is unknown."""
        self._footer.plain = self._latest_line
        progress = task["progress"]
        self._progress.update(
            self._bar,
            completed=progress["done"],
            total=progress["expected"] or None,
            stage=printable(stage(task)),
        )

    def log(self, data: bytes) -> None:
        """Print the new lines above the bar, or show the latest one below it."""
        text = self._partial_line + self._decoder.decode(data)
        *lines, self._partial_line = text.split("\n")
        if self.whole_log:
            for line in lines:
                self._print(line)
        elif latest := [line for line in lines if line.strip()]:
            self._footer.plain = self._latest_line = printable(latest[-1].expandtabs())

    def report_outage(self, message: str) -> None:
        """Show that the server is unreachable in place of the stage and the latest line."""
        self._progress.update(self._bar, stage="reconnecting")
        self._footer.plain = message

    def _print(self, line: str) -> None:
        self._console.print(Text(printable_log(line)), soft_wrap=True)


def report_outage(message: str) -> None:
    """Print that the server is unreachable to the standard error."""
    click.echo(f"{message}; trying again", err=True)


def warn(message: str) -> None:
    """Print a warning to the standard error; that it can't be written changes no exit code."""
    report(f"Warning: {one_line(message)}")


def report(line: str) -> None:
    """Print a line to the standard error; that it can't be written changes no exit code."""
    try:
        click.echo(line, err=True)
    except OSError:
        discard(sys.stderr)


def discard(stream: IO[str]) -> None:
    """Discard what a stream could not write, and all that follows.

    Python would flush the buffer at exit, fail again, and change the exit code.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def stage(task: JsonObject) -> str:
    """Return a short description of what a task is doing."""
    progress = task["progress"]
    is_running = task["status"] == "running"
    words = progress["phase"] or task["status"] if is_running else task["status"]
    if task["waiting"]:
        words += f", {task['waiting']}"
    elif is_running and progress["expected"]:
        words += f" {progress['done']}/{progress['expected']}"
    return f"{words} (attempt {task['attempt']})" if task["attempt"] > 1 else words


def printable_log(text: str) -> str:
    """Return a log's text without control characters other than line breaks and tabs."""
    return "".join(char if char in "\n\t" else printable(char) for char in text)


def _print_table(cells: dict[str, list[str]], columns: Columns) -> None:
    table = Table(*cells, box=None, pad_edge=False, header_style="bold")
    styles = [STATUS_STYLES if columns[name].kind is Kind.FIXED else {} for name in cells]
    for row in zip(*cells.values(), strict=True):
        pairs = zip(row, styles, strict=True)
        table.add_row(*(Text(text, known.get(text, "")) for text, known in pairs))
    # the cells fit already: where rich fits them, it breaks words
    _console(sys.stdout, width=TABLE_WIDTH).print(table)


def _console(stream: IO[Any], width: int | None = None) -> Console:
    """Return a console without markup: brackets in a name are just brackets."""
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False)
