"""The commands of the profile: activate, deactivate, generations, rollback, switch."""

import click

from pkgctl.client import JsonObject
from pkgctl.options import CommandContext, PackageRef, PackageType, common_options
from pkgctl.output import TableColumns, title, whole_seconds

GENERATION_COLUMNS: TableColumns = {
    "GENERATION": lambda generation: generation["number"],
    "ACTIVE": lambda generation: "yes" if generation["active"] else "no",
    "SINCE": lambda generation: whole_seconds(_latest_change(generation, "at")),
    "BY": lambda generation: _latest_change(generation, "by"),
    "WHY": lambda generation: _latest_change(generation, "reason"),
    "PACKAGES": lambda generation: ", ".join(map(title, generation["packages"])),
}
PLAN_COLUMNS: TableColumns = {
    "ADDED": lambda plan: ", ".join(map(title, plan["added"])),
    "REPLACED": lambda plan: ", ".join(
        f"{package['name']} {package['old']} by {package['new']}" for package in plan["replaced"]
    ),
    "REMOVED": lambda plan: ", ".join(map(title, plan["removed"])),
    "CLOSURE BYTES": lambda plan: f"{plan['closure_size_change']:+}",
}


def _latest_change(generation: JsonObject, field: str) -> str | None:
    """Return a field of the latest change that activated a generation."""
    changes = generation["changes"]
    return changes[0][field] if changes else None


def _called(ref: PackageRef, package: JsonObject) -> str:
    """Return what to call a package: by its name, unless the user called it by its id."""
    return f"package v{package['version']}" if isinstance(ref, int) else title(package)


def _switched(generation: JsonObject) -> str:
    packages = ", ".join(map(title, generation["packages"])) or "no packages"
    return f"Success: Switched to generation {generation['number']}: {packages}"


@click.command()
@common_options
@click.argument("package", metavar="PACKAGE", type=PackageType())
@click.option("--dry-run", is_flag=True, help="Only tell what would change.")
def activate(context: CommandContext, package: PackageRef, *, dry_run: bool) -> None:
    """Put a package in the profile, in place of another version.

    \b
    Examples:
      pkgctl activate 1
      pkgctl activate hello@2.12.1 --dry-run
    """
    found = context.package(package)
    path = f"package/{found['id']}/activate"
    if dry_run:
        context.printer.record(context.client.post(path, dry_run="true"), PLAN_COLUMNS)
        return

    text = f"Success: Activated {_called(package, found)}"
    context.printer.result(context.client.post(path), text)


@click.command()
@common_options
@click.argument("package", metavar="PACKAGE", type=PackageType())
def deactivate(context: CommandContext, package: PackageRef) -> None:
    """Take a package out of the profile; it stays downloaded.

    \b
    Example:
      pkgctl deactivate hello@2.12.1
    """
    found = context.package(package)
    text = f"Success: Deactivated {_called(package, found)}"
    context.printer.result(context.client.post(f"package/{found['id']}/deactivate"), text)


@click.command()
@common_options
def generations(context: CommandContext) -> None:
    """List what the profile has held, newest first.

    \b
    Example:
      pkgctl generations
    """
    context.printer.table(context.client.list_all("generations"), GENERATION_COLUMNS)


@click.command()
@common_options
def rollback(context: CommandContext) -> None:
    """Switch back to the generation that was active before.

    \b
    Example:
      pkgctl rollback
    """
    generation = context.client.post("generations/rollback")
    context.printer.result(generation, _switched(generation))


@click.command()
@common_options
@click.argument("number", metavar="N", type=click.IntRange(min=0))
def switch(context: CommandContext, number: int) -> None:
    """Switch the profile to one of its generations.

    \b
    Example:
      pkgctl switch 3
    """
    generation = context.client.post(f"generation/{number}/activate")
    context.printer.result(generation, _switched(generation))
