"""The command pkgctl: its group, aliases, help and completion, and the entry point."""

import os
import signal
import sys
from importlib.metadata import PackageNotFoundError, version
from io import TextIOWrapper
from typing import Any, cast

import click
from click.shell_completion import CompletionItem

from pkgctl import (
    apply,
    catalog,
    events,
    login,
    machines,
    output,
    packages,
    profile,
    profiles,
    programs,
    tasks,
    tokens,
    upgrade,
    webhooks,
)
from pkgctl.completion import SHELLS
from pkgctl.errors import CommandError, ExitCode
from pkgctl.install import install
from pkgctl.options import CommandContext, common_options
from pkgctl.sync import sync
from pkgctl.waiting import Interrupted, interrupts

ALIASES = {"info": "show", "ls": "list", "uninstall": "deactivate"}
HELP = """Install packages on a pkgd server, and look after them.

A server is named by --url or --server, else by PKGCTL_URL, else by pkgctl login; a token by
--token, PKGCTL_TOKEN or the login. A package is named by NAME where one version is meant, the
active or the only one, else by NAME@VERSION or its id; a task by the first digits of its id.

\b
Examples:
  pkgctl login
  pkgctl search hello
  pkgctl install hello
  pkgctl upgrade
  pkgctl apply pkgs.toml
  pkgctl activate 1 --token $API_KEY
  pkgctl list --json
"""
EXIT_CODE_HELP = """\b
Exit codes:
    0  done
    1  the server refused the request, or failed at it
    2  wrong usage
    3  the download failed, or the check of a sync
    4  the download, or the apply, was cancelled
    5  the build or the wait took too long
    6  not found, such as a package or a task
    7  not allowed: no token, or not enough scope
    8  the server or cache can't be reached or isn't ready
    9  the cache's key, signature or contents are wrong
   10  this machine failed: its Nix, or its disk
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

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, which may be called by an alias."""
        return super().get_command(ctx, ALIASES.get(cmd_name, cmd_name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, and their aliases in one line."""
        super().format_commands(ctx, formatter)
        listed = ", ".join(f"{alias} = {name}" for alias, name in ALIASES.items())
        with formatter.section("Aliases"):
            formatter.write_text(listed)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[Any]]:
        """Complete commands and, once some of it is typed, aliases."""
        aliases = [alias for alias in ALIASES if incomplete and alias.startswith(incomplete)]
        return super().shell_complete(ctx, incomplete) + list(map(CompletionItem, aliases))

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
@click.argument("shell", type=click.Choice(list(SHELLS)))
def completion(shell: str) -> None:
    """Print the script for shell completion.

    \b
    Examples:
      eval "$(pkgctl completion bash)"
      pkgctl completion zsh > "${fpath[1]}/_pkgctl"
      pkgctl completion fish | source

    The first line belongs in ~/.bashrc, the last in ~/.config/fish/config.fish.
    """
    click.echo(SHELLS[shell](cli, {}, "pkgctl", "_PKGCTL_COMPLETE").source())


for command in (
    install,
    *(packages.create, packages.download, packages.list_packages, packages.remove, packages.show),
    *(catalog.search, catalog.versions, catalog.catalogs),
    *(upgrade.outdated, upgrade.upgrade),
    *(tasks.logs, tasks.tasks, tasks.cancel),
    *(profile.activate, profile.deactivate, profile.generations, profile.rollback, profile.switch),
    *(apply.apply, apply.export),
    *(profiles.diff, profiles.profiles, profiles.promote),
    programs.path,
    *(login.login, login.logout, login.server, login.status, login.whoami),
    *(machines.machines, machines.machine, machines.rollout),
    *(sync, tokens.token, events.events),
    *(webhooks.webhooks, webhooks.webhook),
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
