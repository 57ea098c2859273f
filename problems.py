"""The one shape of every refusal and fault: a problem document (RFC 9457)."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from flask import Flask, Response, g, json
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES

from models import DATABASE_AWAY, db
from nix import Collision, NixError
from profiles import CheckFailed, NoSuchGeneration, NotDownloaded

log = logging.getLogger("pkgd.problems")

CONTENT_TYPE = "application/problem+json"
RETRY_SECONDS = 2
REFUSALS: tuple[tuple[type[Exception], int, str], ...] = (
    (Collision, 409, "collision"),
    (NotDownloaded, 409, "not-downloaded"),
    (CheckFailed, 409, "check-failed"),
    (NoSuchGeneration, 404, "no-such-generation"),
)
# what webargs and marshmallow call the body as a whole
WHOLE = ("_schema", "json")


class Problem(HTTPException):
    """A refusal with a status, a sentence that says what to do and, for programs, a kind."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        kind: str | None = None,
        errors: Mapping[str, list[str]] | None = None,
        retry_after: int | None = None,
        near: Sequence[str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = status
        self.kind = kind
        self.errors = errors
        self.retry_after = retry_after
        self.near = near


def init_app(app: Flask) -> None:
    """Answer everything that goes wrong in `app` with a problem document."""
    app.register_error_handler(HTTPException, refuse)
    for fault in DATABASE_AWAY:
        app.register_error_handler(fault, database_unavailable)
    for error, status, kind in REFUSALS:
        app.register_error_handler(error, partial(domain_refusal, status=status, kind=kind))
    app.register_error_handler(NixError, nix_failed)


def refuse(error: HTTPException) -> Response:
    """Turn an HTTP error into its problem document, keeping headers such as Allow."""
    response = Response(headers=_kept_headers(error), status=error.code)
    errors = getattr(error, "errors", None) or _validation_errors(error)
    kind = getattr(error, "kind", None)
    detail = _validation_detail(errors) if errors else error.description
    document = _document(response.status_code, detail, g.request_id, kind)
    if errors:
        document["errors"] = errors
    near = getattr(error, "near", None)
    if near is not None:
        document["near"] = near
    response.data = json.dumps(document)
    response.content_type = CONTENT_TYPE
    return response


def database_unavailable(error: Exception) -> Response:
    """Answer 503: the database is away, takes no writes, or is busy for too long."""
    db.session.rollback()
    log.error("database: %s", getattr(error, "orig", error))
    detail = "the database can't be used at the moment; try again"
    return refuse(Problem(503, detail, kind="database-unavailable", retry_after=RETRY_SECONDS))


def domain_refusal(error: Exception, *, status: int, kind: str) -> Response:
    """Answer what the service refuses for a reason of its own, which the error tells."""
    db.session.rollback()
    return refuse(Problem(status, str(error), kind=kind))


def nix_failed(error: NixError) -> Response:
    """Answer 503: Nix could not do what a request needed of it."""
    log.error("nix: %s", error)
    return refuse(Problem(503, str(error), kind="nix-failed", retry_after=RETRY_SECONDS))


def _document(
    status: int, detail: str | None, instance: str, kind: str | None = None
) -> dict[str, Any]:
    return {
        "type": f"urn:pkgd:problem:{kind}" if kind else "about:blank",
        "title": HTTP_STATUS_CODES[status],
        "status": status,
        "detail": detail,
        "instance": instance,
    }


def _kept_headers(error: HTTPException) -> Headers:
    kept = Headers(error.get_headers())
    del kept["Content-Type"]
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        kept["Retry-After"] = str(retry_after)
    return kept


def _validation_errors(error: HTTPException) -> dict[str, Any]:
    """Return field -> messages from what webargs found, whatever part of the request it is in."""
    found: Mapping[str, Any] = getattr(error, "data", {}).get("messages", {})
    errors: dict[str, Any] = {}
    for part in found.values():
        fields = part if isinstance(part, dict) else {"body": part}
        errors |= {"body" if field in WHOLE else field: said for field, said in fields.items()}
    return errors


def _validation_detail(errors: Mapping[str, Any]) -> str:
    return "; ".join(f"{field}: {' '.join(said)}" for field, said in errors.items())
