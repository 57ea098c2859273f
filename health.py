"""The routes of the service's health: greeting, liveness, readiness, version."""

import logging
import os
from pathlib import Path
from typing import Any

from flask import Flask, current_app
from sqlalchemy import Connection, inspect, text

import auth
import data_folder
import errors
import nix
import services
from api import Blueprint
from catalog_state import Catalogs
from config import BUILD, HERE, PRODUCTION, VERSION
from models import DATABASE_AWAY, cause, db
from schemas import HealthSchema, MessageSchema, VersionSchema
from worker import Pool

log = logging.getLogger("pkgd.server")

blueprint = Blueprint("health", __name__, description="How the service is")

FOLDERS = ("holders", "roots", "tmp")
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
@blueprint.refuses(errors.NotReady)
def readyz() -> Any:
    """Tell whether the service can do its work, or which check fails."""
    checks = {
        "database": database_state(),
        "nix": _nix(),
        "catalogs": services.get(Catalogs).state(),
        "workers": _workers(),
    }
    failed = {name: [state] for name, state in checks.items() if not state.startswith("ok")}
    if failed:
        raise errors.NotReady(errors=failed)
    return {"status": "ready", "checks": checks}


@blueprint.get("/api/v1/version")
@blueprint.response(200, VersionSchema)
def version() -> Any:
    """Tell the server's version and build date, and where its profile is."""
    profile = Path(os.path.abspath(current_app.config["PROFILE"]))
    return {"version": VERSION, "build": BUILD, "profile": str(profile)}


def check_start(app: Flask) -> None:
    """Raise SystemExit, with one line, where a server could not work, or would do damage.

    That is a data folder of another store or database and, in production, an old schema or a folder
    that can't be written. A database that is down is no reason: it may come back.
    """
    if app.config["APP_ENV"] == PRODUCTION:
        _check_production(app)
    with app.app_context():
        try:
            data_folder.claim()
        except data_folder.NotYours as error:
            raise SystemExit(f"pkgd: {error}") from None
        _check_folders(app.config["DATA_DIR"])
        _check_key()


def _check_folders(data_dir: Path) -> None:
    try:
        for name in FOLDERS:
            (data_dir / name).mkdir(exist_ok=True)
    except OSError as error:
        raise SystemExit(f"pkgd: DATA_DIR can't be used: {error}") from None


def _check_key() -> None:
    """Warn of a key that fits no token, as after a restore without the key."""
    if database_state() == "ok" and not auth.fits_key():
        log.warning(
            "SECRET_KEY fits none of the live tokens in the database: restore the key that belongs "
            "to it, or add that to SECRET_KEY_FALLBACKS; flask create-token makes a new token"
        )
    db.session.remove()
    db.engine.dispose()  # no connection may be open across a fork


def _check_production(app: Flask) -> None:
    with app.app_context():
        state = database_state()
        db.engine.dispose()  # no connection may be open across a fork
    if state.startswith("the schema is"):
        raise SystemExit(f"pkgd: {state}")
    folder = app.config["DATA_DIR"]
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SystemExit(f"pkgd: DATA_DIR {folder} can't be written")


def database_state() -> str:
    """Return `ok`, or why the database can't be used."""
    try:
        with db.engine.connect() as connection:
            current = _revision(connection)
    except DATABASE_AWAY as error:
        return f"the database does not answer: {cause(error)}"
    newest = max(file.name[:4] for file in REVISIONS.glob("[0-9]*.py"))
    if current != newest:
        return f"the schema is {current}, not {newest}: run flask init-db"
    return "ok"


def _revision(connection: Connection) -> str | None:
    """Return the revision that Alembic has noted; None for a database without a schema."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revisions = connection.scalars(text("SELECT version_num FROM alembic_version"))
    revision: str | None = revisions.first()
    return revision


def _nix() -> str:
    store = services.get(nix.Store)
    fault = services.get(nix.Availability).fault(store)
    return str(fault) if fault else f"ok, {nix.version(store)}"


def _workers() -> str:
    pool = services.get(Pool)
    fault = pool.fault()
    if fault is not None:
        return fault
    return "ok" if pool.size else "ok, in other processes"
