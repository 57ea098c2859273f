"""What pkgctl's commands have in common: options, kinds of arguments, and what these come to."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import UUID

import click

from pkgctl.client import Client, Document, Exit, Failure, Patience
from pkgctl.config import choose
from pkgctl.output import Screen

Command = Callable[..., Any]

MAX_ID = 2**31 - 1
DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd]?)", re.ASCII)
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True)
class Wanted:
    """A name and a version."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class WantedType(click.ParamType[Any]):
    """NAME@VERSION."""

    name = "NAME@VERSION"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return what the argument says."""
        name, _, version = value.partition("@")
        if name and version:
            return Wanted(name, version)
        hint = f"; pkgctl search {value} tells the versions" if value.isidentifier() else ""
        return self.fail(f"{value!r} is not NAME@VERSION, such as hello@2.12.1{hint}", param, ctx)


class PackageType(WantedType):
    """The id of a package, or NAME@VERSION."""

    name = "ID|NAME@VERSION"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return what the argument says."""
        if value.isascii() and value.isdigit() and int(value) <= MAX_ID:
            return int(value)
        if "@" in value:
            return super().convert(value, param, ctx)
        return self.fail(f"{value!r} is neither an id nor NAME@VERSION", param, ctx)


class TaskType(PackageType):
    """The id of a task; or a package, which stands for its latest task."""

    name = "TASK|ID|NAME@VERSION"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return what the argument says."""
        try:
            return UUID(value)
        except ValueError:
            return super().convert(value, param, ctx)


class DurationType(click.ParamType[float]):
    """A time in seconds, or with its unit: 90, 15m, 12h, 30d."""

    name = "TIME"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return seconds."""
        match = DURATION.fullmatch(str(value))
        if match is None:
            return self.fail(f"{value!r} is no time, such as 90, 15m, 12h or 30d", param, ctx)
        return float(match[1]) * UNITS[match[2]]


@dataclass
class Setup:
    """What the options come to: a server to ask, and a screen to answer on."""

    url: str | None = None
    token: str | None = None
    server: str | None = None
    as_json: bool = False
    patience: float = 0.0

    @cached_property
    def client(self) -> Client:
        """The server that is meant."""
        patience = Patience(self.patience, tell=self.screen.tell)
        client = Client(*choose(self.url, self.token, self.server), patience)
        return click.get_current_context().with_resource(client)

    @cached_property
    def screen(self) -> Screen:
        """The standard output."""
        return Screen(as_json=self.as_json)

    def again(self, *words: object) -> tuple[str, ...]:
        """Return a command for the same server, without the token."""
        server = ("--server", self.server) if self.server else ()
        url = ("--url", self.url) if self.url else ()
        return ("pkgctl", *map(str, words), *server, *url)

    def package(self, which: int | Wanted) -> Document:
        """Return the package that an argument means."""
        if isinstance(which, int):
            package: Document = self.client.get(f"package/{which}")
            return package
        for package in self.client.each("packages", name=which.name):
            if package["version"] == which.version:
                return package
        message = f"{which.name} {which.version} is not registered"
        raise Failure(message, Exit.NOT_FOUND, f"pkgctl create {which} registers it")

    def task_id(self, which: UUID | int | Wanted) -> str:
        """Return the id of the task that an argument means."""
        if isinstance(which, UUID):
            return str(which)
        package = self.package(which)
        if package["task"] is None:
            hint = f"pkgctl download {package['id']}"
            raise Failure(f"{title(package)} has no task", Exit.NOT_FOUND, hint)
        return str(package["task"]["id"])


def title(package: Document) -> str:
    """Return a package's name and version."""
    return f"{package['name']} {package['version']}"


def common(command: Command) -> Command:
    """Hand the command a Setup, and add the options that it is made of."""
    command = click.pass_obj(command)
    for option in (
        _kept("--json", "as_json", is_flag=True, help="Print JSON, for programs."),
        _kept("--server", metavar="NAME", help="A server that pkgctl login knows."),
        _kept("--token", metavar="SECRET", help="A token.  [env var: PKGCTL_TOKEN]"),
        _kept("--url", help="The server's URL.  [env var: PKGCTL_URL]"),
    ):
        command = option(command)
    return command


def _kept(*names: str, **more: Any) -> Callable[[Command], Command]:
    return click.option(*names, callback=_keep, expose_value=False, **more)


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keep an option's value, which counts before a subcommand and after it."""
    setup = ctx.find_root().ensure_object(Setup)
    if value:
        setattr(setup, str(param.name), value)


def waits(command: Command) -> Command:
    """Add the options of a command that waits for a task."""
    for option in (
        click.option("--timeout", type=DurationType(), help="How long to wait, such as 10m."),
        _kept(
            "--patience",
            type=DurationType(),
            default="60s",
            show_default=True,
            help="How long the server may be away meanwhile.",
        ),
    ):
        command = option(command)
    return command


def downloads(command: Command) -> Command:
    """Add the options of a command that waits for a download of its own."""
    for option in (
        click.option("--follow", "whole_log", is_flag=True, help="Print the whole log."),
        click.option(
            "--cancel-on-interrupt",
            is_flag=True,
            help="On Ctrl-C cancel the download, which otherwise goes on.",
        ),
    ):
        command = option(command)
    return waits(command)
