"""pkgctl: the command for people, robots and pipes that use a pkgd server, near or far."""

import os
import signal
import sys
from dataclasses import asdict
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from pkgctl import login, profile, tasks
from pkgctl.client import Document, Exit, Failure, one_line
from pkgctl.options import (
    PackageType,
    Setup,
    Wanted,
    WantedType,
    common,
    downloads,
    title,
)
from pkgctl.output import Columns, moment
from pkgctl.tasks import Interrupted, Waiting, interrupts, see_through

SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}

PACKAGES: Columns = {
    "ID": lambda package: package["id"],
    "NAME": lambda package: package["name"],
    "VERSION": lambda package: package["version"],
    "STATUS": lambda package: package["status"],
    "TASK": lambda package: package["task"] and package["task"]["status"],
}
PACKAGE: Columns = PACKAGES | {
    "CREATED": lambda package: moment(package["created_at"]),
    "UPDATED": lambda package: moment(package["updated_at"]),
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
VERSIONS: Columns = {
    "VERSION": lambda offer: offer["version"],
    "ATTRIBUTE": lambda offer: offer["attr"],
    "CATALOG": lambda offer: offer["catalog"],
}

HELP = """Install packages on a pkgd server, and look after them.

A server is named by --url or --server, else by PKGCTL_URL, else by pkgctl login; a token by
--token, PKGCTL_TOKEN or the login. A package is named by its id or by NAME@VERSION.

\b
Examples:
  pkgctl login
  pkgctl install hello@2.12.1
  pkgctl activate 1 --token $API_KEY
  pkgctl list --json
"""
EXIT_CODES = """\b
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


class Cli(click.Group):
    """The command: whatever ends one of its subcommands early is told in a line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a subcommand."""
        try:
            return super().invoke(ctx)
        except Failure as failure:
            click.echo(f"Error: {failure}", err=True)
            return ctx.exit(failure.exit_code)
        except BrokenPipeError:
            raise  # click's to deal with: a reader that has enough is no trouble
        except OSError as error:
            click.echo(f"Error: the output can't be written: {error.strerror}", err=True)
            # what is still in the buffer would make Python end with an exit code of its own
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return ctx.exit(Exit.REFUSED)
        except (Interrupted, KeyboardInterrupt, click.Abort) as interrupt:
            after_key = "\n" if sys.stderr.isatty() else ""  # the terminal is in a line with ^C
            click.echo(f"{after_key}Interrupted{interrupt}", err=True)
            return ctx.exit(Exit.INTERRUPTED)


def _show_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if not value:
        return
    try:
        click.echo(f"pkgctl {version('pkgd')}")
    except PackageNotFoundError:
        click.echo("pkgctl, of a source folder")
    ctx.exit()


@click.group(
    cls=Cli,
    name="pkgctl",
    help=HELP,
    epilog=EXIT_CODES,
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
@common
def cli(_setup: Setup) -> None:
    """Leave everything to the subcommand."""


@cli.command()
@common
@downloads
@click.argument("wanted", metavar="NAME@VERSION", type=WantedType())
@click.option("--no-activate", is_flag=True, help="Only download it.")
def install(setup: Setup, wanted: Wanted, *, no_activate: bool, **how: Any) -> None:
    """Register, download and activate a package.

    What is done already is not done again.

    \b
    Examples:
      pkgctl install hello@2.12.1
      pkgctl install hello@2.12.1 --follow --timeout 10m
      pkgctl install hello@2.12.1 --no-activate --json
    """
    package = _register_or_find(setup, wanted)
    again = setup.again("install", wanted, *["--no-activate"][: int(no_activate)])
    _download(setup, package, Waiting(again=again, **how))
    if not no_activate:
        setup.client.post(f"package/{package['id']}/activate")
        setup.screen.say(f"Success: Activated package v{package['version']}")
    installed = setup.package(package["id"])
    setup.screen.answer(installed, _program(installed))


def _register_or_find(setup: Setup, wanted: Wanted) -> Document:
    try:
        package = setup.client.post("packages", asdict(wanted))
    except Failure as error:
        if error.status != HTTPStatus.CONFLICT:
            raise
        return setup.package(wanted)
    setup.screen.say(f"Registered {title(package)} as package {package['id']}")
    return dict(package)


def _program(package: Document) -> str:
    """Return where a package's program is; the store path, if that is on another machine."""
    programs = list(Path(package["store_path"], "bin").glob("*"))
    named = [path for path in programs if path.name == package["name"]] or programs
    return str(named[0] if len(named) == 1 else package["store_path"])


@cli.command()
@common
@click.argument("wanted", metavar="NAME@VERSION", type=WantedType())
def create(setup: Setup, wanted: Wanted) -> None:
    """Register a package, without downloading it.

    \b
    Example:
      pkgctl create hello@2.12.1
    """
    package = setup.client.post("packages", asdict(wanted))
    said = f"Success: Registered {title(package)} as package {package['id']}"
    setup.screen.answer(package, said)


@cli.command("list")
@common
@click.option("--name", help="Only the versions of this one.")
@click.option("--status", type=click.Choice(["created", "downloaded", "activated"]))
@click.option("-n", "--limit", type=click.IntRange(min=1), help="Only so many.")
def list_packages(setup: Setup, limit: int | None, **query: str | None) -> None:
    """List the packages, oldest first.

    \b
    Examples:
      pkgctl list
      pkgctl list --status activated --json
    """
    setup.screen.rows(islice(setup.client.each("packages", **query), limit), PACKAGES)


@cli.command()
@common
@click.argument("package", metavar="PACKAGE", type=PackageType())
def show(setup: Setup, package: int | Wanted) -> None:
    """Show everything about a package.

    \b
    Examples:
      pkgctl show 1
      pkgctl show hello@2.12.1
    """
    setup.screen.fields(setup.package(package), PACKAGE)


@cli.command()
@common
@click.argument("name")
def search(setup: Setup, name: str) -> None:
    """List the versions that the catalogs offer, newest first.

    \b
    Examples:
      pkgctl search hello
      pkgctl search python3Packages.requests
    """
    if "/" in name or not name.strip("."):  # which a URL can't carry
        raise Failure(f"no catalog has {name!r}", Exit.NOT_FOUND)
    catalog = setup.client.get(f"catalog/{quote(name, safe='')}")
    setup.screen.rows(catalog["versions"], VERSIONS, whole=catalog)
    faults = [f"{failed['catalog']}: {failed['message']}" for failed in catalog.get("failures", [])]
    if faults and not catalog["versions"]:
        raise Failure(faults[0], Exit.REFUSED)
    for fault in faults:
        click.echo(f"Warning: {one_line(fault)}", err=True)


@cli.command()
@common
@downloads
@click.argument("package", metavar="PACKAGE", type=PackageType())
@click.option("--wait", is_flag=True, help="Wait until it is done; so does --follow.")
def download(setup: Setup, package: int | Wanted, *, wait: bool, **how: Any) -> None:
    """Have a package downloaded, in the background.

    \b
    Examples:
      pkgctl download 1
      pkgctl download hello@2.12.1 --wait --timeout 10m
    """
    found = setup.package(package)
    if wait or how["whole_log"]:
        again = setup.again("download", package, "--wait")
        _download(setup, found, Waiting(again=again, **how))
        setup.screen.answer(setup.package(found["id"]), f"Success: Downloaded {title(found)}")
        return
    answer = setup.client.post(f"package/{found['id']}/download")
    going_on = f"Downloading {title(found)}, task {answer['task_id']}"
    done = f"{title(found)} is downloaded already"
    said = going_on if answer["status"] == "created" else done
    setup.screen.answer(answer, f"Success: {said}")


def _download(setup: Setup, package: Document, waiting: Waiting) -> None:
    """Have a package downloaded, and wait for that."""
    answer = setup.client.post(f"package/{package['id']}/download")
    if answer["status"] == "created":
        see_through(setup.client, setup.screen, answer["task_id"], title(package), waiting)


@cli.command()
@common
@click.argument("package", metavar="PACKAGE", type=PackageType())
def remove(setup: Setup, package: int | Wanted) -> None:
    """Forget a package that isn't in use.

    \b
    Example:
      pkgctl remove hello@2.12.1
    """
    found = setup.package(package)
    said = f"Success: Removed {title(found)}"
    setup.screen.answer(setup.client.delete(f"package/{found['id']}"), said)


@cli.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
def completion(shell: str) -> None:
    """Print what teaches a shell to complete this command.

    \b
    Examples:
      pkgctl completion bash > ~/.local/share/bash-completion/completions/pkgctl
      pkgctl completion zsh > "${fpath[1]}/_pkgctl"
      pkgctl completion fish > ~/.config/fish/completions/pkgctl.fish
    """
    click.echo(SHELLS[shell](cli, {}, "pkgctl", "_PKGCTL_COMPLETE").source())


for module in (tasks, profile, login):
    for command in module.COMMANDS:
        cli.add_command(command)


def main() -> None:
    """Run the command; what the terminal's encoding lacks shows as a question mark."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupts.take)
    for stream in (sys.stdout, sys.stderr):
        cast(TextIOWrapper, stream).reconfigure(errors="replace")
    cli(prog_name="pkgctl")
