"""Tokens: who is calling, what they may do, and the minting of new ones.

A secret is shown once, by the answer that mints it. The database keeps its HMAC-SHA256 under
SECRET_KEY; a digest made under one of SECRET_KEY_FALLBACKS still counts, and is renewed on use.
"""

import hashlib
import hmac
import logging
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from flask import current_app, g, request
from sqlalchemy import exists, select, update
from sqlalchemy.exc import IntegrityError
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import MethodNotAllowed, Unauthorized

import lookups
import services
from config import DEVELOPMENT
from models import DATABASE_AWAY, Scope, Token, db, soon, utcnow
from problems import Problem
from throttle import Throttle

log = logging.getLogger("pkgd.auth")

SECRET_PREFIX = "pkgd_"  # noqa: S105 - a prefix that tells what a leaked string is
SECRET_BYTES = 32
MASKED = f"{SECRET_PREFIX}{'*' * 8}"
TOUCH_SECONDS = 60

OPEN_ENDPOINTS = {
    "docs.asset",
    "docs.openapi",
    "docs.redoc",
    "docs.swagger_ui",
    "health.hello",
    "health.livez",
    "health.readyz",
}
ADMIN_BLUEPRINTS = {"tokens"}
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}


@dataclass(frozen=True)
class Caller:
    """The live token that a request came with."""

    id: int
    name: str | None
    scope: Scope

    @property
    def label(self) -> str:
        """What to call the caller in records of what was done."""
        return self.name or f"token {self.id}"


def check_token() -> None:
    """Refuse the request unless its token allows it; the one gate in front of every URL.

    Raises Unauthorized without a live token, and a 403 Problem when its scope is too small.
    """
    if _endpoint() in OPEN_ENDPOINTS or _is_public_metrics():
        return
    g.caller = authenticate()
    if g.caller is None:
        if _may_mint_first():
            return
        services.get(Throttle).note_failure(request.remote_addr or "")
        challenge = [WWWAuthenticate(scheme, {"realm": "pkgd"}) for scheme in ("bearer", "token")]
        raise Unauthorized("a live token is needed", www_authenticate=challenge)

    needed = required_scope(request.blueprint, request.method)
    if not g.caller.scope.includes(needed):
        raise Problem(403, f"this needs scope {needed}; the token's is {g.caller.scope}")


def required_scope(blueprint: str | None, method: str) -> Scope:
    """Return what a request needs: tokens are for admins, changes for operators."""
    if blueprint in ADMIN_BLUEPRINTS:
        return Scope.ADMIN
    return Scope.READ if method in SAFE_METHODS else Scope.OPERATE


def authenticate() -> Caller | None:
    """Return the caller that the Authorization header proves; None for any other header."""
    given = request.authorization
    if given is None or given.type not in ("token", "bearer") or not given.token:
        return None
    keys = _keys()
    for key in keys:
        row = lookups.live_token(digest(given.token, key))
        if row is None:
            continue
        stale = row.last_used_at is None or row.last_used_at < soon(-TOUCH_SECONDS)
        if stale or key != keys[0]:
            _touch(row.id, digest(given.token, keys[0]))
        return Caller(row.id, row.name, row.scope)
    return None


def digest(secret: str, key: str) -> str:
    """Return the HMAC-SHA256 of a secret under a key, in hexadecimal."""
    return hmac.new(key.encode(), secret.encode(), hashlib.sha256).hexdigest()


def mint(
    name: str | None, scope: Scope, expires_at: datetime | None = None, *, first: bool = False
) -> tuple[int, str]:
    """Add a token and return its id and its secret, which is kept nowhere.

    `first` marks the one that needed no token; of several such at once one is added, and the
    others raise Unauthorized.
    """
    secret = SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    token = Token(
        name=name,
        scope=scope,
        digest=digest(secret, _keys()[0]),
        expires_at=expires_at or utcnow() + timedelta(days=current_app.config["TOKEN_DAYS"]),
        first=first,
    )
    db.session.add(token)
    try:
        db.session.commit()
    except IntegrityError:
        db.session.rollback()
        raise Unauthorized("the first token has been made already") from None
    return token.id, secret


def _keys() -> list[str]:
    return [current_app.config["SECRET_KEY"], *current_app.config["SECRET_KEY_FALLBACKS"]]


def _endpoint() -> str | None:
    """Return the endpoint of the URL, even if it is not for this method: that is a 405, then."""
    error = request.routing_exception
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        adapter = current_app.create_url_adapter(request)
        method = next(iter(error.valid_methods))
        return str(adapter.match(method=method)[0]) if adapter else None
    return request.endpoint


def _is_public_metrics() -> bool:
    return request.endpoint == "metrics.show" and current_app.config["METRICS_PUBLIC"]


def _may_mint_first() -> bool:
    return (
        current_app.config["APP_ENV"] == DEVELOPMENT
        and request.endpoint == "tokens.create"
        and "Authorization" not in request.headers
        and not db.session.scalar(select(exists(select(Token.id))))
    )


def _touch(token_id: int, current_digest: str) -> None:
    """Note that the token is in use; a database that can't be written doesn't stop a reader."""
    used = update(Token).where(Token.id == token_id)
    try:
        db.session.execute(used.values(last_used_at=utcnow(), digest=current_digest))
        db.session.commit()
    except DATABASE_AWAY as error:
        db.session.rollback()
        reason = getattr(error, "orig", error)
        log.warning("the use of token %d was not noted: %s", token_id, reason)
