"""The page of a task: how far it is, its log, and a button to cancel it."""

from typing import Any
from uuid import UUID

from flask import Blueprint, Response, redirect, url_for
from werkzeug.wrappers import Response as WerkzeugResponse

import build_logs
import nix
import queries
import tasks
from dashboard.rendering import Fragment, fragment, page, send
from models import LIVE, AnyRow

pages = Blueprint("tasks", __name__)

LOG_BYTES = 64 * 1024


@pages.get("/tasks/<task_id>")
def show(task_id: str) -> Response:
    """Show one task with its log."""
    task = tasks.find(task_id)
    return page("task.html", task=task, state=_state(task.id), names=_names(task))


@pages.get("/tasks/<uuid:task_id>/state")
def state(task_id: UUID) -> Response:
    """Send the part that changes as the task runs."""
    return send(_state(task_id))


@pages.post("/tasks/<uuid:task_id>/cancel")
def cancel(task_id: UUID) -> WerkzeugResponse:
    """Stop the task."""
    tasks.stop(str(task_id))
    return redirect(url_for("dashboard.tasks.show", task_id=task_id), 303)


def _state(task_id: UUID) -> Fragment:
    def gather() -> dict[str, Any]:
        task = tasks.find(str(task_id))
        log = nix.decode(build_logs.tail(task.seq, task.attempt, LOG_BYTES))
        is_live = task.status in LIVE
        return {"task": task, "log": log, "is_live": is_live, "names": _names(task)}

    return fragment("dashboard.tasks.state", "task_state.html", gather, task_id=task_id)


def _names(task: AnyRow) -> dict[int, AnyRow]:
    return queries.package_names([task.package_id])
