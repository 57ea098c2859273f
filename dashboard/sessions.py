"""Signing in to the dashboard with a token, and the sessions that this begins.

The cookie holds a random number, signed with SECRET_KEY; the database holds its digest and whose
token it is. A session ends with its token, after 12 hours, or when its owner signs out.
"""

import secrets
from datetime import timedelta
from hashlib import sha256
from urllib.parse import urlsplit

from flask import Blueprint, Response, current_app, g, redirect, request, url_for
from itsdangerous import BadSignature, Signer
from sqlalchemy import delete
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as WerkzeugResponse

import auth
import queries
from auth import Caller
from dashboard.rendering import bare_page
from errors import HttpError, SignInNeeded, Unauthorized
from models import NO_SYNC, Scope, db, utcnow
from session_models import Session

pages = Blueprint("sessions", __name__)

COOKIE = "pkgd_session"
LIFE = timedelta(hours=12)
ID_BYTES = 32
UNKNOWN = "No live token has this secret. It may have expired, or have been revoked."
MACHINE = "A token of scope sync is a machine's: it can't sign in."
HOME = "dashboard.now.index"


class ForeignOrigin(HttpError):
    """A form of another site, or one that came by another name or protocol than the service's."""

    status = 403
    code = "foreign-origin"
    message = (
        "this request does not come from a page of {own}: a reverse proxy must pass on the host "
        "(the header Host, with the port) and the protocol (X-Forwarded-Proto, with "
        "TRUSTED_PROXIES set)"
    )
    hint = "Open the dashboard anew, and try again."


def check_origin() -> None:
    """Refuse every request that may change something unless one of our own pages sent it."""
    if request.method in auth.SAFE_METHODS:
        return
    own = f"{request.scheme}://{request.host}"
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    if request.headers.get("Origin") != own or site != "same-origin":
        raise ForeignOrigin(own=own)


def caller() -> Caller | None:
    """Return who has signed in, by the cookie; None where the session or the token has ended."""
    digest = _digest()
    row = queries.signed_in_token(digest) if digest else None
    if row is None:
        return None
    found = Caller(**row._asdict())
    if found.is_due_for_note:
        auth.note_use(found)
    return found


# --- Routes ---


@pages.get("/sign-in")
def form() -> WerkzeugResponse:
    """Ask for a token; who is signed in already goes on."""
    if caller() is not None:
        return redirect(_wanted(), 303)
    return _form(200)


@pages.post("/sign-in")
def sign_in() -> WerkzeugResponse:
    """Begin a session, with an id of its own, and end the one there was."""
    secret = request.form.get("token", "").strip()
    owner = auth.owner(secret) if secret and secret.isascii() else None
    if owner is None:
        auth.refuse(secret or None)
        return _form(401, UNKNOWN)
    g.caller = owner
    if not owner.scope.includes(Scope.READ):
        return _form(403, MACHINE)

    session_id = secrets.token_urlsafe(ID_BYTES)
    expires_at = min(utcnow() + LIFE, owner.expires_at)
    _end()
    db.session.add(Session(digest=digest(session_id), token_id=owner.id, expires_at=expires_at))
    db.session.commit()
    response = redirect(_wanted(), 303)
    response.set_cookie(
        COOKIE,
        _signer().sign(session_id).decode(),
        max_age=expires_at - utcnow(),
        path=_path(),
        secure=request.is_secure,
        httponly=True,
        samesite="Strict",
    )
    return response


@pages.post("/sign-out")
def sign_out() -> WerkzeugResponse:
    """End the session, also for whoever has a copy of the cookie."""
    _end()
    db.session.commit()
    response = redirect(url_for("dashboard.sessions.form"), 303)
    response.delete_cookie(
        COOKIE, path=_path(), secure=request.is_secure, httponly=True, samesite="Strict"
    )
    return response


def ask(error: SignInNeeded) -> WerkzeugResponse:
    """Send a browser to the form, from which it comes back to where it wanted to go."""
    if "HX-Request" in request.headers:
        # Has htmx load the page anew, which then leads to the form.
        return Response(status=error.status, headers=[*error.headers(), ("HX-Refresh", "true")])
    is_page = request.method in auth.SAFE_METHODS
    wanted = request.full_path.removesuffix("?") if is_page else None
    return redirect(url_for("dashboard.sessions.form", next=wanted), 303)


# --- Details ---


def digest(session_id: str) -> str:
    """Return what the database keeps of a session's id, a random number of 256 bits."""
    return sha256(session_id.encode()).hexdigest()


def _digest() -> str | None:
    """Return the digest of the id in the cookie; None where no key of ours has signed it."""
    try:
        return digest(_signer().unsign(request.cookies.get(COOKIE, "")).decode())
    except BadSignature:
        return None


def _signer() -> Signer:
    """Return what signs with SECRET_KEY, and accepts what a former key has signed."""
    keys = [*reversed(current_app.config["SECRET_KEY_FALLBACKS"]), current_app.config["SECRET_KEY"]]
    return Signer(keys, salt=COOKIE, key_derivation="hmac", digest_method=sha256)


def _end() -> None:
    """Delete the session that the request came with, without a commit."""
    mine = delete(Session).where(Session.digest == _digest())
    db.session.execute(mine, execution_options=NO_SYNC)


def _form(status: int, fault: str | None = None) -> Response:
    response = bare_page("sign_in.html", status, fault=fault, next=request.values.get("next", ""))
    if status == Unauthorized.status:
        response.headers.extend(Unauthorized(docs="").headers())
    return response


def _wanted() -> str:
    """Return the page to go on to: one of the dashboard's, and otherwise the first."""
    wanted = request.values.get("next", "")
    # A browser skips tabs and line breaks: "/<tab>/host" would lead it to another host.
    is_plain = wanted.startswith("/") and wanted.isprintable()
    is_ours = is_plain and not wanted.startswith(("//", "/\\"))
    adapter = current_app.create_url_adapter(request)
    try:
        endpoint = adapter.match(urlsplit(wanted).path, "GET")[0] if adapter and is_ours else ""
    except (HTTPException, ValueError):
        endpoint = ""
    if endpoint.startswith(f"{auth.DASHBOARD}.") and endpoint not in auth.OPEN_ENDPOINTS:
        return f"{request.script_root}{wanted}"
    return url_for(HOME)


def _path() -> str:
    return request.script_root or "/"
