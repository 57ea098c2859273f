"""Metrics for Prometheus: the requests to this server, and the state of the service.

Requests are counted in files that gunicorn's processes share (prometheus_client's multiprocess
mode). All else is in gauges.py, and read at each scrape.
"""

import os
import time

from flask import Flask, Response, g, request
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

import auth
import gauges
import services
from api import Blueprint
from metrics_folder import SHARED

blueprint = Blueprint("metrics", __name__, description="Metrics for Prometheus")

METHODS = {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"}
REQUEST_METRICS = CollectorRegistry()
REQUESTS = Histogram(
    "pkgd_request_seconds",
    "Time to answer a request, in seconds.",
    ["method", "route", "code"],
    registry=REQUEST_METRICS,
)
REFUSALS = Counter(
    "pkgd_refusals",
    "Requests answered by 401, 403 or, of an address that is slowed, 429, by reason.",
    ["reason"],
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
    for reason in auth.Reason:
        REFUSALS.labels(reason)  # from 0 on, so that increase() sees the first one
    requests = REQUEST_METRICS
    if SHARED in os.environ:
        requests = CollectorRegistry()
        MultiProcessCollector(requests)  # type: ignore[no-untyped-call] # it has no hints

    state = CollectorRegistry()
    state.register(gauges.StateCollector())
    text = generate_latest(requests) + generate_latest(state)
    return Response(text, content_type=CONTENT_TYPE_LATEST)


def init_app(app: Flask) -> None:
    """Count the requests to `app`."""
    services.add(app, gauges.Remembered())
    app.after_request(_count)


def _count(response: Response) -> Response:
    route = request.url_rule.rule if request.url_rule else "none"
    seconds = time.perf_counter() - g.started
    # A client can invent methods, and each would be a series of its own.
    method = request.method if request.method in METHODS else "other"
    REQUESTS.labels(method, route, response.status_code).observe(seconds)
    refusal = auth.refusal(response.status_code)
    if refusal is not None:
        REFUSALS.labels(refusal.reason).inc()
    return response
