"""How what goes wrong is answered: the handlers of our errors, and of all others."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from flask import Flask, g, jsonify, request
from sqlalchemy.exc import ProgrammingError
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.wrappers import Response as WerkzeugResponse

import auth
import database
import nix
from api import sentences
from dashboard import problems
from database import DatabaseFault
from errors import (
    CONTENT_TYPE,
    HOST_LIMITS,
    ActivationRefused,
    ApiError,
    BodyTooLarge,
    Busy,
    DatabaseUnavailable,
    FilesCollide,
    FileUnusable,
    HttpError,
    InvalidInput,
    InvalidJson,
    NixFailed,
    ProfileReplaced,
)
from models import DATABASE_AWAY, cause

log = logging.getLogger("pkgd.errors")

DISCARDED_BYTES = 1024 * 1024

# What webargs and marshmallow call the body as a whole.
WHOLE_BODY = ("_schema", "json")

BY_STATUS: dict[int | None, type[ApiError]] = {
    error.status: error for error in (InvalidJson, BodyTooLarge, InvalidInput)
}


def init_app(app: Flask) -> None:
    """Answer everything that goes wrong in `app` with a problem document."""
    app.register_error_handler(ApiError, answer)
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(nix.ProfileRefused, profile_refused)
    app.register_error_handler(nix.NixError, nix_failed)
    app.register_error_handler(OSError, host_failed)
    app.register_error_handler(ProgrammingError, schema_differs)
    for error in DATABASE_AWAY:
        app.register_error_handler(error, database_unavailable)


def answer(error: ApiError) -> WerkzeugResponse:
    """Send the problem document of an error, as JSON of the same form as a success.

    The dashboard has pages for errors.
    """
    if auth.is_for_dashboard():
        return problems.show(error)
    response = jsonify(error.document(g.request_id))
    response.status_code = error.status
    response.headers.extend(error.headers())
    response.content_type = CONTENT_TYPE
    return response


def http_error(error: HTTPException) -> WerkzeugResponse:
    """Answer what Flask, Werkzeug or webargs refuse, with headers of theirs such as Allow."""
    if error.code == BodyTooLarge.status:
        _discard_body()
    errors = _validation_errors(error)
    kind = BY_STATUS.get(error.code, HttpError)
    detail = None if errors or kind.message else error.description
    refusal = kind(detail=detail, errors=errors, limit=request.max_content_length)
    refusal.status = error.code or HttpError.status
    refusal.title = HTTP_STATUS_CODES[refusal.status]

    response = answer(refusal)
    theirs = ((name, value) for name, value in error.get_headers() if name != "Content-Type")
    response.headers.extend(theirs)
    return response


def profile_refused(error: nix.ProfileRefused) -> WerkzeugResponse:
    """Answer 409: the profile can't hold the packages, or is something else."""
    own = {nix.Collision: FilesCollide, nix.ProfileReplaced: ProfileReplaced}
    return answer(own.get(type(error), ActivationRefused)(detail=error))


def nix_failed(error: nix.NixError) -> WerkzeugResponse:
    """Answer 503: Nix could not do what the request needs."""
    log.error("nix: %s", error)
    return answer(NixFailed(detail=error))


def host_failed(error: OSError) -> WerkzeugResponse:
    """Answer 503: the host is at a limit, or a file of the service can't be used."""
    if error.errno in HOST_LIMITS:
        return answer(Busy(what=f"the host is at a limit: {error.strerror}"))
    log.error("file: %s", error)
    return answer(FileUnusable(detail=error))


def database_unavailable(error: Exception) -> WerkzeugResponse:
    """Answer 503: the database is down, takes no writes, or is busy for too long."""
    fault = cause(error)
    log.error("database: %s", fault)
    return answer(DatabaseUnavailable(detail=fault if isinstance(fault, DatabaseFault) else None))


def schema_differs(error: ProgrammingError) -> WerkzeugResponse:
    """Answer 503 where a column or table is missing since the schema is another version's."""
    state = database.state()
    if state == "ok":
        raise error
    log.error("database: %s", state)
    return answer(DatabaseUnavailable(detail=state))


def _discard_body() -> None:
    """Read a refused body: a proxy still sending it would take a closed connection for a fault."""
    with suppress(OSError):
        request.environ["wsgi.input"].read(DISCARDED_BYTES)


def _validation_errors(error: HTTPException) -> dict[str, Any]:
    """Return field -> messages from what webargs found, in whatever part of the request."""
    found: Mapping[str, Any] = getattr(error, "data", {}).get("messages", {})
    errors: dict[str, Any] = {}
    for part in found.values():
        fields = part if isinstance(part, dict) else {"body": part}
        for field, said in fields.items():
            errors["body" if field in WHOLE_BODY else field] = sentences(said)
    return errors
