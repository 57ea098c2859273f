"""Metrics for Prometheus: the requests to this server, and the state of the service.

Requests are counted in files that gunicorn's processes share (prometheus_client's multiprocess
mode). The state is read at each scrape, and so is right for any number of processes and hosts that
share the database. What takes long is remembered for a minute: counts of large tables, memory,
Nix's version.
"""

import functools
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import product
from typing import Any, TypeVar

import psutil
from flask import Request, Response, current_app
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import Connection, Select, func, select, text
from sqlalchemy.exc import ProgrammingError

import auth
import drain
import health
import nix
import queries
import read_only
import services
import task_ends
from api import Blueprint
from cache import publishing
from cache.publishing import PublishingTotals
from catalogs import indexes
from catalogs.models import CatalogIndex, IndexedOffer
from catalogs.state import Catalogs
from config import BUILD, VERSION
from database import reading
from machines import states as machine_states
from metrics_folder import SHARED
from models import (
    DATABASE_AWAY,
    LIVE,
    Package,
    PackageStatus,
    Task,
    TaskKind,
    TaskStatus,
    Token,
    columns,
    db,
    utcnow,
)
from task_ends import TaskEnd
from webhooks import deliveries
from webhooks.models import Outcome, WebhookState

blueprint = Blueprint("metrics", __name__, description="Metrics for Prometheus")

METHODS = {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"}
REQUEST_METRICS = CollectorRegistry()
REQUESTS = Histogram(
    "pkgd_request_seconds",
    "Time to answer a request, in seconds.",
    ["method", "route", "code"],
    registry=REQUEST_METRICS,
)
REFUSED = Counter(
    "pkgd_refusals",
    "Requests answered by 401, 403 or, of an address that is slowed, 429, by reason.",
    ["reason"],
    registry=REQUEST_METRICS,
)

REMEMBER_SECONDS = 60
UNREADABLE = (*DATABASE_AWAY, ProgrammingError)  # the latter with another version's schema
# Not every fault is one: nothing is known of a catalog that was not looked at yet.
CATALOG_CODES = sorted({fault.code for fault in nix.CATALOG_FAULTS})

T = TypeVar("T")
Samples = Iterable[tuple[Sequence[str], float]]

_LIVE_TASKS = (
    select(
        Task.kind,
        Task.status,
        func.count().label("tasks"),
        func.min(Task.created_at).label("oldest"),
        func.min(Task.lease_until).label("lease_until"),
    )
    .where(Task.status.in_(LIVE))
    .group_by(Task.kind, Task.status)
)
_PACKAGES = select(Package.status, func.count()).group_by(Package.status)
_USED_TOKENS = queries.LIVE_TOKENS.where(Token.last_used_at.is_not(None))
_FIRST_EXPIRY = _USED_TOKENS.with_only_columns(func.min(Token.expires_at))
_INDEXES = (
    select(CatalogIndex.id, CatalogIndex.catalog, CatalogIndex.finished_at)
    .where(CatalogIndex.finished_at.is_not(None))
    .order_by(CatalogIndex.id)
)
_SIZES = select(IndexedOffer.index_id, func.count()).group_by(IndexedOffer.index_id)
_PUBLISHING = {
    "paths": ("pkgd_published_paths", "Store paths copied to the binary cache."),
    "size": ("pkgd_published_bytes", "Bytes of these, before compression."),
    "seconds": ("pkgd_publishing_seconds", "Time that publishing took, in sum."),
    "failures": ("pkgd_publishing_failures", "Attempts to publish that failed."),
}
_SIZE_OF_DATABASE = {
    "sqlite": text("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"),
    "postgresql": text("SELECT pg_database_size(current_database())"),
}


@blueprint.get("/metrics")
@blueprint.response(
    200,
    {"type": "string", "examples": ['pkgd_packages{status="activated"} 3.0\n']},
    content_type="text/plain",
)
def show() -> Response:
    """Answer in Prometheus' text format."""
    for reason in auth.RefusalReason:
        REFUSED.labels(reason)  # from 0 on, so that increase() sees the first one
    requests = REQUEST_METRICS
    if SHARED in os.environ:
        requests = CollectorRegistry()
        MultiProcessCollector(requests)  # type: ignore[no-untyped-call] # it has no hints

    state = CollectorRegistry()
    state.register(StateCollector())
    document = generate_latest(requests) + generate_latest(state)
    return Response(document, content_type=CONTENT_TYPE_LATEST)


def count_request(
    context: Any, request: Request, response: Response, refusal: auth.Refusal | None
) -> None:
    """Count a request by its method, route and status, with the time that it took."""
    rule, method, status = request.url_rule, request.method, response.status_code
    # A client can invent methods, and each would be a series of its own.
    labels = method if method in METHODS else "other", rule.rule if rule else "none", status
    _series(*labels).observe(time.perf_counter() - context.started)
    if refusal is not None:
        REFUSED.labels(refusal.reason).inc()


# A series is looked up by its labels once: that takes half the time of counting a request.
_series = functools.cache(REQUESTS.labels)


# --- The state ---


class Remembered:
    """What this process has read, for a while; another process may have read it at another time."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[float, Any]] = {}

    def get(self, name: str, read: Callable[[], T]) -> T:
        """Return what `read` returns, or has returned within the last minute."""
        now = time.monotonic()
        known = self._values.get(name)
        if known is None or known[0] <= now - REMEMBER_SECONDS:
            known = self._values[name] = now, read()
        value: T = known[1]
        return value


class StateCollector(Collector):
    """Reads the state at a scrape; what can't be read, as the database is down, is left out."""

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        yield _build_info()
        yield _readiness()
        yield from _limits()
        yield _free_space()
        yield from _pauses()
        memory = services.get(Remembered).get("memory", _memory)
        yield _gauge("pkgd_memory_bytes", "Memory of this server's processes.", memory)
        with suppress(*UNREADABLE):
            yield from list(_rows())
        with suppress(*UNREADABLE, nix.NixError):
            yield from list(_catalogs())
        with suppress(nix.NixError):
            generation = nix.current_generation(current_app.config["PROFILE"]) or 0
            yield _gauge("pkgd_profile_generation", "The active generation, or 0.", generation)


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value=value)


def _labelled(name: str, about: str, labels: Sequence[str], samples: Samples) -> Metric:
    family = GaugeMetricFamily(name, about, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


# --- This server ---


def _build_info() -> Metric:
    """Return a 1 whose labels tell what runs here."""
    facts = {
        "version": VERSION,
        "build": BUILD,
        "nix": services.get(Remembered).get("nix", _nix_version),
        "database": db.engine.dialect.name,
    }
    about = "Always 1; the labels tell versions and the kind of database."
    return _labelled("pkgd_build_info", about, list(facts), [(list(facts.values()), 1)])


def _nix_version() -> str:
    with suppress(nix.NixError):
        return nix.version(services.get(nix.Store))
    return "none"


def _readiness() -> Metric:
    about = "Whether a check of /readyz passes in the process that answers."
    checks = health.checks().items()
    return _labelled(
        "pkgd_ready", about, ["check"], [([name], health.is_ok(state)) for name, state in checks]
    )


def _limits() -> Iterator[Metric]:
    """Yield the settings that alerts compare with."""
    settings = current_app.config
    threads = settings["WORKER_THREADS"] * settings["WEB_PROCESSES"]
    yield _gauge("pkgd_worker_threads", "Tasks that this server can run at once.", threads)
    yield _gauge("pkgd_lease_seconds", "The setting LEASE_SECONDS.", settings["LEASE_SECONDS"])
    yield _gauge("pkgd_min_free_bytes", "The setting MIN_FREE_BYTES.", settings["MIN_FREE_BYTES"])


def _pauses() -> Iterator[Metric]:
    """Yield whether the operator has no task taken."""
    with suppress(OSError):  # DATA_DIR is not there, or not mounted
        drained = drain.reason(current_app.config["DATA_DIR"]) is not None
        yield _gauge("pkgd_drained", "1 while flask drain has no task taken, else 0.", drained)
    yield _gauge("pkgd_read_only", "1 while READ_ONLY is set, else 0.", read_only.is_set())


def _free_space() -> Metric:
    folders = {"data": current_app.config["DATA_DIR"], "store": services.get(nix.Store).folder}
    if cache := publishing.folder():
        folders["cache"] = cache
    samples = []
    for name, folder in folders.items():
        with suppress(OSError):  # it is not there, or not mounted
            samples.append(([name], shutil.disk_usage(folder).free))
    return _labelled("pkgd_free_bytes", "Free disk space under a folder.", ["folder"], samples)


def _memory() -> int:
    """Return the memory of gunicorn's processes, what they share counted once."""
    own = psutil.Process()
    processes = [own]
    if SHARED in os.environ:
        with suppress(psutil.Error):
            master = psutil.Process(own.ppid())
            processes = [master, *master.children()]
    return sum(map(_memory_of, processes))


def _memory_of(process: psutil.Process) -> int:
    with suppress(psutil.Error):  # it has ended
        size: int = process.memory_full_info().pss
        return size
    return 0


# --- The database ---


def _rows() -> Iterator[Metric]:
    """Yield what is read from the tables."""
    with reading() as connection:
        yield from _live_tasks(connection)
        yield from _ended_tasks(connection)
        yield from _tokens(connection)
        remembered = services.get(Remembered)
        counts = remembered.get("packages", lambda: _pairs(connection, _PACKAGES))
        found = {str(status): 0 for status in PackageStatus} | counts
        samples = [([status], count) for status, count in found.items()]
        yield _labelled("pkgd_packages", "Packages, by status.", ["status"], samples)
        yield _machines(connection)
        yield from _webhooks(connection)
        if current_app.config["CACHE"]:
            yield from _publishing(connection)
        size = connection.scalar(_SIZE_OF_DATABASE[connection.dialect.name]) or 0
        yield _gauge("pkgd_database_bytes", "Size of the database.", size)


def _publishing(connection: Connection) -> Iterator[Metric]:
    """Yield what was published, and what is not yet."""
    row = connection.execute(select(*columns(PublishingTotals, "id"))).one_or_none()
    sums = row._asdict() if row else dict.fromkeys(_PUBLISHING, 0)
    for column, (name, about) in _PUBLISHING.items():
        yield CounterMetricFamily(name, about, value=sums[column])
    unpublished = connection.scalar(publishing.UNPUBLISHED) or 0
    about = "Profiles whose active generation is not in the cache."
    yield _gauge("pkgd_profiles_unpublished", about, unpublished)


def _pairs(connection: Connection, statement: Select[Any, int]) -> dict[Any, int]:
    return dict(map(tuple, connection.execute(statement)))


def _machines(connection: Connection) -> Metric:
    """Return how many machines are in each state; the names of their profiles stay out."""
    counted = partial(_pairs, connection, machine_states.BY_STATE)
    found = machine_states.none() | services.get(Remembered).get("machines", counted)
    samples = [([state], count) for state, count in found.items()]
    return _labelled("pkgd_machines", "Machines that follow a profile.", ["state"], samples)


def _webhooks(connection: Connection) -> Iterator[Metric]:
    """Yield how webhooks stand, how far behind the worst is, and what became of deliveries."""
    states = dict.fromkeys(WebhookState, 0) | _pairs(connection, deliveries.BY_STATE)
    samples = [([state], count) for state, count in states.items()]
    yield _labelled("pkgd_webhooks", "Webhooks, by state.", ["state"], samples)

    first = connection.scalar(deliveries.FIRST_UNTOLD)
    lag = (utcnow() - first).total_seconds() if first else 0.0
    about = "Age of the oldest event that an enabled webhook has not got, or 0."
    yield _gauge("pkgd_webhook_lag_seconds", about, max(0.0, lag))

    about = "Attempts to tell a webhook of an event, without tests."
    family = CounterMetricFamily("pkgd_webhook_deliveries", about, labels=["outcome"])
    totals = dict.fromkeys(Outcome, 0) | _pairs(connection, deliveries.BY_OUTCOME)
    for outcome, count in totals.items():
        family.add_metric([outcome], count)
    yield family


def _live_tasks(connection: Connection) -> Iterator[Metric]:
    """Yield how many tasks wait and run, and the ages by which one sees that they are stuck."""
    rows = {(row.kind, row.status): row for row in connection.execute(_LIVE_TASKS)}
    counts = [
        ([kind, status], rows[kind, status].tasks if (kind, status) in rows else 0)
        for kind, status in product(TaskKind, LIVE)
    ]
    yield _labelled("pkgd_tasks", "Live tasks.", ["kind", "status"], counts)

    now = utcnow()
    queued = ((kind, rows.get((kind, TaskStatus.QUEUED))) for kind in TaskKind)
    ages = [([kind], (now - row.oldest).total_seconds() if row else 0.0) for kind, row in queued]
    about = "Age of the oldest queued task, or 0."
    yield _labelled("pkgd_oldest_queued_seconds", about, ["kind"], ages)

    leases = [row.lease_until for row in rows.values() if row.status == TaskStatus.RUNNING]
    left = (min(leases) - now).total_seconds() if leases else 0.0
    lease = current_app.config["LEASE_SECONDS"]
    about = "Time since the longest silent running task's lease was renewed, or 0."
    yield _gauge("pkgd_oldest_heartbeat_seconds", about, max(0.0, lease - left) if leases else 0.0)


def _ended_tasks(connection: Connection) -> Iterator[Metric]:
    """Yield the counts of ended tasks, 0 for what has not happened: increase() needs a start."""
    labels = ["kind", "status", "code"]
    abouts = {
        "tasks": ("pkgd_task_ends", "Tasks that have ended; the code is that of a failed one."),
        "attempts": ("pkgd_task_attempts", "Attempts of the tasks that have ended."),
        "seconds": ("pkgd_task_seconds", "Time of the last attempts of ended tasks, in sum."),
    }
    none = dict.fromkeys(abouts, 0)
    counts = dict.fromkeys(task_ends.ways(task_ends.error_codes()), none)
    for row in connection.execute(select(*columns(TaskEnd))):
        counts[row.kind, row.status, row.code] = row._asdict()
    for column, (name, about) in abouts.items():
        family = CounterMetricFamily(name, about, labels=labels)
        for (kind, status, code), sums in counts.items():
            family.add_metric([kind, status, code or "none"], sums[column])
        yield family


def _tokens(connection: Connection) -> Iterator[Metric]:
    """Yield when tokens that are in use expire; their names are clients' text, and stay out."""
    now = utcnow()
    soon = connection.execute(
        _USED_TOKENS.where(Token.expires_at < now + auth.NOTICE), {"now": now}
    )
    expiring = sum(auth.Caller(**row._asdict()).expires_soon for row in soon)
    yield _gauge("pkgd_tokens_expiring", "Used tokens that expire soon.", expiring)

    first = connection.scalar(_FIRST_EXPIRY, {"now": now})
    if first is not None:
        about = "Time until the first of the used tokens expires."
        yield _gauge("pkgd_token_expiry_seconds", about, (first - now).total_seconds())


# --- The catalogs ---


def _catalogs() -> Iterator[Metric]:
    """Yield which catalogs fail, and how far they are indexed."""
    catalogs = services.get(Catalogs)
    catalogs.look()
    states = catalogs.states()
    samples = []
    for catalog in [each.catalog for each in states]:
        code = catalogs.state_of(catalog).partition(":")[0]
        samples += [([catalog.name, each], code == each) for each in CATALOG_CODES]
    about = "Whether a catalog fails, by the error's code."
    yield _labelled("pkgd_catalog_failing", about, ["catalog", "code"], samples)
    if current_app.config["INDEX_BYTES"]:
        yield from _indexes(states)


def _indexes(states: Sequence[indexes.State]) -> Iterator[Metric]:
    current = indexes.current(states)
    with reading() as connection:
        newest = {row.catalog: row for row in connection.execute(_INDEXES)}
        sizes = services.get(Remembered).get("indexes", lambda: _pairs(connection, _SIZES))
    names = [each.catalog.name for each in states]
    found = [newest[name] for name in names if name in newest]
    now = utcnow()

    about = "Whether a catalog is indexed as it is now."
    is_current = [([name], name in current) for name in names]
    yield _labelled("pkgd_index_current", about, ["catalog"], is_current)
    ages = [([row.catalog], (now - row.finished_at).total_seconds()) for row in found]
    about = "Time since the newest index of a catalog was finished."
    yield _labelled("pkgd_index_age_seconds", about, ["catalog"], ages)
    about = "Packages in the newest index of a catalog."
    counts = [([row.catalog], sizes.get(row.id, 0)) for row in found]
    yield _labelled("pkgd_index_packages", about, ["catalog"], counts)
