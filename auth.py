"""Authentication and authorization of every request, and the minting of tokens.

A secret is shown once, by the answer that mints it. The database holds its HMAC-SHA256 under
SECRET_KEY. A digest under one of SECRET_KEY_FALLBACKS is valid, too, and is renewed on use.

The end of a token that is in use is announced before it comes: by a header of each answer, and by a
line in the log each day.
"""

import hmac
import ipaddress
import logging
import math
import secrets
import time
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

from flask import Request, current_app, g, request, url_for
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from sqlalchemy import exists, select, update
from werkzeug.exceptions import MethodNotAllowed, NotFound

import event_log
import queries
import read_cache
import services
from config import DEVELOPMENT
from errors import ScopeTooSmall, SignInNeeded, TooManyFailures, Unauthorized
from event_log import EventType
from fields import rfc3339
from models import (
    DATABASE_AWAY,
    AnyRow,
    Scope,
    Token,
    cause,
    columns,
    db,
    insert_or_ignore,
    soon,
    utcnow,
)

log = logging.getLogger("pkgd.auth")

SECRET_PREFIX = "pkgd_"  # noqa: S105 - no secret: it says what a leaked string is
SECRET_BYTES = 32
SCHEMES = ("token", "bearer")
MASKED = f"{SECRET_PREFIX}{'*' * 8}"
LAST_USED_SECONDS = 60  # how exact `last_used_at` is,
SYNC_LAST_USED_SECONDS = 900  # and of a machine's token, so that few of its requests write
NOTICE = timedelta(days=7)  # how long before its end a token is announced to expire,
NOTICE_SHARE = 7  # or this part of its life, if that is shorter
KEY_ID_LENGTH = 16
FAILURES = RateLimitItemPerMinute(60)
NEWS = RateLimitItemPerMinute(1, namespace="news")

OPEN_ENDPOINTS = {
    "dashboard.assets.show",
    "dashboard.sessions.form",
    "dashboard.sessions.sign_in",
    "docs.asset",
    "docs.openapi",
    "docs.redoc",
    "docs.swagger_ui",
    "health.hello",
    "health.index",
    "health.livez",
    "health.readyz",
}
ADMIN_BLUEPRINTS = {"tokens", "events", "webhooks", "dashboard.access"}
DASHBOARD = "dashboard"  # whose pages, and they alone, go by a cookie
METRICS = "metrics.show"
SIGN_OUT = "dashboard.sessions.sign_out"
BASIC_BLUEPRINT = "cache_files"  # Nix knows nothing but HTTP Basic
OWN_TOKEN = "tokens.own"  # noqa: S105 # an endpoint, which tells every caller who it is
REPORT = "machines.report"  # what a machine is
# What a token of scope `sync` may read; machines.show lets it read its own machine alone.
SYNC_BLUEPRINTS = {"cache", BASIC_BLUEPRINT}
SYNC_READS = {"profiles.index", "profiles.show", "machines.show", OWN_TOKEN}
# Headers of proxies; only those of TRUSTED_PROXIES say truly who is asking.
FORWARDED = {"Forwarded", "Via", "X-Forwarded-For", "X-Real-Ip"}
ELSEWHERE = (
    "the first token is created without one on the server's own machine alone; "
    "there, flask --app app create-token prints one; "
    "for a container: docker exec -u pkgd CONTAINER flask create-token"
)
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}  # they change nothing


class Caller(NamedTuple):
    """The live token that a request came with, its fields as the select of tokens has them."""

    id: int
    name: str | None
    scope: Scope
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None

    @property
    def notice(self) -> timedelta:
        """How long before its end it is announced that the token expires."""
        return min(NOTICE, (self.expires_at - self.created_at) / NOTICE_SHARE)

    @property
    def expires_soon(self) -> bool:
        """Whether the token is at the end of its life."""
        left = self.expires_at - utcnow()
        return left <= NOTICE and left <= self.notice

    @property
    def is_due_for_notice(self) -> bool:
        """Whether this is the first use today, in UTC, of a token that expires soon."""
        if not self.expires_soon:
            return False
        midnight = utcnow().replace(hour=0, minute=0, second=0, microsecond=0)
        since = max(self.expires_at - self.notice, midnight)
        return self.last_used_at is None or self.last_used_at < since

    @property
    def is_due_for_note(self) -> bool:
        """Whether this use is to be written down."""
        last = self.last_used_at
        is_machine = self.scope == Scope.SYNC
        seconds = SYNC_LAST_USED_SECONDS if is_machine else LAST_USED_SECONDS
        return last is None or last < soon(-seconds) or self.is_due_for_notice

    @property
    def label(self) -> str:
        """What to call the caller in records of what was done."""
        return self.name or f"token {self.id}"


class Gate:
    """How the dashboard finds the caller by a cookie; its package imports this module."""

    def __init__(self, by_cookie: Callable[[], Caller | None]) -> None:
        self.by_cookie = by_cookie


class RefusalReason(StrEnum):
    """Why a request was refused; the client is told less."""

    MISSING = "missing"  # no token came with it
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    REVOKED = "revoked"
    SCOPE = "scope"  # the token may not do this, or may not give what is asked for
    THROTTLED = "throttled"


@dataclass(frozen=True)
class Refusal:
    """Why a request was refused, and the token that it came with, where that is on record."""

    reason: RefusalReason
    token_id: int | None = None
    token_name: str | None = None
    is_logged: bool = True


class Throttle:
    """Counts failed authentications by address, in this process; a live token is never limited."""

    def __init__(self) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    def count_failure(self, address: str) -> None:
        """Count a failure; raise TooManyFailures past 60 of them within a minute."""
        if self._limiter.hit(FAILURES, address):
            return
        reset_at = self._limiter.get_window_stats(FAILURES, address).reset_time
        raise TooManyFailures(retry_after=max(1, math.ceil(reset_at - time.time())))

    def is_news(self, address: str) -> bool:
        """Tell whether this address has not been slowed in the last minute."""
        return self._limiter.hit(NEWS, address)


def check_token(request: Request) -> None:
    """Let the request pass if its token allows it; this runs before every request.

    Raises Unauthorized without a live token, TooManyFailures after many such requests, and
    ScopeTooSmall.
    """
    endpoint = _endpoint(request)
    if endpoint in OPEN_ENDPOINTS or (endpoint == METRICS and _are_metrics_public()):
        return

    if _is_page(endpoint):
        caller = g.caller = services.get(Gate).by_cookie()
        if caller is None:
            raise SignInNeeded
    else:
        caller = g.caller = authenticate()
    if caller is None:
        wants_first = _wants_first_token()
        if wants_first and _is_from_this_machine():
            return
        refuse(_secret())
        # The same for every URL, so that nobody learns which of them exist.
        docs = url_for("docs.swagger_ui")
        raise Unauthorized(detail=ELSEWHERE if wants_first else None, docs=docs)

    endpoint, method = request.endpoint, request.method
    if not may(caller.scope, endpoint, method):
        raise ScopeTooSmall(needed=required_scope(endpoint, method), given=caller.scope)


def is_for_dashboard() -> bool:
    """Tell whether the request is for a page of the dashboard."""
    try:
        return _is_page(_endpoint(request))
    except NotFound:  # a number beyond all ids, with a method that the path doesn't have
        return False


def _is_page(endpoint: str | None) -> bool:
    return (endpoint or "").partition(".")[0] == DASHBOARD


def refuse(secret: str | None) -> None:
    """Note why no live token has this secret. Raises TooManyFailures after many such requests."""
    throttle, address = services.get(Throttle), request.remote_addr or ""
    try:
        throttle.count_failure(address)
    except TooManyFailures:
        # One line a minute: the rest of a flood is counted, not logged.
        g.refusal = Refusal(RefusalReason.THROTTLED, is_logged=throttle.is_news(address))
        raise
    g.refusal = _why_refused(secret)


def refusal(context: Any, status: int) -> Refusal | None:
    """Return why the request of this context (`g`) was refused; None where it was not."""
    noted: Refusal | None = context.get("refusal")
    if noted is not None or status not in (401, 403):
        return noted
    caller: Caller | None = context.get("caller")
    if caller is None:
        return Refusal(RefusalReason.MISSING)
    return Refusal(RefusalReason.SCOPE, caller.id, caller.name)


# A client can invent methods, so that not all that come can be remembered.
@lru_cache(maxsize=1024)
def may(scope: Scope, endpoint: str | None, method: str) -> bool:
    """Tell whether a token of this scope will do for a request."""
    if scope == Scope.SYNC and is_for_machines(endpoint, method):
        return True
    return scope.includes(required_scope(endpoint, method))


def required_scope(endpoint: str | None, method: str) -> Scope:
    """Return the scope that a request needs; `is_for_machines` tells where `sync` will do, too."""
    blueprint = (endpoint or "").rpartition(".")[0]
    with_parent = {blueprint, blueprint.rpartition(".")[0]}
    if not ADMIN_BLUEPRINTS.isdisjoint(with_parent) and endpoint != OWN_TOKEN:
        return Scope.ADMIN
    if endpoint == SIGN_OUT:
        return Scope.READ
    if endpoint == REPORT:
        return Scope.SYNC
    return Scope.READ if method in SAFE_METHODS else Scope.OPERATE


def is_for_machines(endpoint: str | None, method: str) -> bool:
    """Tell whether a token of scope `sync` will do where `read` is needed."""
    blueprint = (endpoint or "").partition(".")[0]
    return method in SAFE_METHODS and (blueprint in SYNC_BLUEPRINTS or endpoint in SYNC_READS)


def authenticate() -> Caller | None:
    """Return the caller that the Authorization header proves; None where it proves none."""
    secret = _secret()
    return None if secret is None else owner(secret)


def owner(secret: str) -> Caller | None:
    """Return who has the live token with this secret; None where there is no such token."""
    keys = _keys()
    for key in keys:
        caller = _live_caller(digest(secret, key))
        if caller is None:
            continue
        if key != keys[0]:
            note_use(caller, digest=digest(secret, keys[0]), key_id=key_id(keys[0]))
        elif caller.is_due_for_note:
            note_use(caller)
        return caller
    return None


def _live_caller(digest: str) -> Caller | None:
    """Return who has the live token with this digest; None where there is no such token."""
    row = read_cache.of_request().get((Token, digest), lambda: queries.live_token(digest))
    return Caller(*row) if row is not None and row.expires_at > utcnow() else None


def _secret() -> str | None:
    """Return the secret in the request's header; None where it holds none that could be ours."""
    # Not request.authorization, which fails on bytes over 127 in schemes other than ours.
    scheme, _, secret = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    secret = secret.strip()
    if scheme.lower() == "basic" and request.blueprint == BASIC_BLUEPRINT:
        return basic_credentials()[1] or None
    return secret if scheme.lower() in SCHEMES and secret and secret.isascii() else None


def basic_credentials() -> tuple[str, str]:
    """Return login and password of HTTP Basic; both are empty where they could be none of ours."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    try:
        text = b64decode(given.strip(), validate=True).decode("ascii")
    except ValueError:
        text = ""
    login, _, password = text.partition(":")
    return (login, password) if scheme.lower() == "basic" else ("", "")


def _why_refused(secret: str | None) -> Refusal:
    """Find out why no live token has this secret."""
    if secret is None:
        is_missing = not request.headers.get("Authorization")
        return Refusal(RefusalReason.MISSING if is_missing else RefusalReason.UNKNOWN)
    row = queries.dead_token([digest(secret, key) for key in _keys()])
    if row is None:
        return Refusal(RefusalReason.UNKNOWN)
    return Refusal(
        RefusalReason.REVOKED if row.revoked_at else RefusalReason.EXPIRED, row.id, row.name
    )


def digest(secret: str, key: str) -> str:
    """Return the HMAC-SHA256 of a secret under a key, in hexadecimal."""
    return hmac.digest(key.encode(), secret.encode(), "sha256").hex()


def key_id(key: str) -> str:
    """Return what tells a key from others, and tells nothing of it."""
    return digest("id of this key", key)[:KEY_ID_LENGTH]


def fits_key() -> bool:
    """Tell whether any live token may be verified with the keys there are, or there is none."""
    live = select(Token.key_id).where(Token.revoked_at.is_(None), Token.expires_at > utcnow())
    found = set(db.session.scalars(live.distinct()))
    return not found or not found.isdisjoint({None, *map(key_id, _keys())})


def mint(
    name: str | None, scope: Scope, expires_at: datetime, *, is_first: bool = False
) -> tuple[AnyRow, str]:
    """Add a token, and return its row and its secret, which is stored nowhere.

    `is_first` marks a token that was created without authentication: of several such requests at
    once one succeeds, and the others raise Unauthorized.
    """
    secret = SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    new = insert_or_ignore(Token).values(
        name=name,
        scope=scope,
        digest=digest(secret, _keys()[0]),
        key_id=key_id(_keys()[0]),
        expires_at=expires_at,
        first=is_first,
    )
    row = db.session.execute(new.returning(*columns(Token, "digest", "key_id"))).one_or_none()
    if row is not None:
        about = event_log.subject("token", row.id, row.name)
        data = {"scope": row.scope.value, "expires_at": rfc3339(row.expires_at)}
        event_log.add(EventType.TOKEN_MINTED, about, data)
    db.session.commit()
    if row is None:
        raise Unauthorized(detail="the first token has been made already")
    return row, secret


def _keys() -> list[str]:
    settings = current_app.config
    return [settings["SECRET_KEY"], *settings["SECRET_KEY_FALLBACKS"]]


def _endpoint(request: Request) -> str | None:
    """Return the endpoint of the URL, also for a method that it doesn't have, which gets a 405."""
    error = request.routing_exception
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        adapter = current_app.create_url_adapter(request)
        method = next(iter(error.valid_methods))
        return str(adapter.match(method=method)[0]) if adapter else None
    return request.endpoint


def _are_metrics_public() -> bool:
    setting: bool = current_app.config["METRICS_PUBLIC"]
    return setting


def _wants_first_token() -> bool:
    return (
        current_app.config["APP_ENV"] == DEVELOPMENT
        and request.endpoint == "tokens.create"
        and "Authorization" not in request.headers
        and not db.session.scalar(select(exists(select(Token.id))))
    )


def _is_from_this_machine() -> bool:
    """Tell whether the request, and any proxy that passed it on, can only be on this machine."""
    if not current_app.config["TRUSTED_PROXIES"] and not FORWARDED.isdisjoint(
        request.headers.keys()
    ):
        return False
    connection = request.environ.get("werkzeug.proxy_fix.orig", request.environ)
    return all(map(_is_local, (connection["REMOTE_ADDR"], request.remote_addr or "")))


def _is_local(address: str) -> bool:
    """Tell whether an address is a loopback address, or that of a Unix socket, which is empty."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address == ""
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def note_use(caller: Caller, **renewed: str) -> None:
    """Write down that the token is in use; a reader is served even when this can't be written.

    `renewed` are its digest and key id, where these are to change.
    """
    if current_app.config["READ_ONLY"]:
        return
    # Of several requests at once, one writes, and logs.
    is_first = Token.last_used_at.is_not_distinct_from(caller.last_used_at)
    used = update(Token).where(Token.id == caller.id, is_first).returning(Token.id)
    try:
        noted = db.session.execute(used.values(last_used_at=utcnow(), **renewed)).all()
        db.session.commit()
    except DATABASE_AWAY as error:
        db.session.rollback()
        log.warning("the use of token %d was not noted: %s", caller.id, cause(error))
        return
    if noted and caller.is_due_for_notice:
        log.warning(
            "token %d (%s) expires at %s", caller.id, caller.name, rfc3339(caller.expires_at)
        )
