"""Metrics for Prometheus.

Requests are counted in files that gunicorn's processes share (prometheus_client's multiprocess
mode). All else is read from the database, the profile and the disk at each scrape, and so is right
for any number of processes and hosts. That shrinks when old tasks are pruned: all of it is gauges.
"""

import math
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, current_app, g, request
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Histogram,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.orm import InstrumentedAttribute

import auth
import nix
import queries
from api import Blueprint
from metrics_folder import SHARED
from models import Package, Task, TaskStatus, Token, db, utcnow

blueprint = Blueprint("metrics", __name__, description="Metrics for Prometheus")

METHODS = {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"}
REQUEST_METRICS = CollectorRegistry()
REQUESTS = Histogram(
    "pkgd_request_seconds",
    "Time to answer a request, in seconds.",
    ["method", "route", "code"],
    registry=REQUEST_METRICS,
)


@blueprint.get("/metrics")
@blueprint.response(
    200,
    {"type": "string", "examples": ['pkgd_packages{status="activated"} 3.0\n']},
    content_type="text/plain",
)
def show() -> Response:
    """Answer in Prometheus' text format."""
    requests = REQUEST_METRICS
    if SHARED in os.environ:
        requests = CollectorRegistry()
        MultiProcessCollector(requests)  # type: ignore[no-untyped-call] # it has no hints

    state = CollectorRegistry()
    state.register(StateCollector())
    text = generate_latest(requests) + generate_latest(state)
    return Response(text, content_type=CONTENT_TYPE_LATEST)


def init_app(app: Flask) -> None:
    """Count the requests to `app`."""
    app.after_request(_count)


def _count(response: Response) -> Response:
    route = request.url_rule.rule if request.url_rule else "none"
    seconds = time.perf_counter() - g.started
    # A client can invent methods, and each would be a series of its own.
    method = request.method if request.method in METHODS else "other"
    REQUESTS.labels(method, route, response.status_code).observe(seconds)
    return response


class StateCollector(Collector):
    """Reads the state of the database, the profile and the disk."""

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        yield _counts("pkgd_tasks", "Tasks on record, by status.", Task.status)
        yield _counts("pkgd_task_errors", "Failed tasks on record, by code.", Task.error_code)
        yield _counts("pkgd_packages", "Packages, by status.", Package.status)
        yield _gauge("pkgd_task_attempts", "Attempts of the tasks on record.", _attempts())
        about = "Time that the succeeded tasks on record took in their last attempts, in sum."
        yield _gauge("pkgd_task_seconds", about, _seconds())
        yield _gauge("pkgd_oldest_queued_seconds", "Age of the oldest queued task.", _oldest())
        yield _gauge("pkgd_tokens_expiring", "Used tokens that expire soon.", _expiring())
        generation = nix.current_generation(current_app.config["PROFILE"]) or 0
        yield _gauge("pkgd_profile_generation", "The active generation, or 0.", generation)
        free = shutil.disk_usage(current_app.config["DATA_DIR"]).free
        yield _gauge("pkgd_free_bytes", "Free disk space under DATA_DIR.", free)


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value=value)


def _counts(name: str, about: str, column: InstrumentedAttribute[Any]) -> Metric:
    """Count rows by a column; a value of an enumeration that no row has counts as 0."""
    family = GaugeMetricFamily(name, about, labels=[column.key.removeprefix("error_")])
    rows = db.session.execute(
        select(column, func.count()).where(column.is_not(None)).group_by(column)
    ).all()
    found: dict[str, int] = dict(map(tuple, rows))
    states = getattr(column.type, "enums", ())
    for value, count in {**dict.fromkeys(states, 0), **found}.items():
        family.add_metric([value], count)
    return family


def _attempts() -> int:
    return db.session.scalar(select(func.sum(Task.attempt))) or 0


def _seconds() -> float:
    times = select(Task.started_at, Task.finished_at).where(Task.status == TaskStatus.SUCCEEDED)
    rows = db.session.execute(times).all()
    return math.fsum((row.finished_at - row.started_at).total_seconds() for row in rows)


def _oldest() -> float:
    queued = select(func.min(Task.created_at)).where(Task.status == TaskStatus.QUEUED)
    oldest = db.session.scalar(queued)
    return (utcnow() - oldest).total_seconds() if oldest else 0.0


def _expiring() -> int:
    """Count the tokens in use whose end is announced."""
    soon = queries.LIVE_TOKENS.where(
        Token.last_used_at.is_not(None), Token.expires_at < utcnow() + auth.NOTICE
    )
    rows = db.session.execute(soon, {"now": utcnow()})
    return sum(auth.Caller(**row._asdict()).expires_soon for row in rows)
