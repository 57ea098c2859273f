"""The commands of named profiles: profiles, profiles delete, diff, promote."""

import click

from pkgctl import sets
from pkgctl.apply import resolve
from pkgctl.arguments import PROFILE_NAME, ProfileType
from pkgctl.client import JsonObject
from pkgctl.lockfile import Lock
from pkgctl.manifest import Manifest
from pkgctl.options import CommandContext, common_options
from pkgctl.tables import Column, Columns, text_column, time_column, title, words_column

PROFILE_COLUMNS: Columns = {
    "NAME": Column(lambda profile: profile["name"]),
    "GENERATION": Column(lambda profile: profile["generation"]),
    "PACKAGES": words_column(lambda profile: ", ".join(map(title, profile["packages"]))),
    "CHANGED": time_column(lambda profile: profile["changed_at"], rank=1),
    "APPLY": Column(lambda profile: "waits" if profile["task_id"] else None, rank=2),
    "PATH": text_column(lambda profile: profile["path"], rank=3),
}


class SideType(ProfileType):
    """The name of a profile, or a manifest: its name has a dot or a slash."""

    name = "PROFILE|FILE"

    def convert(self, value: str, param: object, ctx: object) -> str:
        """Convert an argument."""
        return value if {".", "/"} & set(value) else super().convert(value, param, ctx)


@click.group(invoke_without_command=True)
@common_options
def profiles(context: CommandContext) -> None:
    """List the profiles, or delete one.

    \b
    Examples:
      pkgctl profiles
      pkgctl profiles --json
    """
    if click.get_current_context().invoked_subcommand:
        return
    with context.needs_newer_server("have several profiles"):
        context.printer.table(context.client.get("profiles"), PROFILE_COLUMNS)


@profiles.command()
@common_options
@click.argument("name", metavar="PROFILE", type=ProfileType())
def delete(context: CommandContext, name: str) -> None:
    """Delete a profile and its generations.

    Its packages stay downloaded. The profile `default` can't be deleted.

    \b
    Example:
      pkgctl profiles delete staging
    """
    answer = context.client.delete(f"profile/{name}")
    context.printer.result(answer, f"Success: Deleted the profile {name}")


@click.command()
@common_options
@click.argument("before", metavar="A", type=SideType())
@click.argument("after", metavar="B", type=SideType())
def diff(context: CommandContext, before: str, after: str) -> None:
    """Tell in what two profiles differ.

    The lines with - are of A, those with + of B. Each is a profile or a manifest.

    \b
    Examples:
      pkgctl diff staging default
      pkgctl diff default ./pkgs.toml
    """
    changes = sets.difference(_side(context, before), _side(context, after))
    sets.show(context, changes)
    if not any(changes.values()):
        context.printer.line(f"{before} and {after} have the same packages")
    context.printer.json(changes)


def _side(context: CommandContext, name: str) -> list[JsonObject]:
    """Return the packages of a profile, or those that a manifest comes to."""
    if PROFILE_NAME.fullmatch(name):
        return list(context.client.get(f"profile/{name}")["packages"])
    specs = resolve(context, Manifest.load(name), Lock.load(name), set())
    return sets.references(map(vars, specs))


@click.command()
@common_options
@click.argument("source", metavar="A", type=ProfileType())
@click.argument("target", metavar="B", type=ProfileType())
@click.option("--dry-run", is_flag=True, help="Only tell what would change.")
@click.option(
    "--require-current", is_flag=True, help="Only if the machines of A hold it, and none fails."
)
def promote(
    context: CommandContext, source: str, target: str, *, dry_run: bool, require_current: bool
) -> None:
    """Make profile B what profile A is.

    It gets the very store path of A's generation, in one switch. `pkgctl rollback -p B` goes back.

    \b
    Examples:
      pkgctl promote staging default --dry-run
      pkgctl promote staging default
      pkgctl promote staging production --require-current
    """
    if source == target:
        raise click.UsageError(f"{source} can't be promoted to itself")
    before = sets.held_if_any(context, target).packages
    query = {"require": "current"} if require_current else {}
    if dry_run:
        changes = sets.difference(before, _promoted(context, source, target, query))
        sets.show(context, changes)
        context.printer.json(changes)
        return
    profile = context.client.post(f"profile/{target}/promote", {"from": source}, **query)
    sets.show(context, sets.difference(before, profile["packages"]))
    text = f"Success: Promoted {source} to {target}, generation {profile['generation']}"
    context.printer.result(profile, text)


def _promoted(
    context: CommandContext, source: str, target: str, query: dict[str, str]
) -> list[JsonObject]:
    """Return what a promotion would bring; the server says whether its machines allow it."""
    if not query:
        return list(context.client.get(f"profile/{source}")["packages"])
    path, body = f"profile/{target}/promote", {"from": source}
    return list(context.client.post(path, body, dry_run="true", **query)["packages"])
