"""The routes of tasks: look up, wait for, cancel, and read the log of."""

import threading
import time
from collections.abc import Iterator
from socket import MSG_DONTWAIT, MSG_PEEK, socket
from typing import Any
from uuid import UUID

from flask import Response, request, stream_with_context
from sqlalchemy import select

import logs
import lookups
import services
from blueprints import Blueprint, headers
from lookups import TASKS
from models import LIVE, Task, db
from paging import paginate
from problems import Problem
from schemas import LogQuerySchema, TaskQuerySchema, TaskSchema, WaitSchema
from worker import Pool

blueprint = Blueprint(
    "tasks", __name__, url_prefix="/api/v1", description="Follow and cancel downloads"
)

POLL_SECONDS = 0.1
LEAST_POLL_SECONDS = 0.005
EAGERNESS = 0.1
RETRY_SECONDS = 5


class FollowerSlots(threading.BoundedSemaphore):
    """How many requests of this process may wait for a task or follow a log at once."""


@blueprint.get("/tasks")
@blueprint.arguments(TaskQuerySchema, location="query")
@blueprint.response(200, TaskSchema(many=True), headers=headers("Link", "X-Total-Count"))
def index(query: dict[str, Any]) -> Any:
    """List tasks, newest first."""
    filters = [
        column == query[name]
        for name, column in (("status", TASKS.status), ("package_id", TASKS.package_id))
        if name in query
    ]
    after = _seq(query["after"]) if "after" in query else None
    return paginate(
        lookups.ALL_TASKS,
        *filters,
        key=TASKS.seq,
        after=after,
        limit=query["limit"],
        newest_first=True,
    )


@blueprint.get("/task/<uuid:task_id>")
@blueprint.arguments(WaitSchema, location="query")
@blueprint.response(200, TaskSchema, headers=headers("Retry-After"))
@blueprint.refuses("no-such-task")
def show(query: dict[str, Any], task_id: UUID) -> Any:
    """Show one task, at once or as soon as it has ended."""
    task = find(task_id)
    if query["wait"] == 0 or task.status not in LIVE:
        return task

    slots = services.get(FollowerSlots)
    if not slots.acquire(blocking=False):
        return task, {"Retry-After": "1"}
    try:
        return _wait(task_id, time.monotonic() + query["wait"])
    finally:
        slots.release()


@blueprint.post("/task/<uuid:task_id>/cancel")
@blueprint.response(202, TaskSchema)
@blueprint.refuses("no-such-task", "task-ended")
def cancel(task_id: UUID) -> Any:
    """Stop a task: at once while it is queued, within seconds while it runs."""
    find(task_id)
    if not Task.request_cancel(task_id):
        raise Problem(409, f"task {task_id} has ended already", kind="task-ended")
    return find(task_id)


@blueprint.get("/task/<uuid:task_id>/log")
@blueprint.arguments(LogQuerySchema, location="query")
@blueprint.response(
    200,
    {"type": "string", "examples": ["building hello-2.12.1 ...\n"]},
    content_type="text/plain",
    headers=headers("X-Next-Offset"),
)
@blueprint.refuses("no-such-task", "too-many-followers")
def log(query: dict[str, Any], task_id: UUID) -> Response:
    """Send an attempt's build log.

    From byte `offset` on and, with `follow`, until the attempt has ended.
    """
    task = find(task_id)
    attempt = query.get("attempt", max(task.attempt, 1))
    if query["follow"]:
        return _followed(task, attempt, query["offset"])
    end = logs.end(task.seq, attempt)
    start = min(query["offset"], end)
    text = logs.read(task.seq, attempt, start, end)
    headers = {"X-Next-Offset": str(end), "Content-Length": str(end - start)}
    return _plain(stream_with_context(text), headers)


def find(task_id: UUID) -> Any:
    """Return the task's row; raise a 404 Problem when there is none."""
    row = lookups.task(task_id)
    if row is None:
        raise Problem(404, f"there is no task {task_id}", kind="no-such-task")
    return row


def _seq(task_id: UUID) -> int:
    seq = db.session.scalar(select(Task.seq).where(Task.id == task_id))
    if seq is None:
        raise Problem(422, "no such task", errors={"after": [f"There is no task {task_id}."]})
    return seq


def _wait(task_id: UUID, deadline: float) -> Any:
    """Return the task once it has ended, or nobody can or wants to wait any more."""
    began = time.monotonic()
    while (task := find(task_id)).status in LIVE and time.monotonic() < deadline:
        # who waits for little is told at once; who waits for long, not much later
        if _pause(EAGERNESS * (time.monotonic() - began)):
            break
    return task


def _followed(task: Any, attempt: int, offset: int) -> Response:
    """Stream a log for as long as its attempt runs, to a bounded number of readers at once."""
    slots = services.get(FollowerSlots)
    if not slots.acquire(blocking=False):
        detail = "as many logs are being followed as this service allows; try again"
        raise Problem(503, detail, kind="too-many-followers", retry_after=RETRY_SECONDS)
    text = logs.follow(task.seq, attempt, offset, pause=_pause)
    response = _plain(stream_with_context(text), {"X-Accel-Buffering": "no"})
    response.call_on_close(slots.release)
    return response


def _pause(seconds: float = POLL_SECONDS) -> bool:
    """Wait a moment; tell whether the service stops, or the client has gone."""
    moment = min(max(seconds, LEAST_POLL_SECONDS), POLL_SECONDS)
    stopping = services.get(Pool).stopping.wait(moment)
    return stopping or _has_gone(request.environ.get("gunicorn.socket"))


def _has_gone(client: socket | None) -> bool:
    """Tell whether the client has closed its end: its thread is then free for another."""
    if client is None:
        return False
    try:
        return client.recv(1, MSG_PEEK | MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _plain(body: Iterator[bytes], headers: dict[str, str]) -> Response:
    return Response(body, content_type="text/plain; charset=utf-8", headers=headers)
