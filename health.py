"""The routes of the service's health: greetings, liveness, readiness, version."""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from flask import Flask, current_app, jsonify, redirect, request, url_for

import auth
import data_folder
import database
import errors
import nix
import read_only
import services
from api import Blueprint, constant, headers
from api_docs import HTML
from cache.access import CacheAccess
from catalogs.state import Catalogs
from config import BUILD, PRODUCTION, VERSION, refuse_start
from models import db
from read_cache import close_connections
from schemas import HealthSchema, MessageSchema, VersionSchema
from worker import Pool

log = logging.getLogger("pkgd.server")

blueprint = Blueprint("health", __name__, description="How the service is")

FOLDERS = ("holders", "roots", "tmp")
PLACES = {"api": "/api/v1", "docs": "/docs", "openapi": "/openapi.json", "health": "/readyz"}
PLACES_SCHEMA = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in PLACES},
    "examples": [PLACES],
}


@blueprint.get("/")
@blueprint.response(200, PLACES_SCHEMA)
@blueprint.alt_response(
    303, schema=HTML, content_type="text/html", headers=headers("Location"), description="To /now"
)
def index() -> Any:
    """Tell a program where the API is; send a browser to the dashboard."""
    places = {name: request.script_root + path for name, path in PLACES.items()}
    accepted = request.accept_mimetypes
    is_browser = accepted["text/html"] > accepted["application/json"]
    response = redirect(url_for("dashboard.now.index"), 303) if is_browser else jsonify(places)
    response.vary.add("Accept")
    return response


@blueprint.get("/hello")
@constant
@blueprint.response(200, MessageSchema)
def hello() -> Any:
    """Greet."""
    return {"message": "Welcome to Package API"}


@blueprint.get("/livez")
@constant
@blueprint.response(200, HealthSchema)
def livez() -> Any:
    """Tell that the process answers."""
    return {"status": "alive", "checks": {}}


@blueprint.get("/readyz")
@blueprint.response(200, HealthSchema)
@blueprint.refuses(errors.NotReady)
def readyz() -> Any:
    """Tell whether the service can do its work, or which check fails."""
    states = checks()
    failed = {name: [state] for name, state in states.items() if not is_ok(state)}
    if failed:
        raise errors.NotReady(errors=failed)
    version_of_nix = nix.version(services.get(nix.Store))
    return {"status": "ready", "checks": states | {"nix": f"ok, {version_of_nix}"}}


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
            refuse_start(error)
        _check_folders(app.config["DATA_DIR"])
        _check_cache_key()
        _reset_cache_access()
        _check_database()
        _make_store()


def _make_store() -> None:
    """Have one program of Nix make a new store: of several that do so at once, some fail."""
    store = services.get(nix.Store)
    if not store.directory.exists():
        with suppress(nix.NixError):  # /readyz tells of it
            nix.check(store)


def _check_folders(data_dir: Path) -> None:
    try:
        for name in FOLDERS:
            (data_dir / name).mkdir(exist_ok=True)
    except OSError as error:
        refuse_start(f"DATA_DIR can't be used: {error}")


def _check_cache_key() -> None:
    """Refuse a key of the cache that can't be used: everything to be published would fail."""
    key_file = current_app.config["CACHE_KEY_FILE"]
    if current_app.config["CACHE"]:
        try:
            nix.public_key(key_file)
        except nix.CacheKeyUnusable as error:
            refuse_start(f"CACHE_KEY_FILE: {error}")


def _reset_cache_access() -> None:
    """Let nginx take no token that it took before: the keys or the database may be others."""
    access = services.get(CacheAccess)
    if fault := access.fault():
        refuse_start(fault)
    try:
        access.clear()
    except OSError as error:
        refuse_start(f"CACHE_ACCESS_DIR can't be used: {error}")


def _check_database() -> None:
    """Refuse a newer schema; warn of a key that fits no token, as after a restore without it."""
    state = database.state()
    if database.NEWER in state:
        refuse_start(state)
    if state == "ok" and not auth.fits_key():
        log.warning(
            "SECRET_KEY fits none of the live tokens in the database: restore the key that belongs "
            "to it, or add that to SECRET_KEY_FALLBACKS; flask create-token makes a new token"
        )
    db.session.remove()
    close_connections()  # none may be open across a fork


def _check_production(app: Flask) -> None:
    with app.app_context():
        state = database.state()
        close_connections()  # none may be open across a fork
    if database.OTHER in state:
        refuse_start(state)
    folder = app.config["DATA_DIR"]
    if not os.access(folder, os.W_OK | os.X_OK):
        refuse_start(f"DATA_DIR {folder} can't be written")


def checks() -> dict[str, str]:
    """Return the state of each part of the service: `ok`, perhaps with more, or what fails."""
    return {
        "database": database.state(),
        "nix": _nix(),
        "catalogs": services.get(Catalogs).state(),
        "workers": _workers(),
    }


def is_ok(state: str) -> bool:
    """Tell whether the state of a part is no failure."""
    return state.startswith("ok")


def _nix() -> str:
    fault = services.get(nix.Availability).fault(services.get(nix.Store))
    return str(fault) if fault else "ok"


def _workers() -> str:
    pool = services.get(Pool)
    fault = pool.fault()
    if fault is not None:
        return fault
    if read_only.is_set():
        return f"ok, but {read_only.REASON}"
    try:
        drained = pool.drained()
    except OSError as error:
        return f"DATA_DIR can't be used: {error}"
    if drained is not None:
        return f"ok, but {drained}"
    return "ok" if pool.size else "ok, in other processes"
