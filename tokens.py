"""The routes of tokens: list, mint, revoke."""

from typing import Any

from flask import g
from sqlalchemy import select, update
from sqlalchemy.sql.elements import ColumnElement

import auth
from blueprints import Blueprint, headers
from models import Scope, Token, db, soon, utcnow
from paging import paginate
from problems import Problem
from schemas import EmptySchema, MintedTokenSchema, TokenInSchema, TokenQuerySchema, TokenSchema

blueprint = Blueprint("tokens", __name__, url_prefix="/api/v1", description="Mint and revoke")


@blueprint.get("/tokens")
@blueprint.arguments(TokenQuerySchema, location="query")
@blueprint.response(200, TokenSchema(many=True), headers=headers("Link", "X-Total-Count"))
def index(query: dict[str, Any]) -> Any:
    """List the live tokens, their secrets masked."""
    rows, headers = paginate(
        select(Token.__table__),
        *_live(),
        key=Token.__table__.c.id,
        after=query.get("after"),
        limit=query["limit"],
    )
    return [_shown(row._asdict(), auth.MASKED) for row in rows], headers


@blueprint.post("/tokens")
@blueprint.arguments(TokenInSchema, required=False)
@blueprint.response(201, MintedTokenSchema)
def create(fields: dict[str, Any]) -> Any:
    """Mint a token: the answer is the only one that ever shows its secret."""
    first = g.caller is None
    scope = fields["scope"] or (Scope.ADMIN if first else g.caller.scope)
    if first and scope != Scope.ADMIN:
        raise Problem(422, "the first token", errors={"scope": ["The first token is an admin's."]})

    expires_at = soon(fields["expires_in"]) if fields["expires_in"] else None
    token_id, secret = auth.mint(fields["name"], scope, expires_at, first=first)
    row = db.session.execute(select(Token.__table__).where(Token.id == token_id)).one()
    return _shown(row._asdict(), secret)


@blueprint.delete("/tokens/all")
@blueprint.response(200, EmptySchema)
def revoke_others() -> Any:
    """Revoke every token but the caller's."""
    _revoke(Token.id != g.caller.id)
    return {}


@blueprint.delete("/token/<id:token_id>")
@blueprint.response(200, EmptySchema)
@blueprint.refuses("no-such-token")
def revoke(token_id: int) -> Any:
    """Revoke one token."""
    if not _revoke(Token.id == token_id):
        raise Problem(404, f"there is no live token {token_id}", kind="no-such-token")
    return {}


def _live() -> tuple[ColumnElement[bool], ...]:
    return Token.revoked_at.is_(None), Token.expires_at > utcnow()


def _revoke(which: ColumnElement[bool]) -> int:
    """Revoke the live tokens that `which` selects; return how many."""
    live = update(Token).where(which, *_live()).values(revoked_at=utcnow())
    revoked = db.session.execute(live.returning(Token.id)).all()
    db.session.commit()
    return len(revoked)


def _shown(token: dict[str, Any], secret: str) -> dict[str, Any]:
    current = g.caller is not None and g.caller.id == token["id"]
    return token | {"token": secret, "current": current}
