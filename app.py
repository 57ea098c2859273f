"""pkgd: takes a package from a name and a version to a program that runs.

`create_app` is what gunicorn and the `flask` command load; it opens no connection and starts no
thread, so that gunicorn can call it before it forks.
"""

import logging.config
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from flask import Flask, Request, Response, g, request
from flask.sessions import SessionInterface
from werkzeug.exceptions import LengthRequired, UnsupportedMediaType
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import IntegerConverter, Map

import auth
import catalogs
import commands
import config
import docs
import generations
import health
import logbook
import metrics
import nix
import packages
import problems
import services
import tasks
import tokens
from catalogs import Catalogs
from docs import ApiDocument
from models import DATABASE_AWAY, db
from schemas import MAX_ID
from tasks import FollowerSlots
from throttle import Throttle
from worker import Pool

BODY_BYTES = 64 * 1024
REQUEST_ID_LENGTH = 64
SECURITY_HEADERS = {
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
DATA_HEADERS = {
    **SECURITY_HEADERS,
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
PAGE_HEADERS = {**SECURITY_HEADERS, "Content-Security-Policy": docs.POLICY}


class NoSession(SessionInterface):
    """No cookie, and none of the work that Flask does for one wherever there is a SECRET_KEY."""

    def open_session(self, app: Flask, request: Request) -> None:
        """Open nothing: Flask then puts a session in place that refuses to be written."""

    def save_session(self, app: Flask, session: object, response: Response) -> None:
        """Save nothing."""


class Pkgd(Flask):
    """A Flask application without what nothing here uses."""

    session_interface = NoSession()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function: none is a coroutine, and to look would take time in each request."""
        return func

    def do_teardown_appcontext(self, *exc: Any) -> None:
        """Give the database session back; one whose connection is lost has nothing to take back."""
        try:
            super().do_teardown_appcontext(*exc)
        except DATABASE_AWAY as error:
            self.logger.warning("database: %s", getattr(error, "orig", error))
            db.session.remove()  # what was begun is over now: this time it is dropped


class IdConverter(IntegerConverter):
    """The id of a row; what no row can have is no such URL."""

    def __init__(self, url_map: Map) -> None:
        """Bound the number by what the database can hold."""
        super().__init__(url_map, max=MAX_ID)


def create_app(overrides: Mapping[str, Any] | None = None) -> Flask:
    """Return the application; `overrides` stand in for environment variables of the same name.

    Raises SystemExit with one line when the configuration can't be used.
    """
    app = Pkgd("pkgd", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined] # Flask's own provider has it
    init_config(app, overrides)
    init_extensions(app)

    app.url_map.converters["id"] = IdConverter
    app.before_request(begin_request)
    logbook.init_app(app)
    metrics.init_app(app)
    app.before_request(auth.check_token)
    app.before_request(refuse_other_bodies)
    app.after_request(end_request)
    if app.config["TRUSTED_PROXIES"]:
        hops = app.config["TRUSTED_PROXIES"]
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops)  # type: ignore[method-assign]

    problems.init_app(app)
    for module in (packages, tasks, catalogs, generations, tokens, health, metrics, docs):
        app.register_blueprint(module.blueprint)
    commands.init_app(app)
    return app


def init_config(app: Flask, overrides: Mapping[str, Any] | None) -> None:
    """Read the configuration, and derive from it what the extensions want to be told."""
    environ = config.environment() | {key: str(value) for key, value in (overrides or {}).items()}
    try:
        app.config.update(config.load(environ))
    except config.ConfigError as error:
        raise SystemExit(f"pkgd: {error}") from None
    app.config.update(
        MAX_CONTENT_LENGTH=BODY_BYTES,
        SQLALCHEMY_DATABASE_URI=app.config["DATABASE_URL"],
        SQLALCHEMY_ENGINE_OPTIONS=engine_options(app.config),
    )
    logging.config.dictConfig(logbook.config(production=app.config["APP_ENV"] == config.PRODUCTION))


def engine_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return SQLAlchemy's options: a connection for every thread, and bounded waits."""
    threads = settings["WEB_THREADS"] + settings["WORKER_THREADS"] + 1
    options: dict[str, Any] = {"pool_size": threads, "max_overflow": 2}
    if settings["DATABASE_URL"].startswith("sqlite"):
        return options | {"connect_args": {"isolation_level": "IMMEDIATE", "timeout": 30}}
    return options | {
        "pool_pre_ping": True,
        "pool_timeout": 10,
        "connect_args": {"connect_timeout": 5, "tcp_user_timeout": 10_000},
    }


def init_extensions(app: Flask) -> None:
    """Attach the database, the store with its catalogs, and the worker pool."""
    db.init_app(app)

    home = app.config["DATA_DIR"] / "home"
    store_dir = app.config["STORE_DIR"]
    store = nix.private_store(store_dir) if store_dir else nix.machine_store(home)
    services.add(app, store)
    services.add(app, Catalogs(store, app.config["CATALOGS"]))
    services.add(app, Pool(app))
    services.add(app, Throttle())
    services.add(app, FollowerSlots(app.config["MAX_FOLLOWERS"]))
    services.add(app, ApiDocument())


def begin_request() -> None:
    """Note the time, and give the request an id: the client's own when it sent a plain one."""
    g.started = time.perf_counter()
    given = request.headers.get("X-Request-ID", "")
    plain = given.isascii() and given.replace("-", "").replace("_", "").isalnum()
    g.request_id = given if plain and len(given) <= REQUEST_ID_LENGTH else str(uuid.uuid4())


def refuse_other_bodies() -> None:
    """Refuse a body that isn't JSON: to pass it over could do more than was asked for.

    One of unannounced length is refused too: waiting for its end could take for ever.
    """
    if "HTTP_TRANSFER_ENCODING" in request.environ:
        raise LengthRequired("the body's length must be announced, with Content-Length")
    if "CONTENT_LENGTH" in request.environ and request.content_length and not request.is_json:
        raise UnsupportedMediaType("the body must be JSON, with Content-Type: application/json")


def end_request(response: Response) -> Response:
    """Tell the client its request's id, and its browser to be careful."""
    response.headers.add("X-Request-ID", g.request_id)
    response.headers.extend(PAGE_HEADERS if request.blueprint == "docs" else DATA_HEADERS)
    return response
