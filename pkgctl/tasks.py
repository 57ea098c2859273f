"""The commands of tasks: logs, tasks, cancel."""

from itertools import islice

import click

from pkgctl.errors import CommandError, ExitCode
from pkgctl.options import (
    CommandContext,
    PackageRef,
    PackageType,
    TaskRef,
    TaskType,
    common_options,
    wait_options,
)
from pkgctl.output import TableColumns, whole_seconds
from pkgctl.waiting import WaitSettings, wait_for_task

TASK_COLUMNS: TableColumns = {
    "ID": lambda task: task["id"],
    # A server of an earlier version knows nothing but packages.
    "PACKAGE": lambda task: task["package_id"] or f"index of {task['catalog']}",
    "STATUS": lambda task: task["status"],
    "CREATED": lambda task: whole_seconds(task["created_at"]),
    "ERROR": lambda task: task["error"] and task["error"]["code"],
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
    """Print the build log of a task, or of a package's latest.

    \b
    Examples:
      pkgctl logs hello@2.12.1
      pkgctl logs -f 5f8d1f4e-6c3f-4c5b-9d38-0f6a3c1f9a55
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
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most this many.")
def tasks(
    context: CommandContext, status: str | None, package: PackageRef | None, limit: int | None
) -> None:
    """List the tasks, newest first.

    \b
    Examples:
      pkgctl tasks -n 20
      pkgctl tasks --status running --package hello@2.12.1
    """
    package_id = None if package is None else context.package(package)["id"]
    listed = context.client.list_all("tasks", status=status, package_id=package_id)
    context.printer.table(islice(listed, limit), TASK_COLUMNS)


@click.command()
@common_options
@click.argument("task", metavar="TASK|PACKAGE", type=TaskType())
def cancel(context: CommandContext, task: TaskRef) -> None:
    """Stop a task; of a package, its latest one.

    \b
    Examples:
      pkgctl cancel hello@2.12.1
      pkgctl cancel 5f8d1f4e-6c3f-4c5b-9d38-0f6a3c1f9a55
    """
    stopped = context.client.post(f"task/{context.task_id(task)}/cancel")
    done = "Cancelled" if stopped["status"] == "cancelled" else "Asked to stop"
    context.printer.result(stopped, f"Success: {done}: task {stopped['id']}")
