"""The pages of tasks: a list, and of each one how far it is, its log, and a button to cancel it."""

from collections.abc import Iterator
from itertools import islice
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, redirect, request, url_for
from markupsafe import escape
from marshmallow import fields, validate
from werkzeug.wrappers import Response as WerkzeugResponse

import build_logs
import nix
import queries
import tasks
from dashboard.forms import read
from dashboard.rendering import HTML, Fragment, fragment, page, send, visible
from fields import MAX_ID, MAX_OFFSET, QueryInteger, Strict
from models import LIVE, AnyRow, TaskKind, TaskStatus
from schemas import TaskQuerySchema

pages = Blueprint("tasks", __name__)

LISTED = 50
SHOWN_BYTES = 128 * 1024  # how much of a long log's end a page shows,
PIECE_BYTES = 64 * 1024  # and how much of a growing one it gets at once
FOUND = 500
FIND_LENGTH = 200


class LogPartSchema(Strict):
    """Which part of a log to show."""

    attempt = QueryInteger(load_default=None, validate=validate.Range(1, MAX_ID))
    offset = QueryInteger(load_default=0, validate=validate.Range(0, MAX_OFFSET))
    find = fields.String(load_default="", validate=validate.Length(0, FIND_LENGTH))


PART = LogPartSchema()
LIST = TaskQuerySchema()


# --- The list ---


@pages.get("/tasks")
def index() -> Response:
    """List tasks, newest first, those of one status or kind where that is asked for."""
    chosen = read(LIST, request.args)
    rows, headers = tasks.listed({**chosen, "limit": LISTED})
    after: dict[str, Any] = request.args.to_dict() | {"after": rows[-1].seq if rows else 0}
    return page(
        "tasks.html",
        tasks=rows,
        names=queries.package_names(task.package_id for task in rows),
        total=headers["X-Total-Count"],
        next=url_for("dashboard.tasks.index", **after) if "Link" in headers else None,
        chosen=chosen,
        choices={"status": list(TaskStatus), "kind": list(TaskKind)},
    )


# --- One task ---


@pages.get("/tasks/<task_id>")
def show(task_id: str) -> Response:
    """Show one task, with the end of its log or the lines of it that hold a text."""
    log, part = _log(task_id)
    start = max(0, log.stop - SHOWN_BYTES)
    text, stop = log.lines(start)
    return page(
        "task.html",
        task=log.task,
        state=_state(log.task.id),
        names=queries.package_names([log.task.package_id]),
        log=log,
        text=text,
        left_out=start > 0,
        next_offset=stop,
        find=part["find"],
        found=log.found(part["find"]),
    )


@pages.get("/tasks/<uuid:task_id>/state")
def state(task_id: UUID) -> Response:
    """Send the part that changes as the task runs."""
    return send(_state(task_id))


@pages.get("/tasks/<uuid:task_id>/log")
def more(task_id: UUID) -> Response:
    """Send the lines of the log from an offset on, for the page to add; 204 where there are none.

    The header X-Log-Over tells that no more will come.
    """
    log, part = _log(task_id)
    text, stop = log.lines(part["offset"], PIECE_BYTES)
    response = Response(escape(visible(text)), 200 if text else 204, content_type=HTML)
    response.headers["X-Next-Offset"] = str(stop)
    if not text and not log.grows:
        response.headers["X-Log-Over"] = "true"
    return response


@pages.get("/tasks/<uuid:task_id>/log.txt")
def download(task_id: UUID) -> Response:
    """Send the whole log of an attempt as a file."""
    log, _ = _log(task_id)
    response = tasks.send_log(log.task, log.attempt, 0)
    name = f"{task_id}-{log.attempt}.log"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


@pages.post("/tasks/<uuid:task_id>/cancel")
def cancel(task_id: UUID) -> WerkzeugResponse:
    """Stop the task."""
    tasks.stop(str(task_id))
    return redirect(url_for("dashboard.tasks.show", task_id=task_id), 303)


def _state(task_id: UUID) -> Fragment:
    def gather() -> dict[str, Any]:
        task = tasks.find(str(task_id))
        return {"task": task, "is_live": task.status in LIVE}

    return fragment("dashboard.tasks.state", "task_state.html", gather, task_id=task_id)


# --- The log ---


class Log:
    """The log of one attempt, as far as it is written when this is made."""

    def __init__(self, task: AnyRow, attempt: int) -> None:
        self.task = task
        self.attempt = attempt
        # Asked before the end is looked for: what is written last is not missed.
        self.grows = task.status in LIVE and attempt >= task.attempt
        self.stop = build_logs.end(task.seq, attempt)

    def lines(self, start: int, limit: int = SHOWN_BYTES) -> tuple[str, int]:
        """Return what was written from `start` on, and the offset behind it.

        A line that is still being written is left for the next time.
        """
        data = b"".join(self._read(start, min(self.stop, start + limit)))
        if self.grows and len(data) < limit:
            data = data[: data.rfind(b"\n") + 1]
        return nix.decode(data), start + len(data)

    def found(self, text: str) -> list[tuple[int, str]]:
        """Return the first lines that hold a text, in whatever case, each with its number."""
        wanted = text.casefold()
        every = enumerate(self._every_line(), 1) if wanted else iter(())
        return list(islice((line for line in every if wanted in line[1].casefold()), FOUND))

    def _every_line(self) -> Iterator[str]:
        rest = b""
        for piece in self._read(0, self.stop):
            *lines, rest = (rest + piece).split(b"\n")
            yield from map(nix.decode, lines)
        yield nix.decode(rest)

    def _read(self, start: int, stop: int) -> Iterator[bytes]:
        return build_logs.read(self.task.seq, self.attempt, start, stop)


def _log(task_id: UUID | str) -> tuple[Log, dict[str, Any]]:
    """Return the log that the request is about, and what part of it."""
    task = tasks.find(str(task_id))
    part = read(PART, request.args)
    return Log(task, part["attempt"] or max(task.attempt, 1)), part
