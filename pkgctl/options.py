"""What the commands share: options, and the context that these fill."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from itertools import takewhile
from typing import Any
from urllib.parse import quote
from uuid import UUID

import click

from pkgctl import completion
from pkgctl.arguments import (
    PROFILE_NAME,
    DurationType,
    PackageRef,
    PackageSpec,
    PackageType,
    ProfileType,
    TaskDigits,
    TaskRef,
)
from pkgctl.client import Client, JsonObject, RetryPolicy
from pkgctl.config import choose_server
from pkgctl.errors import CommandError, ExitCode
from pkgctl.output import Printer, report_outage, warn
from pkgctl.tables import title

Command = Callable[..., Any]

NEAREST = 10  # versions that a message lists
DEFAULT_PROFILE = "default"


@dataclass
class CommandContext:
    """What a command works with: the common options, the API client and the printer."""

    url: str | None = None
    token: str | None = None
    server: str | None = None
    as_json: bool = False
    patience: float = 0.0
    given_profile: str | None = None

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

    @property
    def profile(self) -> str:
        """The profile that is meant: --profile says so, else PKGCTL_PROFILE, else the default."""
        name = self.given_profile or os.environ.get("PKGCTL_PROFILE") or DEFAULT_PROFILE
        if not PROFILE_NAME.fullmatch(name):
            message = f"PKGCTL_PROFILE is {name!r}, which is no name of a profile"
            raise CommandError(message, ExitCode.USAGE)
        return name

    @property
    def of_profile(self) -> dict[str, str]:
        """The query that names the profile; none for the default one, as older servers want it."""
        return {} if self.profile == DEFAULT_PROFILE else {"profile": self.profile}

    def command_line(self, *words: object) -> tuple[str, ...]:
        """Return the words of a pkgctl command for the same server, without the token."""
        profile = ("--profile", self.given_profile) if self.given_profile else ()
        server = ("--server", self.server) if self.server else ()
        url = ("--url", self.url) if self.url else ()
        return ("pkgctl", *map(str, words), *profile, *server, *url)

    def is_active(self, package: JsonObject) -> bool:
        """Tell whether the profile holds a package."""
        return package["status"] == "activated" and self._has(package)

    def active(self) -> list[JsonObject]:
        """Fetch the packages that the profile holds, oldest first."""
        return list(filter(self._has, self.client.list_all("packages", status="activated")))

    def _has(self, package: JsonObject) -> bool:
        """Tell whether the profile holds an active package; older servers have one profile."""
        return self.profile in package.get("profiles", [DEFAULT_PROFILE])

    def package(self, ref: PackageRef) -> JsonObject:
        """Fetch a package; raises CommandError if there is none, or if several are meant.

        A name alone means the active version, else the only one.
        """
        if isinstance(ref, int):
            package: JsonObject = self.client.get(f"package/{ref}")
            return package
        if isinstance(ref, str):
            return self._one_of(ref)
        packages = self.packages_named(ref.name)
        if found := _of_version(packages, ref.version):
            return found
        meant = spelled(ref, self.versions(ref.name)) if packages else None
        if meant is not None and (found := _of_version(packages, meant.version)):
            return found
        message = f"{ref.name} {ref.version} is not registered"
        raise CommandError(message, ExitCode.NOT_FOUND, f"pkgctl create {ref} registers it")

    def packages(self, refs: Sequence[PackageRef]) -> list[JsonObject]:
        """Fetch packages, each once; raises CommandError for the first that there isn't."""
        found = [self.package(ref) for ref in refs]
        return list({package["id"]: package for package in found}.values())

    def packages_named(self, name: str) -> list[JsonObject]:
        """Fetch the packages of a name, oldest first."""
        return list(self.client.list_all("packages", name=name))

    def registered(self, spec: PackageSpec) -> JsonObject | None:
        """Fetch the package of a name and version; None if there is none."""
        return _of_version(self.packages_named(spec.name), spec.version)

    def _one_of(self, name: str) -> JsonObject:
        """Fetch the active package of a name, else the only one."""
        found = self.packages_named(name)
        if not found:
            hint = f"pkgctl list lists what is; pkgctl install {name} installs it"
            raise CommandError(f"{name} is not registered", ExitCode.NOT_FOUND, hint)
        meant = [package for package in found if self.is_active(package)]
        meant = meant or [package for package in found if package["status"] == "activated"] or found
        if len(meant) > 1:
            listed = ", ".join(f"{one['version']} ({one['status']})" for one in meant)
            message = f"{name} is registered in {len(meant)} versions: {listed}"
            hint = f"choose one, such as {name}@{meant[-1]['version']}"
            raise CommandError(message, ExitCode.USAGE, hint)
        return meant[0]

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

    @contextmanager
    def hint_at_conflict(self, hint: str) -> Iterator[None]:
        """Tell what to do first where the server finds that a change doesn't fit."""
        try:
            yield
        except CommandError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            raise CommandError(error.reason, error.exit_code, hint, error.status) from None

    def task_id(self, ref: TaskRef) -> str:
        """Return the id of a task, or of a package's latest task."""
        if isinstance(ref, UUID):
            return str(ref)
        if isinstance(ref, TaskDigits):
            return self._task_id_of_digits(ref.text)
        return _latest_task(self.package(ref))

    def _task_id_of_digits(self, digits: str) -> str:
        """Return the id of a package's latest task, or of the task whose id begins with `digits`.

        No id of a package begins with 0, as those of tasks do that were made in our time.
        """
        if not digits.startswith("0"):
            with suppress(click.UsageError):
                package = self._package_if_any(PackageType().convert(digits, None, None))
                if package is not None:
                    return _latest_task(package)
        try:
            return str(self.client.get(f"task/{digits}")["id"])
        except CommandError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
        message = f"no task's id begins with {digits}, and no package is called so"
        raise CommandError(message, ExitCode.NOT_FOUND, "pkgctl tasks lists the tasks")

    def _package_if_any(self, ref: PackageRef) -> JsonObject | None:
        try:
            return self.package(ref)
        except CommandError as error:
            if error.exit_code != ExitCode.NOT_FOUND:
                raise
        return None


def _of_version(packages: Sequence[JsonObject], version: str) -> JsonObject | None:
    """Return the package of this version, which may be as its catalog spells it."""
    fitting = (one for one in packages if version in (one["version"], one.get("spelled")))
    return next(fitting, None)


def _latest_task(package: JsonObject) -> str:
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
        _context_option(
            "--server",
            metavar="NAME",
            shell_complete=completion.servers,
            help="A server that pkgctl login knows.",
        ),
        _context_option(
            "--token",
            metavar="SECRET",
            help="A token.  [env var: PKGCTL_TOKEN, or a file: PKGCTL_TOKEN_FILE]",
        ),
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


def profile_option(command: Command) -> Command:
    """Add the option that says which profile is meant, as the context then tells."""
    return _context_option(
        "-p",
        "--profile",
        "given_profile",
        type=ProfileType(),
        help="Which profile.  [env var: PKGCTL_PROFILE; default: default]",
    )(command)


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
        click.option("-f", "--follow", "whole_log", is_flag=True, help="Print the whole log."),
        click.option(
            "--cancel-on-interrupt",
            is_flag=True,
            help="On Ctrl-C cancel the download, which otherwise goes on.",
        ),
    ):
        command = option(command)
    return wait_options(command)
