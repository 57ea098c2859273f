"""The command pkgctl: its group, the commands of packages, and the entry point."""

import os
import signal
import sys
from importlib.metadata import PackageNotFoundError, version
from io import TextIOWrapper
from itertools import islice
from typing import Any, cast

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from pkgctl import catalog, login, output, profile, tasks, tokens, upgrade
from pkgctl.client import JsonObject
from pkgctl.errors import CommandError, ExitCode
from pkgctl.install import download_and_wait, install, register
from pkgctl.options import (
    CommandContext,
    PackageRef,
    PackageSpec,
    PackageSpecType,
    PackageType,
    common_options,
    download_options,
)
from pkgctl.output import TableColumns, title, whole_seconds
from pkgctl.waiting import Interrupted, WaitSettings, interrupts

SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}

PACKAGE_COLUMNS: TableColumns = {
    "ID": lambda package: package["id"],
    "NAME": lambda package: package["name"],
    "VERSION": lambda package: package["version"],
    "STATUS": lambda package: package["status"],
    "TASK": lambda package: package["task"] and package["task"]["status"],
}
PACKAGE_DETAILS: TableColumns = PACKAGE_COLUMNS | {
    "CREATED": lambda package: whole_seconds(package["created_at"]),
    "UPDATED": lambda package: whole_seconds(package["updated_at"]),
    "SPELLED": lambda package: package.get("spelled"),
    "CATALOG": lambda package: package.get("catalog"),
    "ATTRIBUTE": lambda package: package.get("attr"),
    "DERIVATION": lambda package: package["drv_path"],
    "STORE PATH": lambda package: package["store_path"],
    "CLOSURE BYTES": lambda package: package["closure_size"],
    "TASK ID": lambda package: package["task"] and package["task"]["id"],
    "TASK ERROR": lambda package: (
        package["task"] and package["task"]["error"] and package["task"]["error"]["code"]
    ),
}

HELP = """Install packages on a pkgd server, and look after them.

A server is named by --url or --server, else by PKGCTL_URL, else by pkgctl login; a token by
--token, PKGCTL_TOKEN or the login. A package is named by its id or by NAME@VERSION.

\b
Examples:
  pkgctl login
  pkgctl search hello
  pkgctl install hello@2.12.1
  pkgctl upgrade
  pkgctl activate 1 --token $API_KEY
  pkgctl list --json
"""
EXIT_CODE_HELP = """\b
Exit codes:
    0  done
    1  the server refused the request, or failed at it
    2  wrong usage
    3  the download failed
    4  the download was cancelled
    5  the build took too long, or the time to wait was over
    6  not found: package, version, task, token, generation, server
    7  not allowed: no token, or not enough scope
    8  the server can't be reached, or isn't ready
  130  interrupted; what was waited for goes on
"""


class RootGroup(click.Group):
    """The group of all commands; it turns their errors into one line and an exit code."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the command line, or print its help, and exit."""
        try:
            return super().main(*arguments, **options)
        except OSError as error:  # but not that of a pipe: click ends quietly at that
            output.report(f"Error: the output can't be written: {error.strerror}")
            output.discard(sys.stdout)
            sys.exit(ExitCode.REFUSED)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line; what is no text can be neither shown nor sent."""
        for word in args:
            try:
                word.encode()
            except UnicodeError:
                ctx.fail(f"{word!r} contains bytes that are no text")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except CommandError as error:
            output.report(f"Error: {error}")
            ctx.exit(error.exit_code)
        except (Interrupted, KeyboardInterrupt, click.Abort) as interrupt:
            after_key = "\n" if sys.stderr.isatty() else ""  # a terminal has echoed ^C
            output.report(f"{after_key}Interrupted{interrupt}")
            ctx.exit(ExitCode.INTERRUPTED)


def _show_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if not value:
        return
    try:
        click.echo(f"pkgctl {version('pkgd')}")
    except PackageNotFoundError:
        click.echo("pkgctl, of a source folder")
    ctx.exit()


@click.group(
    cls=RootGroup,
    name="pkgctl",
    help=HELP,
    epilog=EXIT_CODE_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@common_options
def cli(_context: CommandContext) -> None:
    """Accept the common options in front of a command."""


@cli.command()
@common_options
@click.argument("spec", metavar="NAME@VERSION", type=PackageSpecType())
def create(context: CommandContext, spec: PackageSpec) -> None:
    """Register a package, without downloading it.

    \b
    Example:
      pkgctl create hello@2.12.1
    """
    package = register(context, spec)
    text = f"Success: Registered {title(package)} as package {package['id']}"
    context.printer.result(package, text)


@cli.command("list")
@common_options
@click.option("--name", help="Only versions of this package.")
@click.option("--status", type=click.Choice(["created", "downloaded", "activated"]))
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most this many.")
def list_packages(
    context: CommandContext, name: str | None, status: str | None, limit: int | None
) -> None:
    """List the packages, oldest first.

    \b
    Examples:
      pkgctl list
      pkgctl list --status activated --json
    """
    listed = context.client.list_all("packages", name=name, status=status)
    context.printer.table(islice(listed, limit), PACKAGE_COLUMNS)


@cli.command()
@common_options
@click.argument("package", metavar="PACKAGE", type=PackageType())
def show(context: CommandContext, package: PackageRef) -> None:
    """Show everything about a package.

    \b
    Examples:
      pkgctl show 1
      pkgctl show hello@2.12.1
    """
    context.printer.record(context.package(package), PACKAGE_DETAILS)


@cli.command()
@common_options
@download_options
@click.argument("package", metavar="PACKAGE", type=PackageType())
@click.option("--wait", is_flag=True, help="Wait until it is done; so does --follow.")
def download(
    context: CommandContext,
    package: PackageRef,
    *,
    wait: bool,
    timeout: float | None,
    whole_log: bool,
    cancel_on_interrupt: bool,
) -> None:
    """Have a package downloaded, in the background.

    \b
    Examples:
      pkgctl download 1
      pkgctl download hello@2.12.1 --wait --timeout 10m
    """
    found = context.package(package)
    if not (wait or whole_log):
        _start_download(context, found)
        return

    resume_command = context.command_line("download", package, "--wait")
    settings = WaitSettings(timeout, resume_command, whole_log, cancel_on_interrupt)
    download_and_wait(context, found, settings)
    text = f"Success: Downloaded {title(found)}"
    context.printer.result(context.package(found["id"]), text)


def _start_download(context: CommandContext, package: JsonObject) -> None:
    """Request a download, and print its task."""
    answer = context.client.post(f"package/{package['id']}/download")
    text = f"Success: {title(package)} is downloaded already"
    if answer["status"] == "created":
        text = f"Success: Downloading {title(package)}, task {answer['task_id']}"
    context.printer.result(answer, text)


@cli.command()
@common_options
@click.argument("package", metavar="PACKAGE", type=PackageType())
def remove(context: CommandContext, package: PackageRef) -> None:
    """Forget a package that isn't in use.

    \b
    Example:
      pkgctl remove hello@2.12.1
    """
    found = context.package(package)
    answer = context.client.delete(f"package/{found['id']}")
    context.printer.result(answer, f"Success: Removed {title(found)}")


@cli.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
def completion(shell: str) -> None:
    """Print the script that lets a shell complete this command.

    \b
    Examples:
      pkgctl completion bash > ~/.local/share/bash-completion/completions/pkgctl
      pkgctl completion zsh > "${fpath[1]}/_pkgctl"
      pkgctl completion fish > ~/.config/fish/completions/pkgctl.fish
    """
    click.echo(SHELLS[shell](cli, {}, "pkgctl", "_PKGCTL_COMPLETE").source())


for command in (
    install,
    *(catalog.search, catalog.versions, catalog.catalogs),
    *(upgrade.outdated, upgrade.upgrade),
    *(tasks.logs, tasks.tasks, tasks.cancel),
    *(profile.activate, profile.deactivate, profile.generations, profile.rollback, profile.switch),
    *(login.login, login.server, login.status),
    tokens.token,
):
    cli.add_command(command)


def main() -> None:
    """Run the command, with `?` for characters that the encoding of a stream lacks."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupts.handle)
    _open_streams()
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        cast(TextIOWrapper, stream).reconfigure(errors="replace")
    cli(prog_name="pkgctl")


def _open_streams() -> None:
    """Have an empty input and a standard error that goes nowhere where the caller closed them.

    Without an output there would be nothing to show for a command: it is refused before it begins.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115 # open to the end
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        output.report("Error: the standard output is closed")
        sys.exit(ExitCode.REFUSED)
