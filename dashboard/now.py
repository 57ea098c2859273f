"""The first page: what runs, what waits and why, what failed, and how the service is."""

from typing import Any

from flask import Blueprint, Response

import build_logs
import health
import nix
import queries
import tasks
from dashboard.rendering import Entry, Fragment, fragment, page, send
from models import AnyRow, TaskStatus

pages = Blueprint("now", __name__)
entry = Entry("Now", "dashboard.now.index")

LISTED = {
    TaskStatus.RUNNING: 20,
    TaskStatus.QUEUED: 10,
    TaskStatus.FAILED: 5,
    TaskStatus.SUCCEEDED: 5,
}
TAIL_BYTES = 2048
TAIL_LINES = 6


@pages.get("/now")
def index() -> Response:
    """Show what goes on."""
    return page("now.html", work=_work(), service=_service())


@pages.get("/now/work")
def work() -> Response:
    """Send the part about tasks."""
    return send(_work())


@pages.get("/now/service")
def service() -> Response:
    """Send the part about the service's health."""
    return send(_service())


def _work() -> Fragment:
    return fragment("dashboard.now.work", "now_work.html", _tasks)


def _service() -> Fragment:
    return fragment("dashboard.now.service", "now_service.html", _health, seconds=5)


def _tasks() -> dict[str, Any]:
    """Return the latest tasks of each kind of status, and the names of their packages."""
    running, queued, failed, succeeded = (
        tasks.listed({"status": status, "limit": limit}) for status, limit in LISTED.items()
    )
    every = (task for rows, _ in (running, queued, failed, succeeded) for task in rows)
    return {
        "running": running[0],
        "queued": queued[0],
        "failed": failed[0],
        "succeeded": succeeded[0],
        "counts": {"running": _count(running), "queued": _count(queued)},
        "names": queries.package_names(task.package_id for task in every),
        "tails": {task.id: _tail(task) for task in running[0]},
    }


def _count(listed: tuple[list[AnyRow], dict[str, str]]) -> str:
    return listed[1]["X-Total-Count"]


def _tail(task: AnyRow) -> str:
    """Return the last lines of a running task's log."""
    text = nix.decode(build_logs.tail(task.seq, task.attempt, TAIL_BYTES))
    return "\n".join(text.splitlines()[-TAIL_LINES:])


def _health() -> dict[str, Any]:
    return {"checks": health.checks(), "is_ok": health.is_ok}
