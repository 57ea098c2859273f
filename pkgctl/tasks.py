"""Tasks: waiting for their end or for less, and the commands that show and stop them."""

import math
import shlex
import time
from dataclasses import dataclass, replace
from http import HTTPStatus
from itertools import islice
from types import FrameType
from uuid import UUID

import click

from pkgctl.client import Client, Document, Exit, Failure
from pkgctl.options import PackageType, Setup, TaskType, Wanted, common, waits
from pkgctl.output import Columns, Screen, View, moment

LIVE = ("queued", "running")
POLL_SECONDS = 0.5
TAIL_BYTES = 2048
LOG_END = 2**53 - 1

TASKS: Columns = {
    "ID": lambda task: task["id"],
    "PACKAGE": lambda task: task["package_id"],
    "STATUS": lambda task: task["status"],
    "CREATED": lambda task: moment(task["created_at"]),
    "ERROR": lambda task: task["error"] and task["error"]["code"],
}
EXITS = {
    "timed_out": Exit.TIMED_OUT,
    "name_unknown": Exit.NOT_FOUND,
    "version_unavailable": Exit.NOT_FOUND,
}


@dataclass(frozen=True)
class Waiting:
    """How to wait: for how many seconds, with the whole log or not, and what an interrupt does.

    `again` is the command that takes the waiting up again.
    """

    timeout: float | None
    again: tuple[str, ...]
    whole_log: bool = False
    cancel_on_interrupt: bool = False


class Interrupted(Exception):
    """The person doesn't want to wait any more; the message says what becomes of the task."""


class Interrupts:
    """Ctrl-C, and a stop by a signal.

    They are raised where they come. But what comes while Python closes a connection that nobody
    needs any more is lost there: so it is kept in mind, and raised again by `recall`.
    """

    def __init__(self) -> None:
        self._pending = False

    def take(self, _number: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        self._pending = True
        raise KeyboardInterrupt

    def recall(self) -> None:
        """Raise what was lost."""
        if self._pending:
            raise KeyboardInterrupt

    def settle(self) -> None:
        """Forget what has been dealt with."""
        self._pending = False


interrupts = Interrupts()


class TaskLog:
    """Reads a task's log as it grows, from one attempt to the next."""

    def __init__(self, client: Client, task_id: str, *, whole: bool) -> None:
        self._client = client
        self._task_id = task_id
        self._attempt = 1
        self._offset: int | None = 0 if whole else None

    def read(self, attempt: int) -> bytes:
        """Return what is new up to this attempt's log as it is now."""
        if self._offset is None:
            self._attempt = max(attempt, 1)
            _, end = self._client.log(self._task_id, self._attempt, LOG_END)
            self._offset = max(0, end - TAIL_BYTES)

        data = self._rest()
        while self._attempt < attempt:
            self._attempt, self._offset = self._attempt + 1, 0
            data += self._rest()
        return data

    def _rest(self) -> bytes:
        data, self._offset = self._client.log(self._task_id, self._attempt, self._offset or 0)
        return data


class Watch:
    """Follows a task in a view, for as long as the person wants to."""

    def __init__(self, client: Client, task_id: str, view: View, waiting: Waiting) -> None:
        self._client = client
        self._task_id = task_id
        self._view = view
        self._waiting = waiting
        self._log = TaskLog(client, task_id, whole=view.whole_log)

    def follow(self, deadline: float) -> Document:
        """Return the task once it has ended; raises Failure at the deadline."""
        while True:
            interrupts.recall()
            asked = time.monotonic()
            task = self._client.task(self._task_id, wait=POLL_SECONDS)
            self._view.show(task)
            if self._view.wants_log:
                self._view.log(self._log.read(task["attempt"]))
            if task["status"] not in LIVE:
                return task
            if time.monotonic() >= deadline:
                raise Failure("the time to wait is over", Exit.TIMED_OUT, self._way_back)
            # a server with too many clients waiting answers at once
            time.sleep(max(0.0, asked + POLL_SECONDS - time.monotonic()))

    def interrupt(self) -> Document:
        """Return the task once it was cancelled; raises Interrupted where that isn't wished."""
        detached = Interrupted(f": {self._way_back}")
        if not self._waiting.cancel_on_interrupt:
            raise detached
        try:
            self._cancel()
            task = self.follow(math.inf)
        except KeyboardInterrupt:
            raise detached from None
        if task["status"] == "succeeded":
            raise Interrupted(", but the task had succeeded already")
        return task

    @property
    def _way_back(self) -> str:
        return f"the task goes on; come back with: {shlex.join(self._waiting.again)}"

    def _cancel(self) -> None:
        """Ask for the cancellation; one that comes too late is no fault."""
        try:
            self._client.post(f"task/{self._task_id}/cancel")
        except Failure as error:
            if error.status != HTTPStatus.CONFLICT:
                raise


def see_through(
    client: Client, screen: Screen, task_id: str, label: str, waiting: Waiting
) -> Document:
    """Wait for a task, showing it; raises Failure or Interrupted unless it succeeds."""
    patience = client.patience
    deadline = math.inf if waiting.timeout is None else time.monotonic() + waiting.timeout
    with screen.progress(label, whole_log=waiting.whole_log) as view:
        watch = Watch(client, task_id, view, waiting)
        client.patience = replace(patience, deadline=deadline, tell=view.tell)
        try:
            task = watch.follow(deadline)
        except KeyboardInterrupt:
            interrupts.settle()
            client.patience = replace(patience, tell=view.tell)
            task = watch.interrupt()
        finally:
            client.patience = patience
    check(task)
    return task


def check(task: Document) -> None:
    """Raise Failure unless the task has succeeded."""
    if task["status"] == "cancelled":
        raise Failure("the task was cancelled", Exit.CANCELLED)
    if error := task["error"]:
        exit_code = EXITS.get(error["code"], Exit.FAILED)
        more = "" if exit_code == Exit.NOT_FOUND else f"; pkgctl logs {task['id']}"
        raise Failure(error["message"], exit_code, error["hint"] + more)


@click.command()
@common
@waits
@click.argument("task", metavar="TASK|PACKAGE", type=TaskType())
@click.option("-f", "--follow", is_flag=True, help="Go on until the task has ended.")
@click.option("--attempt", type=click.IntRange(min=1), help="Which attempt's.  [default: the last]")
def logs(
    setup: Setup,
    task: UUID | int | Wanted,
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
    task_id = setup.task_id(task)
    if follow:
        waiting = Waiting(timeout, setup.again("logs", "-f", task), whole_log=True)
        ended = see_through(setup.client, setup.screen, task_id, "log", waiting)
        setup.screen.document(ended)
        return
    shown = setup.client.task(task_id, wait=0)
    latest = max(shown["attempt"], 1)
    if attempt and attempt > latest:
        hint = f"the latest is {latest}"
        raise Failure(f"task {task_id} has no attempt {attempt}", Exit.NOT_FOUND, hint)
    data, _ = setup.client.log(task_id, attempt or latest, 0)
    setup.screen.log(data)
    setup.screen.document(shown | {"log": data.decode("utf-8", "replace")})


@click.command()
@common
@click.option(
    "--status", type=click.Choice(["queued", "running", "succeeded", "failed", "cancelled"])
)
@click.option("--package", type=PackageType(), help="Only those of a package.")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="Only so many.")
def tasks(
    setup: Setup, status: str | None, package: int | Wanted | None, limit: int | None
) -> None:
    """List the tasks, newest first.

    \b
    Examples:
      pkgctl tasks -n 20
      pkgctl tasks --status running --package hello@2.12.1
    """
    package_id = None if package is None else setup.package(package)["id"]
    listed = setup.client.each("tasks", status=status, package_id=package_id)
    setup.screen.rows(islice(listed, limit), TASKS)


@click.command()
@common
@click.argument("task", metavar="TASK|PACKAGE", type=TaskType())
def cancel(setup: Setup, task: UUID | int | Wanted) -> None:
    """Stop a task; of a package, its latest one.

    \b
    Examples:
      pkgctl cancel hello@2.12.1
      pkgctl cancel 5f8d1f4e-6c3f-4c5b-9d38-0f6a3c1f9a55
    """
    stopped = setup.client.post(f"task/{setup.task_id(task)}/cancel")
    done = "Cancelled" if stopped["status"] == "cancelled" else "Asked to stop"
    setup.screen.answer(stopped, f"Success: {done}: task {stopped['id']}")


COMMANDS = (logs, tasks, cancel)
