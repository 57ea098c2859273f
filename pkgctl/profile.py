"""The commands of the profile: activate, deactivate, generations, rollback, switch."""

import click

from pkgctl import completion, downloads, programs, sets
from pkgctl.arguments import NumberType, PackageRef, PackageType
from pkgctl.client import JsonObject
from pkgctl.options import CommandContext, common_options, profile_option, wait_options
from pkgctl.tables import Column, Columns, text_column, time_column, title, words_column
from pkgctl.waiting import WaitSettings

GENERATION_COLUMNS: Columns = {
    "NO": Column(lambda generation: generation["number"]),
    "ACTIVE": Column(lambda generation: "yes" if generation["active"] else "no"),
    "SINCE": time_column(lambda generation: _latest_change(generation, "at")),
    "BY": text_column(lambda generation: _latest_change(generation, "by"), rank=2),
    "WHY": Column(lambda generation: _latest_change(generation, "reason"), rank=1),
    "PACKAGES": words_column(lambda generation: ", ".join(map(title, generation["packages"]))),
}
PLAN_COLUMNS: Columns = {
    "ADDED": Column(lambda plan: _but_for_replaced(plan, "added")),
    "REPLACED": Column(
        lambda plan: ", ".join(
            f"{package['name']} {package['old']} by {package['new']}"
            for package in plan["replaced"]
        )
    ),
    "REMOVED": Column(lambda plan: _but_for_replaced(plan, "removed")),
    "CLOSURE BYTES": Column(lambda plan: f"{plan['closure_size_change']:+}"),
}


def _but_for_replaced(plan: JsonObject, field: str) -> str:
    """Return the packages of a plan's list that don't take the place of another version."""
    replaced = {package["name"] for package in plan["replaced"]}
    return ", ".join(title(one) for one in plan[field] if one["name"] not in replaced)


def _latest_change(generation: JsonObject, field: str) -> str | None:
    """Return a field of the latest change that activated a generation."""
    changes = generation["changes"]
    return changes[0][field] if changes else None


@click.command()
@common_options
@profile_option
@click.argument("packages", metavar="PACKAGE...", type=PackageType(), nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Only tell what would change.")
def activate(context: CommandContext, packages: tuple[PackageRef, ...], *, dry_run: bool) -> None:
    """Put packages in the profile.

    Another version of a name makes way. Several are activated in one generation, or none of them.

    \b
    Examples:
      pkgctl activate hello
      pkgctl activate hello@2.12.1 parrot --dry-run
      pkgctl activate 1
    """
    found = context.packages(packages)
    missing = [f"{one['name']}@{one['version']}" for one in found if one["status"] == "created"]
    with context.hint_at_conflict(f"pkgctl install {' '.join(missing)}" if missing else ""):
        query = {"dry_run": "true"} if dry_run else {}
        answer = downloads.activate(context, found, **query)
    if dry_run:
        context.printer.record(answer, PLAN_COLUMNS)
        return

    called = ", ".join(map(title, found))
    if isinstance(packages[0], int) and len(found) == 1:  # as scripts know it
        called = f"package v{found[0]['version']}"
    context.printer.result(answer, f"Success: Activated {called}")
    if context.printer.is_terminal:
        programs.show(context, found, in_profile=True)


@click.command()
@common_options
@profile_option
@wait_options
@click.argument("packages", metavar="PACKAGE...", type=PackageType(), nargs=-1, required=True)
def deactivate(
    context: CommandContext, packages: tuple[PackageRef, ...], *, timeout: float | None
) -> None:
    """Take packages out of the profile.

    They stay downloaded. Several leave it in one generation.

    \b
    Examples:
      pkgctl deactivate hello
      pkgctl deactivate hello@2.12.1 parrot
    """
    named = [_to_deactivate(context, ref) for ref in packages]
    found = list({one["id"]: one for one in named}.values())
    if len(found) == 1:
        path = f"package/{found[0]['id']}/deactivate"
        answers = [context.client.post(path, None, **context.of_profile)]
    else:
        words = context.command_line("deactivate", *packages)
        answers = _deactivate_all(context, found, WaitSettings(timeout, words))
    for package in found:
        context.printer.line(f"Success: {_deactivated(context, package)}")
    context.printer.json(answers if len(packages) > 1 else answers[0])


def _deactivated(context: CommandContext, package: JsonObject) -> str:
    """Return in a sentence what was done to a package, as it was before."""
    if context.is_active(package):
        return f"Deactivated {title(package)}"
    profiles = ", ".join(package.get("profiles") or [])
    where = f" in {context.profile}, but in {profiles}" if profiles else ""
    return f"{title(package)} isn't active{where}"


def _deactivate_all(
    context: CommandContext, packages: list[JsonObject], settings: WaitSettings
) -> list[JsonObject]:
    """Take packages out of the profile in one generation; return the status of each."""
    ids = {package["id"] for package in packages}
    before = sets.held(context, context.profile)
    rest = sets.references(one for one in before.packages if one["id"] not in ids)
    sets.put(context, context.profile, rest, settings, before.etag)
    return [{"status": context.package(one["id"])["status"]} for one in packages]


def _to_deactivate(context: CommandContext, ref: PackageRef) -> JsonObject:
    """Return the package that is meant; where none of a name is active, nothing is to be chosen."""
    named = context.packages_named(ref) if isinstance(ref, str) else []
    if named and not any(map(context.is_active, named)):
        return named[-1]
    return context.package(ref)


@click.command()
@common_options
@profile_option
def generations(context: CommandContext) -> None:
    """List what the profile has held.

    The newest generation comes first.

    \b
    Example:
      pkgctl generations
    """
    found = context.client.list_all("generations", **context.of_profile)
    context.printer.table(found, GENERATION_COLUMNS)


@click.command()
@common_options
@profile_option
def rollback(context: CommandContext) -> None:
    """Go back to the generation before.

    That is the one that was active before this one, so that the second of two rollbacks undoes the
    first. `pkgctl switch` goes further back.

    \b
    Example:
      pkgctl rollback
    """
    _switch(context, "generations/rollback")


@click.command()
@common_options
@profile_option
@click.argument(
    "number",
    metavar="N",
    type=NumberType("pkgctl generations lists them"),
    shell_complete=completion.generations,
)
def switch(context: CommandContext, number: int) -> None:
    """Switch the profile to a generation.

    \b
    Example:
      pkgctl switch 3
    """
    _switch(context, f"generation/{number}/activate")


def _switch(context: CommandContext, path: str) -> None:
    """Switch to a generation, and print what that changed in the profile."""
    listed = context.client.list_all("generations", **context.of_profile)
    before = next((one for one in listed if one["active"]), None)
    generation = context.client.post(path, None, **context.of_profile)

    number = generation["number"]
    text = f"Success: Switched to generation {number}"
    if before and before["number"] == number:
        text = f"Success: Generation {number} was active already; nothing has changed"
    else:
        was = set(map(title, before["packages"])) if before else set()
        now = set(map(title, generation["packages"]))
        for line in [
            *(f"- {one}" for one in sorted(was - now)),
            *(f"+ {one}" for one in sorted(now - was)),
        ]:
            context.printer.line(line)
        if was == now:
            text += ", which holds the same packages"
    context.printer.result(generation, text)
