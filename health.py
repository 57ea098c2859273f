"""The routes that say how the service is: greeting, liveness, readiness, version."""

import os
from typing import Any

from flask import Flask
from sqlalchemy import Connection, inspect, text

import nix
import services
from blueprints import Blueprint
from config import HERE, PRODUCTION
from models import DATABASE_AWAY, db
from problems import Problem
from schemas import HealthSchema, MessageSchema, VersionSchema
from version import BUILD, VERSION
from worker import Pool

blueprint = Blueprint("health", __name__, description="How the service is")

RETRY_SECONDS = 2
REVISIONS = HERE / "migrations" / "versions"


@blueprint.get("/hello")
@blueprint.response(200, MessageSchema)
def hello() -> Any:
    """Greet."""
    return {"message": "Welcome to Package API"}


@blueprint.get("/livez")
@blueprint.response(200, HealthSchema)
def livez() -> Any:
    """Tell that the process answers."""
    return {"status": "alive", "checks": {}}


@blueprint.get("/readyz")
@blueprint.response(200, HealthSchema)
@blueprint.refuses("not-ready")
def readyz() -> Any:
    """Tell whether the service can do its work, and which check fails when it can't."""
    checks = {"database": database_state(), "nix": _nix(), "workers": _workers()}
    failed = {name: [said] for name, said in checks.items() if not said.startswith("ok")}
    if failed:
        raise Problem(503, "not ready", kind="not-ready", errors=failed, retry_after=RETRY_SECONDS)
    return {"status": "ready", "checks": checks}


@blueprint.get("/api/v1/version")
@blueprint.response(200, VersionSchema)
def version() -> Any:
    """Tell which pkgd this is."""
    return {"version": VERSION, "build": BUILD}


def check_start(app: Flask) -> None:
    """End a start in production that could not go well; SystemExit says why in one line.

    A database that is away is no reason: it may come back.
    """
    if app.config["APP_ENV"] != PRODUCTION:
        return
    with app.app_context():
        said = database_state()
        db.engine.dispose()  # nothing may be open across a fork
    if said.startswith("the schema is"):
        raise SystemExit(f"pkgd: {said}")
    folder = app.config["DATA_DIR"]
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SystemExit(f"pkgd: DATA_DIR {folder} can't be written")


def database_state() -> str:
    try:
        with db.engine.connect() as connection:
            current = _revision(connection)
    except DATABASE_AWAY as error:
        return f"the database does not answer: {getattr(error, 'orig', error)}"
    newest = max(file.name[:4] for file in REVISIONS.glob("[0-9]*.py"))
    if current != newest:
        return f"the schema is {current}, not {newest}: run flask init-db"
    return "ok"


def _revision(connection: Connection) -> str | None:
    """Return the schema's revision, where Alembic notes it; None for a database without one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revisions = connection.scalars(text("SELECT version_num FROM alembic_version"))
    revision: str | None = revisions.first()
    return revision


def _nix() -> str:
    try:
        return f"ok, {nix.version(services.get(nix.Store))}"
    except nix.NixError as error:
        return str(error)


def _workers() -> str:
    pool = services.get(Pool)
    if not pool.is_running:
        return "a worker thread of this process is not running"
    return "ok" if pool.size else "ok, in other processes"
