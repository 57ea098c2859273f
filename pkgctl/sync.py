"""The command sync: have this machine follow a profile of a server."""

import os
import random
import re
import shlex
import socket
import time
from pathlib import Path
from typing import Any

import click

from pkgctl.arguments import DurationType, ProfileType
from pkgctl.client import JsonObject
from pkgctl.errors import CommandError, ExitCode
from pkgctl.follower import CHECK_SECONDS, Follower, Following, Local, Reporter, status
from pkgctl.nix_client import PUBLIC_KEY, NixProfile
from pkgctl.options import CommandContext, common_options
from pkgctl.output import report
from pkgctl.sync_state import StateFolder
from pkgctl.tables import Column, Columns, text_column
from pkgctl.waiting import interrupts

MACHINE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9.-]{0,63}")
LONGEST_PAUSE = 60  # after a round that failed, unless the interval is longer
ANSWER_SECONDS = 180  # for a whole answer: the server may be anything
JITTER = 0.1  # of the interval, so that machines that start together don't go on asking together
FAILED_JITTER = 0.5
FINAL = (ExitCode.USAGE, ExitCode.NOT_ALLOWED)  # the next round would fail, too
STATUS_COLUMNS: Columns = {
    "PROFILE": Column(lambda status: status["profile"]),
    "MACHINE": text_column(lambda status: status["machine"]),
    "PATH": text_column(lambda status: status["path"]),
    "STATE": Column(lambda status: status["state"]),
    "GENERATION": Column(lambda status: status["generation"]),
    "STORE PATH": text_column(lambda status: status["store_path"]),
    "OFFERED": text_column(lambda status: (status["offered"] or {}).get("store_path")),
    "ERROR": text_column(lambda status: status["error"]),
}


class MatchedType(click.ParamType[str]):
    """A text that a pattern has to match."""

    def __init__(self, name: str, pattern: re.Pattern[str], example: str) -> None:
        self.name = name
        self._pattern = pattern
        self._example = example

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Convert an argument."""
        if self._pattern.fullmatch(value):
            return str(value)
        return self.fail(f"it has to be such as {self._example}, not {value!r}", param, ctx)


class IntervalType(DurationType):
    """A time of a second or more."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Convert an argument to seconds."""
        seconds = super().convert(value, param, ctx)
        return seconds if seconds >= 1 else self.fail("it takes 1s or more", param, ctx)


class WordsType(click.ParamType[tuple[str, ...]]):
    """A command, quoted as in a shell, as its words."""

    name = "CMD"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        """Convert an argument."""
        try:
            return tuple(shlex.split(value))
        except ValueError as error:
            return self.fail(f"{value!r} is no command: {error}", param, ctx)


@click.command()
@common_options
@click.argument("profile", metavar="PROFILE", type=ProfileType())
@click.option(
    "--to",
    "to",
    metavar="PATH",
    help="Where the profile is to be, a link to its generations.  [default: pkgd-PROFILE among "
    "the profiles of Nix, root's or the user's]",
)
@click.option(
    "--name",
    "machine",
    type=MatchedType("MACHINE", MACHINE, "web-1"),
    help="The name of this machine.  [default: the host name]",
)
@click.option("--check", type=WordsType(), help="A command that has to pass on each generation.")
@click.option(
    "--check-timeout",
    type=DurationType(),
    default=f"{CHECK_SECONDS}s",
    show_default=True,
    help="How long the check may take.",
)
@click.option(
    "--public-key",
    "public_keys",
    type=MatchedType("KEY", PUBLIC_KEY, "pkgd-1:uZ…="),
    multiple=True,
    help="Trust this key of the cache instead of the first one seen; more than once for several.",
)
@click.option("--once", is_flag=True, help="Do it once, which is the default.")
@click.option("--every", type=IntervalType(), help="Do it again and again, such as every 60s.")
@click.option("--status", "action", flag_value="status", help="Only show how it stands.")
@click.option("--rollback", "action", flag_value="rollback", help="Go to the generation before.")
@click.option("--retry", "action", flag_value="retry", help="Try again what failed.")
def sync(
    context: CommandContext,
    profile: str,
    *,
    to: str | None,
    machine: str | None,
    check: tuple[str, ...] | None,
    check_timeout: float,
    public_keys: tuple[str, ...],
    once: bool,
    every: float | None,
    action: str | None,
) -> None:
    """Have this machine follow a profile.

    What it offers is fetched from the server's binary cache, with its signature checked,
    and becomes a generation of a profile of Nix at PATH. Then the check runs, with the path of that
    generation as its argument. Where it fails, the machine goes back to what it had, and that
    generation isn't tried again until another one is offered, or with --retry. Each round is
    reported to the server. Without the server the machine keeps what it has; --status and
    --rollback don't need it. What was rolled back isn't taken again, either.

    A token of scope sync is enough. The key of the cache is learnt at first use; another one is
    refused later, unless --public-key gives it. PATH.sync/ is the memory of a sync, and its lock.

    \b
    Examples:
      pkgctl sync web
      pkgctl sync web --to /opt/web --every 60s
      pkgctl sync web --check '/opt/web-test --quick'
      pkgctl sync web --status
      pkgctl sync web --rollback
    """
    if every is not None and (once or action):
        raise click.UsageError("--every goes with neither --once, --status, --rollback nor --retry")
    where = (profile, machine or _host_name(), _path(to) if to else default_path(profile))
    following = Following(*where, check or (), public_keys, check_timeout)
    if action == "status":
        context.printer.record(_status(following), STATUS_COLUMNS)
    elif action == "rollback":
        _roll_back(context, following)
    elif every is None:
        context.printer.result(*_round(context, following, Reporter(), retry=action == "retry"))
    else:
        _follow(context, following, every)


def default_path(profile: str) -> Path:
    """Return where a profile goes: among root's profiles of Nix, or the user's."""
    if os.geteuid() == 0:
        folder = Path(os.environ.get("NIX_STATE_DIR", "/nix/var/nix"))
    else:
        state = Path(os.environ.get("XDG_STATE_HOME", ""))
        folder = (state if state.is_absolute() else _home() / ".local" / "state") / "nix"
    return folder / "profiles" / f"pkgd-{profile}"


def pause(every: float, failures: int) -> float:
    """Return the seconds until the next round, after `failures` in a row."""
    longest = max(every, LONGEST_PAUSE)
    seconds = min(every * 2.0 ** min(failures, 10), longest)
    jitter = FAILED_JITTER if failures else JITTER
    return seconds * random.uniform(1 - jitter, 1 + jitter)  # noqa: S311 # no secret


def _home() -> Path:
    home = Path(os.path.expanduser("~"))
    if home.is_absolute():
        return home
    message = "there is no home folder for the profile"
    raise CommandError(message, ExitCode.USAGE, "--to says where it goes")


def _path(to: str) -> Path:
    path = Path(os.path.abspath(to))
    if not path.name:
        raise CommandError(f"{to} can't be a profile", ExitCode.USAGE, "such as --to /opt/web")
    return path


def _host_name() -> str:
    name = socket.gethostname()
    if MACHINE.fullmatch(name):
        return name
    message = f"the host name, {name!r}, can't be the name of a machine"
    raise CommandError(message, ExitCode.USAGE, "--name gives another one")


def _follow(context: CommandContext, following: Following, every: float) -> None:
    """Do rounds for ever; print a line only where it differs from the last one."""
    reporter, failures, last = Reporter(), 0, ""
    while True:
        interrupts.check()
        try:
            shown, line = _round(context, following, reporter)
            failures = 0
            if line != last:
                context.printer.result(shown, line)
        except CommandError as error:
            if error.exit_code in FINAL:
                raise
            failures, line = failures + 1, f"Error: {error}"
            if line != last:
                report(line)
        last = line
        time.sleep(pause(every, failures))


def _round(
    context: CommandContext, following: Following, reporter: Reporter, *, retry: bool = False
) -> tuple[JsonObject, str]:
    """Do one round; return the machine's status, as JSON and in a line. Raises CommandError."""
    context.client.answer_seconds = ANSWER_SECONDS
    folder = StateFolder(following.path)
    with folder.locked() as lock:
        if lock is None:
            line = f"Another sync of {following.path} is running; nothing was done"
            return _status(following) | {"changed": False}, line
        local = Local(following, folder, lock)
        if retry:
            local.remember(refused=None, error=None)
        has_changed = Follower(local, context.client, reporter).sync()
        shown = status(following, local.nix, local.state)
    return shown | {"changed": has_changed}, _line(shown, has_changed=has_changed)


def _line(shown: JsonObject, *, has_changed: bool) -> str:
    path, profile = shown["path"], shown["profile"]
    if shown["state"] == "waiting":
        return f"{profile} offers nothing yet; {path} stays as it is"
    if shown["state"] == "failed":
        return f"{path} stays as it is until {profile} offers something else: {shown['error']}"
    generation = f"generation {shown['generation']} of {profile}"
    if has_changed:
        return f"Success: {path} is now {generation}, {shown['store_path']}"
    return f"{path} is {generation}, as offered"


def _status(following: Following) -> JsonObject:
    """Return the status of the machine, without the server and without the lock."""
    folder = StateFolder(following.path)
    return status(following, NixProfile(following.path, folder.home), folder.load())


def _roll_back(context: CommandContext, following: Following) -> None:
    folder = StateFolder(following.path)
    with folder.locked() as lock:
        if lock is None:
            message = f"another sync of {following.path} is running"
            raise CommandError(message, ExitCode.REFUSED, "try again when it has ended")
        local = Local(following, folder, lock)
        local.roll_back()
        shown = status(following, local.nix, local.state)
    taken = f"pkgctl sync {following.profile} --retry takes what is offered"
    line = f"Success: {following.path} is back at {shown['store_path']}, until another generation"
    context.printer.result(shown, f"{line} is offered; {taken}")
