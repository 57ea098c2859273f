"""The commands of tasks: logs, tasks, cancel."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from itertools import islice

import click

from pkgctl.arguments import PackageRef, PackageType, ProfileType, TaskRef, TaskType
from pkgctl.client import JsonObject
from pkgctl.errors import CommandError, ExitCode
from pkgctl.options import CommandContext, common_options, wait_options
from pkgctl.tables import Column, Columns, Kind, text_column, time_column, title
from pkgctl.waiting import WaitSettings, wait_for_task

ASKED_SINGLY = 10  # packages: for more of them, the whole list is quicker

TASK_COLUMNS: Columns = {
    "ID": Column(lambda task: task["id"], Kind.ID),
    "PACKAGE": text_column(lambda task: task["what"]),
    "STATUS": Column(lambda task: task["status"]),
    "CREATED": time_column(lambda task: task["created_at"]),
    "ERROR": text_column(lambda task: task["error"] and task["error"]["code"]),
}


@click.command()
@common_options
@wait_options
@click.argument("task", metavar="TASK|PACKAGE", type=TaskType())
@click.option("-f", "--follow", is_flag=True, help="Go on until the task has ended.")
@click.option("--attempt", type=click.IntRange(min=1), help="Which attempt.  [default: the last]")
def logs(
    context: CommandContext,
    task: TaskRef,
    *,
    follow: bool,
    attempt: int | None,
    timeout: float | None,
) -> None:
    """Print a build log.

    It is that of a task, or of a package's latest one.

    \b
    Examples:
      pkgctl logs hello
      pkgctl logs -f 0193abcd
    """
    if follow and attempt:
        raise click.UsageError("--follow goes through all attempts, and takes no --attempt")
    if follow:
        _follow_log(context, task, timeout)
    else:
        _print_log(context, task, attempt)


def _follow_log(context: CommandContext, ref: TaskRef, timeout: float | None) -> None:
    task_id = context.task_id(ref)
    settings = WaitSettings(timeout, context.command_line("logs", "-f", ref), whole_log=True)
    task = wait_for_task(context.client, context.printer, task_id, "log", settings)
    context.printer.json(task)


def _print_log(context: CommandContext, ref: TaskRef, attempt: int | None) -> None:
    task_id = context.task_id(ref)
    task = context.client.task(task_id, wait=0)
    latest = max(task["attempt"], 1)
    if attempt and attempt > latest:
        message = f"task {task_id} has no attempt {attempt}"
        raise CommandError(message, ExitCode.NOT_FOUND, f"the latest is {latest}")

    data, _ = context.client.log(task_id, attempt or latest, 0)
    context.printer.log(data)
    context.printer.json(task | {"log": data.decode("utf-8", "replace")})


@click.command()
@common_options
@click.option(
    "--status", type=click.Choice(["queued", "running", "succeeded", "failed", "cancelled"])
)
@click.option("--package", type=PackageType(), help="Only tasks of this package.")
@click.option("-p", "--profile", type=ProfileType(), help="Only applies to this profile.")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most this many.")
def tasks(
    context: CommandContext,
    *,
    status: str | None,
    package: PackageRef | None,
    profile: str | None,
    limit: int | None,
) -> None:
    """List the tasks, newest first.

    \b
    Examples:
      pkgctl tasks -n 20
      pkgctl tasks --status running --package hello
    """
    package_id = None if package is None else context.package(package)["id"]
    query = {"status": status, "package_id": package_id, "profile": profile}
    found = context.client.list_all("tasks", **query)
    listed = islice(found, limit)
    context.printer.table(
        listed if context.printer.as_json else _with_names(context, listed), TASK_COLUMNS
    )


def _with_names(context: CommandContext, tasks: Iterable[JsonObject]) -> Iterator[JsonObject]:
    """Yield each task with `what` it is about: name and version, a catalog, or a profile."""
    listed = list(tasks)
    titles = _titles(context, {task["package_id"] for task in listed if task["package_id"]})
    for task in listed:
        yield task | {"what": titles.get(task["package_id"]) or _other(task)}


def _other(task: JsonObject) -> str:
    """Return what a task is about that downloads no package; older servers have no applies."""
    profile = task.get("profile")
    if profile is None:
        what = "verification" if task["kind"] == "verify" else "index"
        return f"{what} of {task['catalog']}"
    return f"cache of {profile}" if task["kind"] == "publish" else f"profile {profile}"


def _titles(context: CommandContext, ids: Collection[int]) -> dict[int, str]:
    """Return the names and versions of packages, by their ids."""
    titles = {number: f"package {number}" for number in ids}
    if len(ids) > ASKED_SINGLY:
        packages = context.client.list_all("packages")
        return titles | {package["id"]: title(package) for package in packages}
    for number in ids:
        with suppress(CommandError):  # it may have been removed meanwhile
            titles[number] = title(context.client.get(f"package/{number}"))
    return titles


@click.command()
@common_options
@click.argument("task", metavar="TASK|PACKAGE", type=TaskType())
def cancel(context: CommandContext, task: TaskRef) -> None:
    """Stop a task, or a package's latest one.

    \b
    Examples:
      pkgctl cancel hello
      pkgctl cancel 0193abcd
    """
    stopped = context.client.post(f"task/{context.task_id(task)}/cancel")
    [named] = _with_names(context, [stopped])
    done = "Cancelled" if stopped["status"] == "cancelled" else "Asked to stop"
    context.printer.result(stopped, f"Success: {done} {named['what']}: task {stopped['id']}")
