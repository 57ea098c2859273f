"""The steps that commands share: register packages, request downloads, wait for them."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus

from pkgctl.arguments import PackageSpec
from pkgctl.client import JsonObject
from pkgctl.errors import CommandError, ExitCode, ServerUnreachable
from pkgctl.options import CommandContext, nearest, spelled
from pkgctl.output import warn
from pkgctl.tables import title
from pkgctl.waiting import Interrupted, WaitSettings, wait_for_task

OTHERS = "nothing was activated; --keep-going activates the others"
ENDS = {ExitCode.FAILED, ExitCode.CANCELLED, ExitCode.TIMED_OUT, ExitCode.NOT_FOUND}


@dataclass(kw_only=True)
class Awaited:
    """A task that is waited for, and why it failed; `task_id` is None if nothing is to be done."""

    task_id: str | None
    label: str
    error: CommandError | None = None


@dataclass(kw_only=True)
class Download(Awaited):
    """A package that is downloaded; `task_id` is None if it was before."""

    package: JsonObject
    is_new: bool


def register(context: CommandContext, spec: PackageSpec) -> JsonObject:
    """Register a package; a version that the server takes for none may be a catalog's spelling."""
    try:
        package: JsonObject = context.client.post("packages", asdict(spec))
    except CommandError as error:
        if error.status != HTTPStatus.UNPROCESSABLE_ENTITY:
            raise
        offers = context.versions(spec.name)
        meant = spelled(spec, offers)
        if meant is None:
            hint = f"the catalogs have {spec.name} {nearest(spec, offers)}" if offers else ""
            raise CommandError(error.reason, error.exit_code, hint, error.status) from None
        package = context.client.post("packages", asdict(meant))
    return package


def start(context: CommandContext, spec: PackageSpec) -> Download:
    """Register a package, unless it is, and request its download."""
    package, is_new = _register_or_find(context, spec)
    answer = context.client.post(f"package/{package['id']}/download")
    task_id = answer["task_id"] if answer["status"] == "created" else None
    return Download(task_id=task_id, label=title(package), package=package, is_new=is_new)


def _register_or_find(context: CommandContext, spec: PackageSpec) -> tuple[JsonObject, bool]:
    """Return the package, and whether it was registered now."""
    try:
        package = register(context, spec)
    except CommandError as error:
        if error.status != HTTPStatus.CONFLICT:
            raise
        return context.package(spec), False
    context.printer.line(f"Registered {title(package)} as package {package['id']}")
    return package, True


def download_and_wait(context: CommandContext, package: JsonObject, settings: WaitSettings) -> None:
    """Request a download, and wait for its task unless the package is downloaded already."""
    answer = context.client.post(f"package/{package['id']}/download")
    settings = replace(settings, until_downloaded=True)
    if answer["status"] == "created":
        wait_for_task(context.client, context.printer, answer["task_id"], title(package), settings)


def wait_for_all(
    context: CommandContext, downloads: Sequence[Awaited], settings: WaitSettings
) -> None:
    """Wait until each task has ended, and note why it failed; all share one time-out."""
    waiting = [download for download in downloads if download.task_id]
    settings = replace(settings, until_downloaded=True)
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
    context: CommandContext, download: Awaited, settings: WaitSettings
) -> CommandError | None:
    """Wait for a task; return why it failed, if it did. One that Ctrl-C cancelled ends all."""
    ends = ENDS - {ExitCode.CANCELLED} if settings.cancel_on_interrupt else ENDS
    try:
        task_id, label = str(download.task_id), download.label
        wait_for_task(context.client, context.printer, task_id, label, settings)
    except CommandError as error:
        if error.exit_code not in ends:
            raise
        return error
    return None


def _cancel(context: CommandContext, downloads: Sequence[Awaited]) -> None:
    """Cancel tasks that may not have ended."""
    for download in downloads:
        with suppress(CommandError):
            context.client.post(f"task/{download.task_id}/cancel")


def forget_unknown(context: CommandContext, downloads: list[Download]) -> None:
    """Remove what was registered now and no catalog has, such as of a server that tells late.

    Where that fails, the reason why the download failed counts.
    """
    for download in downloads:
        is_unknown = download.error and download.error.exit_code == ExitCode.NOT_FOUND
        if download.is_new and is_unknown:
            with suppress(CommandError):
                context.client.delete(f"package/{download.package['id']}")
                text = f"Removed {title(download.package)} again: no catalog has it"
                context.printer.line(text)


def warn_of_failures(downloads: list[Download]) -> None:
    """Warn of the downloads that failed, each with its reason."""
    for download in downloads:
        if download.error:
            warn(f"{download.label}: {download.error}")


def usable(downloads: list[Download], *, keep_going: bool) -> list[Download]:
    """Return the downloads that succeeded; none of them if one failed, unless `keep_going`."""
    done = [download for download in downloads if not download.error]
    return done if keep_going or len(done) == len(downloads) else []


def check(downloads: list[Download], *, keep_going: bool) -> None:
    """Raise CommandError where a download failed: its own reason, or how many did."""
    errors = [download.error for download in downloads if download.error]
    if errors:
        message = f"{len(errors)} of {len(downloads)} downloads failed"
        raise CommandError(message, errors[0].exit_code, "" if keep_going else OTHERS)


def activate(context: CommandContext, packages: list[JsonObject], **query: str) -> JsonObject:
    """Put packages in the profile in one generation, and return the server's answer."""
    ids, query = [package["id"] for package in packages], {**context.of_profile, **query}
    if len(ids) == 1:
        answer: JsonObject = context.client.post(f"package/{ids[0]}/activate", None, **query)
    else:
        answer = context.client.post("packages/activate", {"ids": ids}, **query)
    return answer
