"""The commands of machines that follow profiles: machines, machine, rollout."""

from urllib.parse import quote

import click

from pkgctl import completion
from pkgctl.arguments import ProfileType
from pkgctl.client import JsonObject
from pkgctl.options import CommandContext, common_options
from pkgctl.tables import Column, Columns, text_column, time_column

STATES = ("current", "behind", "failed", "silent")
MACHINE_COLUMNS: Columns = {
    "NAME": Column(lambda machine: machine["name"]),
    "PROFILE": Column(lambda machine: machine["profile"], rank=1),
    "STATE": Column(lambda machine: machine["state"]),
    "GENERATION": Column(lambda machine: _generations(machine), rank=1),
    "SEEN": time_column(lambda machine: machine["seen_at"]),
    "ERROR": text_column(lambda machine: _error(machine), rank=1),
}
WHOLE_COLUMNS: Columns = {
    "NAME": Column(lambda machine: machine["name"]),
    "PROFILE": Column(lambda machine: machine["profile"]),
    "STATE": Column(lambda machine: machine["state"]),
    "GENERATION": Column(lambda machine: machine["generation"]),
    "STORE PATH": Column(lambda machine: machine["store_path"]),
    "OFFERED": Column(lambda machine: _offer(machine["offered"])),
    "SEEN": time_column(lambda machine: machine["seen_at"]),
    "ERROR": Column(lambda machine: _error(machine)),
}


def _generations(machine: JsonObject) -> str:
    """Return the generation that a machine holds, and the one that it is offered where it waits."""
    held = machine["generation"] or ("another" if machine["store_path"] else "none")
    offered = machine["offered"]
    is_other = offered and offered["store_path"] != machine["store_path"]
    return f"{held}, not {offered['generation']}" if is_other else f"{held}"


def _error(machine: JsonObject) -> str:
    """Return in one line why a machine failed."""
    return " ".join((machine["error"] or "").split())


def _offer(offered: JsonObject | None) -> str:
    return f"generation {offered['generation']}, {offered['store_path']}" if offered else "none"


@click.command()
@common_options
@click.option(
    "-p",
    "--profile",
    type=ProfileType(),
    help="Only those that follow this profile.",
)
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
def machines(context: CommandContext, profile: str | None, state: str | None) -> None:
    """List the machines that follow a profile.

    A machine is `current` when it holds what it is offered, `behind` when it holds something else,
    `failed` when it could not take it, and `silent` when it has not been heard of for a while.

    \b
    Examples:
      pkgctl machines
      pkgctl machines -p production --state failed
    """
    with context.needs_newer_server("tell of machines"):
        found = list(context.client.list_all("machines", profile=profile, state=state))
    if profile and not found:
        context.client.get(f"profile/{profile}")  # which tells where there is none
    context.printer.table(found, MACHINE_COLUMNS)


@click.command()
@common_options
@click.argument("name", shell_complete=completion.machines)
@click.option("--remove", is_flag=True, help="Forget it, until it reports again.")
def machine(context: CommandContext, name: str, *, remove: bool) -> None:
    """Show a machine, or forget one that is gone.

    \b
    Examples:
      pkgctl machine web-1
      pkgctl machine web-1 --remove
    """
    path = f"machine/{quote(name, safe='')}"
    if remove:
        context.printer.result(context.client.delete(path), f"Success: Removed machine {name}")
    else:
        context.printer.record(context.client.get(path), WHOLE_COLUMNS)


@click.command()
@common_options
@click.argument("profile", metavar="PROFILE", type=ProfileType())
@click.argument("percent", type=click.IntRange(1, 100), required=False)
def rollout(context: CommandContext, profile: str, percent: int | None) -> None:
    """Offer a change to a share of the machines.

    The others keep what all of them had, whatever the profile becomes meanwhile, until a larger
    share includes them; 100 is all. Set the share before the change. After it, the share counts for
    that change only while no machine has it yet. Without PERCENT, only tell how it stands.

    \b
    Examples:
      pkgctl rollout production
      pkgctl rollout production 10
      pkgctl rollout production 100
    """
    path = f"profile/{quote(profile, safe='')}"
    if percent is None:
        shown = context.client.get(path)
        context.printer.result(shown, _told(shown))
    else:
        shown = context.client.put(f"{path}/rollout", {"percent": percent})
        context.printer.result(shown, f"Success: {_told(shown)}")


def _told(profile: JsonObject) -> str:
    """Return in a sentence what the machines of a profile are offered."""
    percent, rest = profile["rollout"]["percent"], profile["rollout"]["rest"]
    newest = _called(profile["offered"])
    if percent == 100:
        return f"All machines of {profile['name']} are offered {newest}"
    what = f"{percent} % of the machines of {profile['name']} are offered"
    if profile["offered"] is None:
        return f"{what} what comes first, the others {_called(rest)}"
    if profile["offered"] == rest:
        return f"{what} what comes after {newest}, the others keep that"
    return f"{what} {newest}, the others {_called(rest)}"


def _called(offered: JsonObject | None) -> str:
    return f"generation {offered['generation']}" if offered else "nothing"
