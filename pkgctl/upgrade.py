"""The commands outdated and upgrade: what is newer on offer, and taking it up in one step."""

import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace

import click

from pkgctl.catalog import newer
from pkgctl.client import JsonObject
from pkgctl.errors import CommandError, ExitCode, ServerUnreachable
from pkgctl.install import forget, register_or_find
from pkgctl.options import CommandContext, PackageSpec, common_options, download_options
from pkgctl.output import TableColumns, title, warn
from pkgctl.waiting import Interrupted, WaitSettings, wait_for_task

OUTDATED_COLUMNS: TableColumns = {
    "NAME": lambda change: change["name"],
    "INSTALLED": lambda change: change["installed"],
    "NEWEST": lambda change: change["newest"],
    "CATALOG": lambda change: change["catalog"],
}
ENDS = {ExitCode.FAILED, ExitCode.CANCELLED, ExitCode.TIMED_OUT, ExitCode.NOT_FOUND}


@dataclass
class Download:
    """A newer version that is downloaded; `task_id` is None if it was before."""

    change: JsonObject
    package: JsonObject
    is_new: bool
    task_id: str | None
    error: CommandError | None = None


@click.command()
@common_options
def outdated(context: CommandContext) -> None:
    """List the active packages of which there are newer versions.

    \b
    Examples:
      pkgctl outdated
      pkgctl outdated --json
    """
    context.printer.table(_find_changes(context), OUTDATED_COLUMNS)


@click.command()
@common_options
@download_options
@click.argument("names", metavar="[NAME]...", nargs=-1)
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
    """Replace active packages by the newest versions, all in one generation.

    All are downloaded first; if one fails, nothing is activated. `pkgctl rollback` goes back.

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
    downloads = [_start(context, change) for change in changes]
    _wait_for_all(context, downloads, settings)
    _activate(context, downloads, keep_going=keep_going)


def _find_changes(context: CommandContext, names: Collection[str] = ()) -> list[JsonObject]:
    """Return what is newer on offer than what is active; warn of what no catalog has any more."""
    active = list(context.client.list_all("packages", status="activated"))
    if missing := set(names) - {package["name"] for package in active}:
        raise CommandError(f"{', '.join(sorted(missing))}: not active", ExitCode.NOT_FOUND)

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


def _start(context: CommandContext, change: JsonObject) -> Download:
    """Register the newer version, and request its download."""
    spec = PackageSpec(change["name"], change["newest"])
    package, is_new = register_or_find(context, spec)
    answer = context.client.post(f"package/{package['id']}/download")
    task_id = answer["task_id"] if answer["status"] == "created" else None
    return Download(change, package, is_new, task_id)


def _wait_for_all(
    context: CommandContext, downloads: list[Download], settings: WaitSettings
) -> None:
    """Wait until each download has ended, and note why it failed; all share one time-out."""
    waiting = [download for download in downloads if download.task_id]
    deadline = time.monotonic() + (settings.timeout or 0)
    for place, download in enumerate(waiting):
        if settings.timeout is not None:
            settings = replace(settings, timeout=max(0.0, deadline - time.monotonic()))
        try:
            download.error = _failure(context, download, settings)
        except (Interrupted, CommandError) as error:
            if settings.cancel_on_interrupt and not isinstance(error, ServerUnreachable):
                _cancel(context, waiting[place + 1 :])
            raise


def _failure(
    context: CommandContext, download: Download, settings: WaitSettings
) -> CommandError | None:
    """Wait for a download; return why it failed, if it did. One that Ctrl-C cancelled ends all."""
    label = title(download.package)
    ends = ENDS - {ExitCode.CANCELLED} if settings.cancel_on_interrupt else ENDS
    try:
        wait_for_task(context.client, context.printer, str(download.task_id), label, settings)
    except CommandError as error:
        if error.exit_code not in ends:
            raise
        return error
    return None


def _cancel(context: CommandContext, downloads: list[Download]) -> None:
    """Cancel downloads that may not have ended."""
    for download in downloads:
        with suppress(CommandError):
            context.client.post(f"task/{download.task_id}/cancel")


def _activate(context: CommandContext, downloads: list[Download], *, keep_going: bool) -> None:
    """Activate what was downloaded in one generation; raise CommandError if something failed."""
    failed = [download for download in downloads if download.error]
    for download in failed:
        warn(f"{title(download.package)}: {download.error}")
        if download.is_new and download.error and download.error.exit_code == ExitCode.NOT_FOUND:
            forget(context, download.package)

    done = [download for download in downloads if not download.error]
    if done and (keep_going or not failed):
        ids = [download.package["id"] for download in done]
        context.client.post("packages/activate", {"ids": ids})
        count = f"{len(done)} package{'s' * (len(done) > 1)}"
        changes = [download.change for download in done]
        _report(context, changes, f"Success: Upgraded {count}")
    if failed and failed[0].error:
        message = f"{len(failed)} of {len(downloads)} downloads failed"
        hint = "" if keep_going else "nothing was activated; --keep-going activates the others"
        raise CommandError(message, failed[0].error.exit_code, hint)


def _report(context: CommandContext, changes: list[JsonObject], text: str) -> None:
    """Print what goes and what comes, and a last line."""
    for change in changes:
        context.printer.line(f"- {change['name']} {change['installed']}")
        context.printer.line(f"+ {change['name']} {change['newest']}")
    if text:
        context.printer.line(text)
    context.printer.json(changes)
