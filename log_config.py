"""The service's own log: a line for each event, for people in development, JSON in production.

A line that is written during a request or a task carries its id. It has no control characters:
they are escaped, in JSON as Python does by default. Headers and bodies of requests are never
logged, so that no secret is.

A warning asks for somebody's attention: a task failed, or a token was refused. What happens in a
service that is well is at level INFO.
"""

import logging
import time
from typing import Any

from flask import Request, Response, g, has_app_context
from pythonjsonlogger.json import JsonFormatter

import auth

log = logging.getLogger("pkgd.requests")

READABLE = "%(asctime)s %(levelname)-7s %(name)s %(message)s"
IDS = ("request_id", "task_id")
FIELDS = "%(asctime)s %(levelname)s %(name)s %(message)s %(request_id)s %(task_id)s"


class Ids(logging.Filter):
    """Adds the ids of the request and the task to a line."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the ids, and let every line pass."""
        has_context = has_app_context()
        record.__dict__.update({name: g.get(name) if has_context else None for name in IDS})
        return True


class Readable(logging.Formatter):
    """A line for people, with the ids at its end; a traceback follows, indented.

    What clients and Nix wrote can't forge a line or control a terminal.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 # logging's name
        """Return the line."""
        ids = ((name, getattr(record, name, None)) for name in IDS)
        words = (f" {name}={value}" for name, value in ids if value)
        return escaped("".join((super().formatMessage(record), *words)))

    def formatException(self, ei: Any) -> str:  # noqa: N802 # logging's name
        """Return a traceback."""
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"  {escaped(line)}" for line in lines)


class JsonLine(JsonFormatter):
    """A line for programs, its time in UTC."""

    @staticmethod
    def converter(timestamp: float | None) -> time.struct_time:
        """Return the time in UTC, as its Z says."""
        return time.gmtime(timestamp)


def escaped(text: str) -> str:
    """Return `text` with each control or format character, line breaks too, as in Python."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def config(*, production: bool) -> dict[str, Any]:
    """Return the configuration of logging (logging.config.dictConfig), ours and gunicorn's."""
    json_lines = {
        "()": JsonLine,
        "format": FIELDS,
        "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
        "datefmt": "%Y-%m-%dT%H:%M:%SZ",
    }

    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"ids": {"()": Ids}},
        "formatters": {"readable": {"()": Readable, "format": READABLE}, "json": json_lines},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "json" if production else "readable",
                "filters": ["ids"],
            }
        },
        "root": {"level": "INFO", "handlers": ["stderr"]},
        "loggers": {
            "alembic": {"level": "WARNING"},
            "gunicorn.error": {"level": "INFO", "handlers": [], "propagate": True},
            "gunicorn.access": {"level": "WARNING", "handlers": [], "propagate": True},
        },
    }


def log_request(request: Request, response: Response, refusal: auth.Refusal | None) -> None:
    """Log a request that changes something or fails, and others at level DEBUG."""
    level = _level(request, response.status_code, refusal)
    if log.isEnabledFor(level):
        facts = _facts(request, response, refusal)
        line = "%(method)s %(path)s %(status)d %(milliseconds).1f ms"
        if facts["package"] is not None:
            line += ", %(package)s %(version)s"
        if facts["token"] is not None:
            line += ", token %(token)d"
        if facts["token_name"] is not None:
            line += " (%(token_name)s)"
        if refusal is not None:
            line += ", refused: %(refused)s"
        log.log(level, line, facts, extra=facts)


def _level(request: Request, status: int, refusal: auth.Refusal | None) -> int:
    """Return how grave the end of a request is. Without a token, anybody may have come along."""
    if refusal is not None and not refusal.is_logged:
        return logging.DEBUG
    if refusal is not None and refusal.reason != auth.RefusalReason.MISSING:
        return logging.WARNING
    # Each machine reports once a minute.
    is_routine = request.method in ("GET", "HEAD") or request.endpoint == auth.REPORT
    return logging.DEBUG if is_routine and status < 400 else logging.INFO


def _facts(request: Request, response: Response, refusal: auth.Refusal | None) -> dict[str, Any]:
    """Return what a line tells of a request."""
    caller = g.get("caller")
    token = (caller.id, caller.name) if caller else (None, None)
    if refusal is not None:
        token = refusal.token_id, refusal.token_name
    package = g.get("package")
    return {
        "method": request.method,
        "path": request.path,
        "status": response.status_code,
        "milliseconds": round((time.perf_counter() - g.started) * 1000, 1),
        "address": request.remote_addr,
        "package": package.name if package else None,
        "version": package.version if package else None,
        "token": token[0],
        "token_name": token[1],
        "refused": refusal.reason if refusal else None,
    }
