"""What the commands share: types of arguments, options, and the context that these fill."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from itertools import takewhile
from typing import Any
from urllib.parse import quote
from uuid import UUID

import click

from pkgctl.client import Client, JsonObject, RetryPolicy
from pkgctl.config import choose_server
from pkgctl.errors import CommandError, ExitCode
from pkgctl.output import Printer, report_outage, title, warn

Command = Callable[..., Any]

MAX_ID = 2**31 - 1
NEAREST = 10  # versions that a message lists
MAX_ID_DIGITS = len(str(MAX_ID))
LATEST = "latest"  # as a version: the newest that may be had
DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd]?)", re.ASCII)
UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True)
class PackageSpec:
    """A name and a version."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


PackageRef = int | PackageSpec
TaskRef = UUID | PackageRef


class PackageSpecType(click.ParamType[Any]):
    """NAME@VERSION, as a PackageSpec."""

    name = "NAME@VERSION"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Convert an argument."""
        name, _, version = value.partition("@")
        if name and version:
            return PackageSpec(name, version)
        hint = f"; pkgctl versions {value} tells the versions" if value.isidentifier() else ""
        return self.fail(f"{value!r} is not NAME@VERSION, such as hello@2.12.1{hint}", param, ctx)


class WantedType(click.ParamType[Any]):
    """NAME, NAME@latest, NAME@VERSION or NAME@RANGE, as a PackageSpec."""

    name = "NAME[@VERSION|@RANGE]"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Convert an argument."""
        name, at, version = value.partition("@")
        if not name or (at and not version):
            what = "NAME or NAME@VERSION, such as hello@2.12.1 or 'hello@^2.10'"
            return self.fail(f"{value!r} is not {what}", param, ctx)
        return PackageSpec(name, version or LATEST)


class PackageType(PackageSpecType):
    """The id of a package or NAME@VERSION, as a PackageRef."""

    name = "ID|NAME@VERSION"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Convert an argument."""
        is_number = value.isascii() and value.isdigit() and len(value) <= MAX_ID_DIGITS
        if is_number and int(value) <= MAX_ID:
            return int(value)
        if "@" in value:
            return super().convert(value, param, ctx)
        return self.fail(f"{value!r} is neither an id nor NAME@VERSION", param, ctx)


class TaskType(PackageType):
    """The id of a task, or a package that stands for its latest task, as a TaskRef."""

    name = "TASK|ID|NAME@VERSION"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Convert an argument."""
        try:
            return UUID(value)
        except ValueError:
            return super().convert(value, param, ctx)


class DurationType(click.ParamType[float]):
    """A number of seconds, or a number with a unit: 90, 15m, 12h, 30d."""

    name = "TIME"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Convert an argument to seconds."""
        match = DURATION.fullmatch(str(value))
        if match is None:
            return self.fail(f"{value!r} isn't a time, such as 90, 15m, 12h or 30d", param, ctx)
        return float(match[1]) * UNIT_SECONDS[match[2]]


@dataclass
class CommandContext:
    """What a command works with: the common options, the API client and the printer."""

    url: str | None = None
    token: str | None = None
    server: str | None = None
    as_json: bool = False
    patience: float = 0.0

    @cached_property
    def client(self) -> Client:
        """A client of the chosen server, closed when the command ends."""
        policy = RetryPolicy(self.patience, notify=report_outage)
        client = Client(*choose_server(self.url, self.token, self.server), policy)
        command = click.get_current_context()
        command.call_on_close(lambda: _warn_of_expiry(client))
        return command.with_resource(client)

    @cached_property
    def printer(self) -> Printer:
        """A printer to the standard output."""
        return Printer(as_json=self.as_json)

    def command_line(self, *words: object) -> tuple[str, ...]:
        """Return the words of a pkgctl command for the same server, without the token."""
        server = ("--server", self.server) if self.server else ()
        url = ("--url", self.url) if self.url else ()
        return ("pkgctl", *map(str, words), *server, *url)

    def package(self, ref: PackageRef) -> JsonObject:
        """Fetch a package; raises CommandError if there is none."""
        if isinstance(ref, int):
            package: JsonObject = self.client.get(f"package/{ref}")
            return package
        packages = list(self.client.list_all("packages", name=ref.name))
        for package in packages:
            if ref.version in (package["version"], package.get("spelled")):
                return package
        meant = spelled(ref, self.versions(ref.name)) if packages else None
        for package in packages:
            if meant is not None and package["version"] == meant.version:
                return package
        message = f"{ref.name} {ref.version} is not registered"
        raise CommandError(message, ExitCode.NOT_FOUND, f"pkgctl create {ref} registers it")

    def catalog(self, name: str, version: str | None = None) -> JsonObject:
        """Fetch what the catalogs have of a name, of all versions or of those in a range.

        Raises CommandError if no catalog has the name.
        """
        if "/" in name or not name.strip("."):  # no URL path can carry such a name
            raise CommandError(f"no catalog has {name!r}", ExitCode.NOT_FOUND)
        found: JsonObject = self.client.get(f"catalog/{quote(name, safe='')}", version=version)
        return found

    def versions(self, name: str) -> list[JsonObject]:
        """Fetch what the catalogs offer of a name, newest first; nothing if they don't have it."""
        try:
            return list(self.catalog(name)["versions"])
        except CommandError as error:
            if error.exit_code != ExitCode.NOT_FOUND:
                raise
            return []

    def too_old(self, what: str) -> CommandError:
        """Return the error for a server of an older release, which can't do something."""
        message = f"the server is of an older release, which can't {what}"
        return CommandError(message, ExitCode.REFUSED)

    @contextmanager
    def needs_newer_server(self, what: str) -> Iterator[None]:
        """Tell that the server is too old where it doesn't know a path."""
        try:
            yield
        except CommandError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            raise self.too_old(what) from None

    def task_id(self, ref: TaskRef) -> str:
        """Return the id of a task, or of a package's latest task."""
        if isinstance(ref, UUID):
            return str(ref)
        package = self.package(ref)
        if package["task"] is None:
            hint = f"pkgctl download {package['id']}"
            raise CommandError(f"{title(package)} has no task", ExitCode.NOT_FOUND, hint)
        return str(package["task"]["id"])


def spelled(spec: PackageSpec, offers: Sequence[JsonObject]) -> PackageSpec | None:
    """Return the package whose version a catalog spells so; None if no catalog does."""
    for offer in offers:
        if offer.get("spelled") == spec.version:
            return PackageSpec(spec.name, offer["version"])
    return None


def nearest(spec: PackageSpec, offers: Sequence[JsonObject]) -> str:
    """List the versions there are instead, those that begin alike first; "" if there are none."""
    versions = dict.fromkeys(offer.get("spelled") or offer["version"] for offer in offers)

    def common(version: str) -> int:
        pairs = zip(version, spec.version, strict=False)
        return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))

    alike = sorted(versions, key=common, reverse=True)
    more = f" and {len(alike) - NEAREST} more" if len(alike) > NEAREST else ""
    return f"{', '.join(alike[:NEAREST])}{more}"


def _warn_of_expiry(client: Client) -> None:
    if client.token_expires_at:
        warn(f"the token expires at {client.token_expires_at}; get another one before that")


def common_options(command: Command) -> Command:
    """Add the options that every command has, and pass the CommandContext first."""
    command = click.pass_obj(command)
    for option in (
        _context_option("--json", "as_json", is_flag=True, help="Print JSON, for programs."),
        _context_option("--server", metavar="NAME", help="A server that pkgctl login knows."),
        _context_option("--token", metavar="SECRET", help="A token.  [env var: PKGCTL_TOKEN]"),
        _context_option("--url", help="The server's URL.  [env var: PKGCTL_URL]"),
    ):
        command = option(command)
    return command


def _context_option(*names: str, **attributes: Any) -> Callable[[Command], Command]:
    """Return an option that is stored in the CommandContext instead of being passed."""
    return click.option(*names, callback=_store, expose_value=False, **attributes)


def _store(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Store an option, whether it was given before the subcommand or after it."""
    context = ctx.find_root().ensure_object(CommandContext)
    if value:
        setattr(context, str(param.name), value)


def wait_options(command: Command) -> Command:
    """Add the options of a command that waits for a task: `timeout`, and --patience."""
    for option in (
        click.option("--timeout", type=DurationType(), help="How long to wait, such as 10m."),
        _context_option(
            "--patience",
            type=DurationType(),
            default="60s",
            show_default=True,
            help="How long the server may be away meanwhile.",
        ),
    ):
        command = option(command)
    return command


def download_options(command: Command) -> Command:
    """Add the options of a command that waits for a download that it has requested.

    They are the wait options, `whole_log` and `cancel_on_interrupt`.
    """
    for option in (
        click.option("--follow", "whole_log", is_flag=True, help="Print the whole log."),
        click.option(
            "--cancel-on-interrupt",
            is_flag=True,
            help="On Ctrl-C cancel the download, which otherwise goes on.",
        ),
    ):
        command = option(command)
    return wait_options(command)
