"""Waiting for a task: polling, its log as it grows, interrupts and the time-out."""

import math
import shlex
import time
from dataclasses import dataclass, replace
from http import HTTPStatus
from types import FrameType

from pkgctl.client import Client, JsonObject
from pkgctl.errors import CommandError, ExitCode
from pkgctl.output import Printer, TaskView

LIVE_STATUSES = ("queued", "running")
PUBLISHING = "publishing"  # the phase of a download whose package is downloaded
UNPUBLISHED = "publish_failed"  # the code of one that ended there
POLL_SECONDS = 0.5
TAIL_BYTES = 2048
END_OF_LOG = 2**53 - 1  # an offset past every log's end

ERROR_EXIT_CODES = {
    "timed_out": ExitCode.TIMED_OUT,
    "files_collide": ExitCode.REFUSED,
    "profile_refused": ExitCode.REFUSED,
    "check_failed": ExitCode.REFUSED,
    "profile_changed": ExitCode.REFUSED,
    "lock_mismatch": ExitCode.REFUSED,
    "name_unknown": ExitCode.NOT_FOUND,
    "version_unavailable": ExitCode.NOT_FOUND,
}


@dataclass(frozen=True)
class WaitSettings:
    """How to wait for a task.

    `timeout` is in seconds. `resume_command` is the command that waits for the same task again.
    With `until_downloaded`, whether the package is published in a binary cache doesn't matter.
    """

    timeout: float | None
    resume_command: tuple[str, ...]
    whole_log: bool = False
    cancel_on_interrupt: bool = False
    until_downloaded: bool = False


class Interrupted(Exception):
    """The user stopped the waiting; the message says what happens to the task."""


class InterruptHandler:
    """Turns SIGINT and SIGTERM into KeyboardInterrupt, and remembers them until `clear`.

    Python discards an exception that is raised while a finalizer runs, such as the one that closes
    a connection. So a loop that waits calls `check` in each round.
    """

    def __init__(self) -> None:
        self._pending = False

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        self._pending = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has come since the last `clear`."""
        if self._pending:
            raise KeyboardInterrupt

    def clear(self) -> None:
        """Forget the signals that have come."""
        self._pending = False


interrupts = InterruptHandler()


class LogReader:
    """Reads a task's log as it grows, from one attempt to the next."""

    def __init__(self, client: Client, task_id: str, *, whole: bool) -> None:
        self._client = client
        self._task_id = task_id
        self._attempt = 1
        self._offset: int | None = 0 if whole else None

    def read(self, attempt: int) -> bytes:
        """Return what is new up to the current end of this attempt's log."""
        if self._offset is None:
            self._attempt = max(attempt, 1)
            _, end = self._client.log(self._task_id, self._attempt, END_OF_LOG)
            self._offset = max(0, end - TAIL_BYTES)

        data = self._read_on()
        while self._attempt < attempt:
            self._attempt, self._offset = self._attempt + 1, 0
            data += self._read_on()
        return data

    def _read_on(self) -> bytes:
        data, self._offset = self._client.log(self._task_id, self._attempt, self._offset or 0)
        return data


class TaskWatcher:
    """Polls a task and shows it in a view until it ends or the user stops the waiting."""

    def __init__(
        self, client: Client, task_id: str, view: TaskView, settings: WaitSettings
    ) -> None:
        self._client = client
        self._task_id = task_id
        self._view = view
        self._settings = settings
        self._log = LogReader(client, task_id, whole=view.whole_log)

    def wait(self, deadline: float) -> JsonObject:
        """Return the task once it has ended; raises CommandError at the deadline."""
        while True:
            interrupts.check()
            polled_at = time.monotonic()
            task = self._poll()
            if task["status"] not in LIVE_STATUSES or self._is_enough(task):
                return task
            if time.monotonic() >= deadline:
                raise CommandError("the time to wait is over", ExitCode.TIMED_OUT, self._resume)
            # a server with too many waiting clients answers at once
            time.sleep(max(0.0, polled_at + POLL_SECONDS - time.monotonic()))

    def _is_enough(self, task: JsonObject) -> bool:
        return self._settings.until_downloaded and task["progress"]["phase"] == PUBLISHING

    def handle_interrupt(self) -> JsonObject:
        """Cancel the task if the user wants that, and return it; else raise Interrupted."""
        detached = Interrupted(f": {self._resume}")
        if not self._settings.cancel_on_interrupt:
            raise detached
        try:
            self._cancel()
            task = self.wait(math.inf)
        except KeyboardInterrupt:
            raise detached from None
        if task["status"] == "succeeded":
            raise Interrupted(", but the task had succeeded already")
        return task

    @property
    def _resume(self) -> str:
        command = shlex.join(self._settings.resume_command)
        return f"the task goes on; come back with: {command}"

    def _poll(self) -> JsonObject:
        task = self._client.task(self._task_id, wait=POLL_SECONDS)
        self._view.show(task)
        if self._view.wants_log:
            self._view.log(self._log.read(task["attempt"]))
        return task

    def _cancel(self) -> None:
        """Request the cancellation; accept that the task may have ended already."""
        try:
            self._client.post(f"task/{self._task_id}/cancel")
        except CommandError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise


def wait_for_task(
    client: Client, printer: Printer, task_id: str, label: str, settings: WaitSettings
) -> JsonObject:
    """Show a task until it succeeds, and return it; else raise CommandError or Interrupted."""
    policy = client.retry_policy
    deadline = math.inf if settings.timeout is None else time.monotonic() + settings.timeout
    with printer.task_view(label, whole_log=settings.whole_log) as view:
        watcher = TaskWatcher(client, task_id, view, settings)
        client.retry_policy = replace(policy, deadline=deadline, notify=view.report_outage)
        try:
            task = watcher.wait(deadline)
        except KeyboardInterrupt:
            interrupts.clear()
            client.retry_policy = replace(policy, notify=view.report_outage)
            task = watcher.handle_interrupt()
        finally:
            client.retry_policy = policy

    is_downloaded = task["error"] and task["error"]["code"] == UNPUBLISHED
    if not (settings.until_downloaded and is_downloaded):
        check_success(task)
    return task


def check_success(task: JsonObject) -> None:
    """Raise CommandError unless an ended task has succeeded."""
    error = task["error"]
    if task["status"] == "cancelled":
        message, hint = (
            (error["message"], error["hint"]) if error else ("the task was cancelled", "")
        )
        raise CommandError(message, ExitCode.CANCELLED, hint)
    if error:
        exit_code = ERROR_EXIT_CODES.get(error["code"], ExitCode.FAILED)
        more = "" if exit_code == ExitCode.NOT_FOUND else f"; pkgctl logs {task['id']}"
        raise CommandError(error["message"], exit_code, error["hint"] + more)
