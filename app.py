"""pkgd: installs software packages with Nix, over a REST API.

`create_app` is what gunicorn and the `flask` command load; it opens no connection and starts no
thread, so that gunicorn can call it before it forks.
"""

import logging
import logging.config
import os
import random
import re
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from flask import Flask, Request, Response, g, request
from flask.json.provider import DefaultJSONProvider
from flask.sessions import SessionInterface
from werkzeug.http import parse_date
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import IntegerConverter, Map

import api
import api_docs
import auth
import cache.routes
import catalogs.routes
import commands
import config
import dashboard
import error_handlers
import events
import health
import log_config
import machines.routes
import metrics
import nix
import packages
import profiles.generations
import profiles.routes
import read_only
import services
import tasks
import tokens
import webhooks.routes
from auth import Throttle
from cache import publishing
from cache.access import CacheAccess
from catalogs import pins
from catalogs.lookahead import Lookahead
from catalogs.state import Catalogs
from database import DatabaseFile, Reader, end_reading, sqlite_file
from fields import MAX_ID, rfc3339
from long_polling import FollowerSlots
from models import DATABASE_AWAY, LOCK_SECONDS, cause, db
from openapi import ApiDocument
from read_cache import ReadCache
from traffic import Traffic
from worker import SENDERS, Pool
from write_lock import WriteLock

log = logging.getLogger("pkgd.server")

BLUEPRINTS = (
    packages,
    tasks,
    catalogs.routes,
    profiles.routes,
    machines.routes,
    profiles.generations,
    tokens,
    events,
    webhooks.routes,
    health,
    cache.routes,
    metrics,
    api_docs,
    dashboard,
)
REQUEST_ID_LENGTH = 64
# A path below which a proxy may serve all this: no empty part, which could name another host, and
# none of one or two dots.
PREFIX = re.compile(r"(/(?!\.{1,2}(/|$))[\w.~-]+)+", re.ASCII)
PREFIX_LENGTH = 200
DATES = ("HTTP_IF_MODIFIED_SINCE", "HTTP_IF_UNMODIFIED_SINCE", "HTTP_IF_RANGE")
SECURITY_HEADERS = [
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
]
DATA_HEADERS = [
    *SECURITY_HEADERS,
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
]
ADDED_HEADERS = "pkgd.added_headers"  # in the environment of a request
PAGE_HEADERS = [*SECURITY_HEADERS, ("Content-Security-Policy", api_docs.POLICY)]
# The blueprints whose answers have none of these headers of their own.
OF_DATA_ALONE = {"packages", "tasks", "catalogs", "profiles", "machines", "generations", "health"}


# Of these, requests come at all times, with nobody waiting for the answer.
OF_MONITORING = {"health", "metrics"}


class NoSession(SessionInterface):
    """No sessions and no cookies: without them a request takes 407 µs in place of 458.

    Flask reads and signs a cookie wherever there is a SECRET_KEY.
    """

    def open_session(self, app: Flask, request: Request) -> None:
        """Open none, for which Flask substitutes one that can't be written to."""

    def save_session(self, app: Flask, session: object, response: Response) -> None:
        """Save nothing."""


class Json(DefaultJSONProvider):
    """JSON as RFC 8259 has it, in the order of our schemas."""

    sort_keys = False

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        """Read a text, whose bytes are UTF-8; raise ValueError for whatever can't be read."""
        text = s.decode() if isinstance(s, bytes) else s
        try:
            return super().loads(text, parse_constant=_refuse_constant, **kwargs)
        except RecursionError:
            raise ValueError("nested too deeply") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class Pkgd(Flask):
    """The application: no sessions, and no 500 when the database goes down as a request ends."""

    json_provider_class = Json
    session_interface = NoSession()

    def do_teardown_appcontext(self, *exc: Any) -> None:
        """Give the connections back, also when the database went down as the request ended.

        The rollback then fails, which would turn a finished answer into a 500.
        """
        try:
            end_reading()
            super().do_teardown_appcontext(*exc)
        except DATABASE_AWAY as error:
            self.logger.warning("database: %s", cause(error))
            db.session.remove()  # now without its transaction, so that this succeeds

    def wsgi_app(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Serve a request below the prefix that a proxy names, if that is a plain path.

        The headers that `end_request` chose join the others here, as one list: an answer's own
        checks each that is added, which would add a twentieth to GET /hello.
        """

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, headers + environ.get(ADDED_HEADERS, []), exc_info)

        if environ["SCRIPT_NAME"]:
            environ["SCRIPT_NAME"] = plain_prefix(environ["SCRIPT_NAME"])
        for name in DATES:
            if name in environ and overflows(environ[name]):
                environ[name] = ""
        return super().wsgi_app(environ, start)


def overflows(date: str) -> bool:
    """Tell whether a date in a header has too large a number for Werkzeug, which then fails."""
    try:
        parse_date(date)
    except OverflowError:
        return True
    return False


def plain_prefix(prefix: str) -> str:
    """Return the prefix without a slash at its end; "" for one that could lead elsewhere."""
    path = prefix.rstrip("/")
    return path if len(path) <= PREFIX_LENGTH and PREFIX.fullmatch(path) else ""


class IdConverter(IntegerConverter):
    """The id of a row in a URL: ASCII digits, up to the largest that the database can hold."""

    regex = "[0-9]+"  # unlike \d, no digits but those of ASCII

    def __init__(self, url_map: Map) -> None:
        super().__init__(url_map, max=MAX_ID)


def create_app(overrides: Mapping[str, Any] | None = None) -> Flask:
    """Return the application; `overrides` stand in for environment variables of the same name.

    Raises SystemExit with one line when the configuration can't be used.
    """
    app = Pkgd("pkgd", static_folder=None)
    init_config(app, overrides)
    restrict_files(app)
    init_extensions(app)

    app.url_map.converters["id"] = IdConverter
    app.before_request(begin_request)
    app.after_request(end_request)
    if app.config["TRUSTED_PROXIES"]:
        hops = app.config["TRUSTED_PROXIES"]
        proxied = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_prefix=hops)
        app.wsgi_app = proxied  # type: ignore[method-assign]

    error_handlers.init_app(app)
    dashboard.init_app(app)
    for module in BLUEPRINTS:
        app.register_blueprint(module.blueprint)
    app.register_blueprint(cache.routes.files)
    commands.init_app(app)
    return app


def init_config(app: Flask, overrides: Mapping[str, Any] | None) -> None:
    """Read the configuration, and derive the extensions' own settings from it."""
    given = {key: str(value) for key, value in (overrides or {}).items()}
    try:
        environ = config.environment() | given
        app.config.update(config.load(environ))
        sentences = config.doubts(environ)
    except config.ConfigError as error:
        config.refuse_start(error)

    app.config.update(
        MAX_CONTENT_LENGTH=config.BODY_BYTES,
        SQLALCHEMY_DATABASE_URI=app.config["DATABASE_URL"],
        SQLALCHEMY_ENGINE_OPTIONS=engine_options(app.config),
    )
    logging.config.dictConfig(
        log_config.config(production=app.config["APP_ENV"] == config.PRODUCTION)
    )
    for sentence in sentences:
        log.warning("settings: %s", sentence)


def engine_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return SQLAlchemy's options: a connection for every thread, and bounded waits."""
    threads = settings["WEB_THREADS"] + settings["WORKER_THREADS"] + 1 + SENDERS
    options: dict[str, Any] = {"pool_size": threads, "max_overflow": 2}
    if settings["DATABASE_URL"].startswith("sqlite"):
        return options | {
            "connect_args": {"isolation_level": "IMMEDIATE", "timeout": LOCK_SECONDS},
        }
    return options | {
        "pool_pre_ping": True,
        "pool_timeout": 10,
        "connect_args": {"connect_timeout": 5, "tcp_user_timeout": 10_000},
    }


def restrict_files(app: Flask) -> None:
    """Let nobody else read the files that this process creates, whatever umask it came with.

    Nix's programs have an umask of their own: everybody may read what is in a store.
    """
    # Builders of a root without a Nix daemon are other users, and pass through to their folders.
    has_build_users = os.geteuid() == 0 and not app.config["STORE_DIR"]
    os.umask(0o066 if has_build_users else 0o077)


def init_extensions(app: Flask) -> None:
    """Attach the database, and the services that the rest of the code finds by type."""
    db.init_app(app)
    file = DatabaseFile(app.config["DATABASE_URL"])
    services.add(app, file)
    with app.app_context():
        file.watch(db.engine)
        services.add(app, Reader(db.engine))
        services.add(app, ReadCache(db.engine, file))
        WriteLock(sqlite_file(db.engine.url)).watch(db.engine)
        if app.config["READ_ONLY"]:
            read_only.guard(db.engine)

    home = app.config["DATA_DIR"] / "home"
    store_dir = app.config["STORE_DIR"]
    try:
        store = nix.private_store(store_dir) if store_dir else nix.machine_store(home)
    except OSError as error:
        config.refuse_start(f"DATA_DIR or STORE_DIR can't be used: {error}")
    services.add(app, store)
    services.add(app, nix.Availability())
    read_pins = partial(pins.places, app)
    # Without memory for it, there is no index.
    index_sets = app.config["INDEX_SETS"] if app.config["INDEX_BYTES"] else None
    services.add(
        app, Catalogs(store, app.config["CATALOGS"], allowed(app.config), read_pins, index_sets)
    )
    services.add(app, Traffic(app.config["DATA_DIR"]))
    services.add(app, Lookahead())
    services.add(app, Pool(app))
    services.add(app, Throttle())
    services.add(app, FollowerSlots(app.config["MAX_FOLLOWERS"]))
    services.add(app, CacheAccess(app.config["CACHE_ACCESS_DIR"]))
    services.add(app, publishing.Losses())
    services.add(app, cache.routes.TransferSlots(app.config["MAX_TRANSFERS"]))
    services.add(app, webhooks.routes.TestSlots(webhooks.routes.TESTS_AT_ONCE))
    services.add(app, ApiDocument())
    services.add(app, metrics.Remembered())


def allowed(settings: Mapping[str, Any]) -> nix.Allowed:
    """Return what nixpkgs may offer beyond its own rules."""
    return nix.Allowed(
        unfree=settings["ALLOW_UNFREE"],
        broken=settings["ALLOW_BROKEN"],
        insecure=settings["ALLOW_INSECURE"],
    )


def _globals() -> tuple[Any, Request]:
    """Return what `g` and `request` stand for; each use of these themselves takes 0.3 µs."""
    return g._get_current_object(), request._get_current_object()  # type: ignore[attr-defined]


def begin_request() -> None:
    """Note the time, give the request an id, and refuse what may not reach a route.

    The id is the client's own where that is a plain one.
    """
    _begin(*_globals())


def _begin(context: Any, request: Request) -> None:
    context.started = time.perf_counter()
    given = request.environ.get("HTTP_X_REQUEST_ID")
    context.request_id = given if given is not None and is_plain_id(given) else new_id()
    auth.check_token(request)
    read_only.check_request(request)
    api.check_query(request)
    api.check_body(request)


def new_id() -> str:
    """Return a random UUID, of version 4.

    It need not be secret, and a random number of the system's would take a system call. The class
    UUID would take three times as long.
    """
    digits = f"{random.getrandbits(128):032x}"
    parts = digits[:8], digits[8:12], f"4{digits[13:16]}", f"a{digits[17:20]}", digits[20:]
    return "-".join(parts)


def is_plain_id(given: str) -> bool:
    """Tell whether an id of a client's is short, and of ASCII letters, digits, - and _ alone."""
    is_plain = given.isascii() and given.replace("-", "").replace("_", "").isalnum()
    return is_plain and len(given) <= REQUEST_ID_LENGTH


def end_request(response: Response) -> Response:
    """Add the headers that every answer has; count and log the request."""
    _end(*_globals(), response)
    return response


def _end(context: Any, request: Request, response: Response) -> None:
    refusal = auth.refusal(context, response.status_code)
    add_headers(context, request, response)
    if request.blueprint not in OF_MONITORING:
        services.get(Traffic).note()
    metrics.count_request(context, request, response, refusal)
    log_config.log_request(request, response, refusal)


def add_headers(context: Any, request: Request, response: Response) -> None:
    """Add the request's id, and the headers that restrict what a browser does with the answer.

    A token that expires soon is announced, too.
    """
    added = [("X-Request-ID", context.request_id)]
    caller = context.get("caller")
    if caller is not None and caller.expires_soon:
        added.append(("X-Token-Expires", rfc3339(caller.expires_at)))
    blueprint = request.blueprint
    if blueprint in OF_DATA_ALONE:
        added += DATA_HEADERS
    else:
        for name, value in PAGE_HEADERS if blueprint == "docs" else DATA_HEADERS:
            response.headers.setdefault(name, value)
    request.environ[ADDED_HEADERS] = added
