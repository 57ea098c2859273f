"""The routes of tokens: list, mint, revoke."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from flask import current_app, g
from sqlalchemy import ColumnElement, exists, or_, select, true, update
from sqlalchemy.orm import aliased

import auth
import errors
import event_log
import services
from api import Blueprint, headers, page
from cache.access import CacheAccess
from config import DAY
from event_log import EventType
from fields import rfc3339
from models import NO_SYNC, AnyRow, Scope, Token, columns, db, soon, utcnow
from schemas import (
    EmptySchema,
    MintedTokenSchema,
    RevocationSchema,
    TokenInSchema,
    TokenQuerySchema,
    TokenSchema,
)

blueprint = Blueprint("tokens", __name__, url_prefix="/api/v1", description="Mint and revoke")


@blueprint.get("/tokens")
@blueprint.arguments(TokenQuerySchema, location="query")
@blueprint.response(200, TokenSchema(many=True), headers=headers("Link", "X-Total-Count"))
def index(query: dict[str, Any]) -> Any:
    """List the live tokens, their secrets masked."""
    return listed(query)


@blueprint.post("/tokens")
@blueprint.arguments(TokenInSchema, required=False)
@blueprint.response(201, MintedTokenSchema)
@blueprint.refuses(errors.LifeTooLong)
def create(fields: dict[str, Any]) -> Any:
    """Mint a token: the answer is the only one that ever shows its secret."""
    return minted(fields)


@blueprint.get("/token")
@blueprint.response(200, TokenSchema)
def own() -> Any:
    """Show the token that the request comes with, its secret masked; for every scope."""
    tokens = select(*columns(Token, "digest", "key_id")).where(Token.id == g.caller.id)
    return _shown(db.session.execute(tokens).one(), auth.MASKED)


@blueprint.delete("/tokens/all")
@blueprint.arguments(RevocationSchema, location="query")
@blueprint.response(200, EmptySchema)
@blueprint.refuses(errors.LastAdmin)
def revoke_others(query: dict[str, Any]) -> Any:
    """Revoke every token but the caller's."""
    revoke_all_others(force=query["force"])
    return {}


@blueprint.delete("/token/<id:token_id>")
@blueprint.arguments(RevocationSchema, location="query")
@blueprint.response(200, EmptySchema)
@blueprint.refuses(errors.NoSuchToken, errors.LastAdmin)
def revoke(query: dict[str, Any], token_id: int) -> Any:
    """Revoke one token."""
    revoke_one(token_id, force=query["force"])
    return {}


# --- What these routes do, and the dashboard's, too ---


def listed(query: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return one page of the live tokens, their secrets masked, and its headers."""
    tokens = select(*columns(Token, "digest", "key_id"))
    rows, headers = page(tokens, query, *_live(), key=Token.id)
    return [_shown(row, auth.MASKED) for row in rows], headers


def find(token_id: int) -> dict[str, Any]:
    """Return a live token, its secret masked. Raises NoSuchToken."""
    tokens = select(*columns(Token, "digest", "key_id")).where(Token.id == token_id, *_live())
    row = db.session.execute(tokens).one_or_none()
    if row is None:
        raise errors.NoSuchToken(token_id=token_id)
    return _shown(row, auth.MASKED)


def minted(fields: dict[str, Any]) -> dict[str, Any]:
    """Mint a token by the fields of TokenInSchema, and return it with its secret.

    Raises LifeTooLong, and InvalidInput for a first token that is no admin's.
    """
    is_first = g.caller is None
    scope = fields["scope"] or (Scope.ADMIN if is_first else g.caller.scope)
    if is_first and scope != Scope.ADMIN:
        raise errors.InvalidInput(errors={"scope": ["The first token is an admin's."]})

    expires_at = _expiry(fields["expires_in"])
    return _shown(*auth.mint(fields["name"], scope, expires_at, is_first=is_first))


def revoke_one(token_id: int, *, force: bool) -> None:
    """Revoke a token. Raises NoSuchToken and, without `force`, LastAdmin."""
    if not _revoke(lambda token: token.id == token_id, force=force):
        raise errors.NoSuchToken(token_id=token_id)


def revoke_all_others(*, force: bool) -> int:
    """Revoke every token but the caller's; return how many. Raises LastAdmin without `force`."""
    return _revoke(lambda token: token.id != g.caller.id, force=force)


def _expiry(seconds: int | None) -> datetime:
    """Return when a new token expires: not after the caller's. Raises LifeTooLong."""
    wanted = soon(seconds or current_app.config["TOKEN_DAYS"] * DAY)
    if g.caller is None or wanted <= g.caller.expires_at:
        return wanted
    if seconds:
        raise errors.LifeTooLong(bound=rfc3339(g.caller.expires_at))
    expires_at: datetime = g.caller.expires_at
    return expires_at


def _live(token: Any = Token) -> tuple[ColumnElement[bool], ...]:
    return token.revoked_at.is_(None), token.expires_at > utcnow()


def _revoke(which: Callable[[Any], ColumnElement[bool]], *, force: bool) -> int:
    """Revoke the live tokens that `which` selects; return how many they were.

    Without `force`, raise LastAdmin where no live token of scope admin would be left.
    """
    other = aliased(Token)
    is_left = exists().where(~which(other), other.scope == Scope.ADMIN, *_live(other))
    allowed = true() if force else or_(Token.scope != Scope.ADMIN, is_left)

    # Under PostgreSQL one of two requests that revoke each other's tokens waits here for the other,
    # and its UPDATE then sees what that one has done.
    admins = select(Token.id).where(Token.scope == Scope.ADMIN, *_live()).order_by(Token.id)
    db.session.execute(admins.with_for_update())
    revoking = update(Token).where(which(Token), *_live(), allowed).values(revoked_at=utcnow())
    told = Token.id, Token.name, Token.scope
    revoked = db.session.execute(revoking.returning(*told), execution_options=NO_SYNC).all()
    if not force and db.session.scalar(select(exists().where(which(Token), *_live()))):
        db.session.rollback()
        raise errors.LastAdmin
    for token in sorted(revoked):
        about = event_log.subject("token", token.id, token.name)
        event_log.add(EventType.TOKEN_REVOKED, about, {"scope": token.scope.value})
    services.get(CacheAccess).dismiss([row.id for row in revoked])
    db.session.commit()
    return len(revoked)


def _shown(row: AnyRow, secret: str) -> dict[str, Any]:
    is_current = g.caller is not None and g.caller.id == row.id
    return row._asdict() | {"token": secret, "current": is_current}
