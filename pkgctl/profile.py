"""The commands of the profile: what is active, what was, and the way back."""

import click

from pkgctl.client import Document
from pkgctl.options import PackageType, Setup, Wanted, common, title
from pkgctl.output import Columns, moment

GENERATIONS: Columns = {
    "GENERATION": lambda generation: generation["number"],
    "ACTIVE": lambda generation: "yes" if generation["active"] else "no",
    "SINCE": lambda generation: moment(_latest(generation, "at")),
    "BY": lambda generation: _latest(generation, "by"),
    "WHY": lambda generation: _latest(generation, "reason"),
    "PACKAGES": lambda generation: ", ".join(map(title, generation["packages"])),
}
CHANGES: Columns = {
    "ADDED": lambda changes: ", ".join(map(title, changes["added"])),
    "REPLACED": lambda changes: ", ".join(
        f"{one['name']} {one['old']} by {one['new']}" for one in changes["replaced"]
    ),
    "REMOVED": lambda changes: ", ".join(map(title, changes["removed"])),
    "CLOSURE BYTES": lambda changes: f"{changes['closure_size_change']:+}",
}


def _latest(generation: Document, what: str) -> str | None:
    """Return something of the latest change that led to a generation."""
    changes = generation["changes"]
    return changes[0][what] if changes else None


@click.command()
@common
@click.argument("package", metavar="PACKAGE", type=PackageType())
@click.option("--dry-run", is_flag=True, help="Only tell what would change.")
def activate(setup: Setup, package: int | Wanted, *, dry_run: bool) -> None:
    """Put a package in the profile, in place of another version.

    \b
    Examples:
      pkgctl activate 1
      pkgctl activate hello@2.12.1 --dry-run
    """
    found = setup.package(package)
    path = f"package/{found['id']}/activate"
    if dry_run:
        setup.screen.fields(setup.client.post(path, dry_run="true"), CHANGES)
        return
    said = f"Success: Activated package v{found['version']}"
    setup.screen.answer(setup.client.post(path), said)


@click.command()
@common
@click.argument("package", metavar="PACKAGE", type=PackageType())
def deactivate(setup: Setup, package: int | Wanted) -> None:
    """Take a package out of the profile; it stays downloaded.

    \b
    Example:
      pkgctl deactivate hello@2.12.1
    """
    found = setup.package(package)
    said = f"Success: Deactivated package v{found['version']}"
    setup.screen.answer(setup.client.post(f"package/{found['id']}/deactivate"), said)


@click.command()
@common
def generations(setup: Setup) -> None:
    """List what the profile has held, newest first.

    \b
    Example:
      pkgctl generations
    """
    setup.screen.rows(setup.client.each("generations"), GENERATIONS)


@click.command()
@common
def rollback(setup: Setup) -> None:
    """Switch back to the generation that was active before.

    \b
    Example:
      pkgctl rollback
    """
    generation = setup.client.post("generations/rollback")
    said = f"Success: Switched to generation {generation['number']}"
    setup.screen.answer(generation, said)


@click.command()
@common
@click.argument("number", metavar="N", type=click.IntRange(min=0))
def switch(setup: Setup, number: int) -> None:
    """Switch the profile to one of its generations.

    \b
    Example:
      pkgctl switch 3
    """
    generation = setup.client.post(f"generation/{number}/activate")
    said = f"Success: Switched to generation {generation['number']}"
    setup.screen.answer(generation, said)


COMMANDS = (activate, deactivate, generations, rollback, switch)
