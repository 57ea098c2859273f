"""The routes of tasks: look up, wait for, cancel, and read the log of."""

import re
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from flask import Response, stream_with_context
from sqlalchemy import func, select

import build_logs
import errors
import queries
import services
import task_queue
from api import Blueprint, cached, headers, page
from long_polling import FollowerSlots, pause, wait_until
from models import LIVE, AnyRow, Task, db, made_at
from schemas import LogQuerySchema, TaskQuerySchema, TaskSchema, WaitSchema

blueprint = Blueprint(
    "tasks", __name__, url_prefix="/api/v1", description="Follow and cancel downloads"
)

FOLLOW_SECONDS = 3600
WHOLE = 32  # hex digits of an id
PREFIX = re.compile(f"[0-9a-fA-F]{{4,{WHOLE}}}")
LISTED = 5  # ids that an error lists
UNFOUND = (errors.NoSuchTask, errors.AmbiguousTask)


@blueprint.get("/tasks")
@blueprint.arguments(TaskQuerySchema, location="query")
@blueprint.response(200, TaskSchema(many=True), headers=headers("Link", "X-Total-Count"))
def index(query: dict[str, Any]) -> Any:
    """List tasks, newest first."""
    return listed(query)


def listed(query: dict[str, Any]) -> tuple[list[AnyRow], dict[str, str]]:
    """Return one page of the tasks that a query selects, newest first, and its headers."""
    if isinstance(query.get("after"), UUID):
        query["after"] = _seq(query["after"])
    filters = {"status": Task.status, "kind": Task.kind, "package_id": Task.package_id}
    mine = queries.applied_to(query.pop("profile", None))
    # A Link goes by the place in the list, which stays when the task itself is deleted.
    return page(
        queries.TASKS, query, *mine, key=Task.seq, filters=filters, newest_first=True, cursor="seq"
    )


@blueprint.get("/task/<task_id>")
@cached
@blueprint.arguments(WaitSchema, location="query")
@blueprint.response(200, TaskSchema, headers=headers("Retry-After"))
@blueprint.refuses(*UNFOUND)
def show(query: dict[str, Any], task_id: str) -> Any:
    """Show one task, at once or as soon as it has ended."""
    task = find(task_id)
    if query["wait"] == 0 or task.status not in LIVE:
        return task

    ended = wait_until(lambda task: task.status not in LIVE, lambda: _row(task.id), query["wait"])
    return (task, {"Retry-After": "1"}) if ended is None else ended


@blueprint.post("/task/<task_id>/cancel")
@blueprint.response(202, TaskSchema)
@blueprint.refuses(*UNFOUND, errors.TaskEnded)
def cancel(task_id: str) -> Any:
    """Stop a task: at once while it is queued, within seconds while it runs."""
    return stop(task_id)


def stop(task_id: str) -> AnyRow:
    """Ask for a task's end, and return it. Raises NoSuchTask, AmbiguousTask, TaskEnded."""
    whole_id = find(task_id).id
    if not task_queue.request_cancel(whole_id):
        raise errors.TaskEnded(task_id=whole_id)
    return _row(whole_id)


@blueprint.get("/task/<task_id>/log")
@blueprint.arguments(LogQuerySchema, location="query")
@blueprint.response(
    200,
    {"type": "string", "examples": ["building hello-2.12.1 ...\n"]},
    content_type="text/plain",
    headers=headers("X-Next-Offset"),
)
@blueprint.refuses(*UNFOUND, errors.TooManyFollowers)
def log(query: dict[str, Any], task_id: str) -> Response:
    """Send an attempt's build log.

    From byte `offset` on and, with `follow`, until the attempt has ended, for an hour at most.
    """
    task = find(task_id)
    attempt = query.get("attempt", max(task.attempt, 1))
    if query["follow"]:
        return _follow(task, attempt, query["offset"])
    return send_log(task, attempt, query["offset"])


def send_log(task: AnyRow, attempt: int, offset: int) -> Response:
    """Send the log of an attempt, as far as it is written, from byte `offset` on."""
    end = build_logs.end(task.seq, attempt)
    start = min(offset, end)
    text = build_logs.read(task.seq, attempt, start, end)
    headers = {"X-Next-Offset": str(end), "Content-Length": str(end - start)}
    return _plain_text(stream_with_context(text), headers)


def find(task_id: str) -> AnyRow:
    """Return the row of the task whose id is, or begins with, this.

    Raises NoSuchTask when there is none, AmbiguousTask when there are several.
    """
    digits = task_id.replace("-", "")
    if not PREFIX.fullmatch(digits):
        raise errors.NoSuchTask(task_id=task_id)
    if len(digits) == WHOLE:
        return _row(UUID(digits))

    rows = queries.tasks_between(
        UUID(f"{digits:0<{WHOLE}}"), UUID(f"{digits:f<{WHOLE}}"), LISTED + 1
    )
    if len(rows) > 1:
        near = [str(row.id) for row in rows[:LISTED]]
        listed = ", ".join(near) + " and others" * (len(rows) > LISTED)
        raise errors.AmbiguousTask(task_id=task_id, near=near, listed=listed)
    if not rows:
        raise errors.NoSuchTask(task_id=task_id)
    return rows[0]


def _row(task_id: UUID) -> AnyRow:
    """Return the task's row; raise NoSuchTask when there is none."""
    row = queries.task(task_id)
    if row is None:
        raise errors.NoSuchTask(task_id=task_id)
    return row


def _seq(task_id: UUID) -> int:
    """Return the key by which lists of tasks are paged; of a deleted task, the one it may have had.

    Raises InvalidInput for an id that neither is there nor tells when it was made.
    """
    seq = db.session.scalar(select(Task.seq).where(Task.id == task_id))
    if seq is not None:
        return seq
    made = made_at(task_id)
    if made is None:
        raise errors.InvalidInput(errors={"after": [f"There is no task {task_id}."]})
    older = select(func.max(Task.seq)).where(Task.created_at <= made)
    return (db.session.scalar(older) or 0) + 1


def _follow(task: AnyRow, attempt: int, offset: int) -> Response:
    """Stream a log for as long as its attempt runs, to a bounded number of readers at once."""
    slots = services.get(FollowerSlots)
    if not slots.acquire(blocking=False):
        raise errors.TooManyFollowers

    deadline = time.monotonic() + FOLLOW_SECONDS
    text = build_logs.follow(
        task.seq, attempt, offset, pause=lambda: pause() or time.monotonic() >= deadline
    )
    response = _plain_text(stream_with_context(text), {"X-Accel-Buffering": "no"})
    response.call_on_close(slots.release)
    return response


def _plain_text(body: Iterator[bytes], headers: dict[str, str]) -> Response:
    return Response(body, content_type="text/plain; charset=utf-8", headers=headers)
