"""The commands outdated and upgrade: what is newer on offer, and taking it up in one step."""

from collections.abc import Collection

import click

from pkgctl import completion, downloads, programs, sets
from pkgctl.arguments import PackageSpec
from pkgctl.catalog import newer
from pkgctl.client import JsonObject
from pkgctl.errors import CommandError, ExitCode
from pkgctl.options import CommandContext, common_options, download_options, profile_option
from pkgctl.output import warn
from pkgctl.tables import Columns, text_column, title
from pkgctl.waiting import WaitSettings

OUTDATED_COLUMNS: Columns = {
    "NAME": text_column(lambda change: change["name"]),
    "INSTALLED": text_column(lambda change: change["installed"]),
    "NEWEST": text_column(lambda change: change["newest"]),
    "CATALOG": text_column(lambda change: change["catalog"]),
}


@click.command()
@common_options
@profile_option
def outdated(context: CommandContext) -> None:
    """List active packages with newer versions.

    \b
    Examples:
      pkgctl outdated
      pkgctl outdated --json
    """
    changes = _find_changes(context)
    context.printer.table(changes, OUTDATED_COLUMNS, empty="Everything is up to date.")


@click.command()
@common_options
@profile_option
@download_options
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=completion.active_names)
@click.option("--dry-run", is_flag=True, help="Only tell what would change.")
@click.option("--keep-going", is_flag=True, help="Activate the others when a download fails.")
def upgrade(
    context: CommandContext,
    names: tuple[str, ...],
    *,
    dry_run: bool,
    keep_going: bool,
    timeout: float | None,
    whole_log: bool,
    cancel_on_interrupt: bool,
) -> None:
    """Upgrade active packages.

    The newest versions take their place, all in one generation. All are downloaded first; if one
    fails, nothing changes. `pkgctl rollback` goes back.

    \b
    Examples:
      pkgctl upgrade
      pkgctl upgrade hello --dry-run
      pkgctl upgrade --keep-going --timeout 1h
    """
    changes = _find_changes(context, names)
    if dry_run or not changes:
        _report(context, changes, "" if changes else "Success: Everything is up to date")
        return

    words = ["upgrade", *names, "--keep-going"] if keep_going else ["upgrade", *names]
    settings = WaitSettings(timeout, context.command_line(*words), whole_log, cancel_on_interrupt)
    if not keep_going:
        _apply(context, changes, settings)
        return
    specs = [PackageSpec(change["name"], change["newest"]) for change in changes]
    started = [downloads.start(context, spec) for spec in specs]
    downloads.wait_for_all(context, started, settings)
    downloads.warn_of_failures(started)
    downloads.forget_unknown(context, started)
    usable = downloads.usable(started, keep_going=True)
    if usable:
        downloads.activate(context, [download.package for download in usable])
        _finish(context, [download.package for download in usable], changes)
    downloads.check(started, keep_going=True)


def _find_changes(context: CommandContext, names: Collection[str] = ()) -> list[JsonObject]:
    """Return what is newer on offer than what is active; warn of what no catalog has any more."""
    active = context.active()
    if missing := set(names) - {package["name"] for package in active}:
        hint = "pkgctl list --status activated lists what is"
        message = f"{', '.join(sorted(missing))}: not active"
        raise CommandError(message, ExitCode.NOT_FOUND, hint)

    changes = []
    for package in active:
        if names and package["name"] not in names:
            continue
        try:
            offer = newer(context, package)
        except CommandError as error:
            if error.exit_code != ExitCode.NOT_FOUND:
                raise
            warn(f"{title(package)}: {error}")
            continue
        if offer is not None:
            changes.append(_change(package, offer))
    return changes


def _change(package: JsonObject, offer: JsonObject) -> JsonObject:
    return {
        "name": package["name"],
        "installed": package["version"],
        "newest": offer["version"],
        "catalog": offer["catalog"],
    }


def _apply(context: CommandContext, changes: list[JsonObject], settings: WaitSettings) -> None:
    """Have the profile hold the newer versions, or nothing of them, unless it changes meanwhile."""
    before = sets.held(context, context.profile)
    newest = {change["name"]: change["newest"] for change in changes}
    wanted = [
        {"name": one["name"], "version": newest.get(one["name"], one["version"])}
        for one in before.packages
    ]
    profile = sets.put(context, context.profile, wanted, settings, before.etag, downloads.OTHERS)
    _finish(context, [one for one in profile["packages"] if one["name"] in newest], changes)


def _finish(context: CommandContext, packages: list[JsonObject], changes: list[JsonObject]) -> None:
    """Print what an upgrade to these packages has changed."""
    names = {package["name"] for package in packages}
    count = f"{len(packages)} package{'s' * (len(packages) > 1)}"
    done = [change for change in changes if change["name"] in names]
    _report(context, done, f"Success: Upgraded {count}")
    if context.printer.is_terminal:
        upgraded = [context.package(package["id"]) for package in packages]
        programs.show(context, upgraded, in_profile=True)


def _report(context: CommandContext, changes: list[JsonObject], text: str) -> None:
    """Print what goes and what comes, and a last line."""
    for change in changes:
        context.printer.line(f"- {change['name']} {change['installed']}")
        context.printer.line(f"+ {change['name']} {change['newest']}")
    if text:
        context.printer.line(text)
    context.printer.json(changes)
