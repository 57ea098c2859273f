"""The routes of tokens: list, mint, revoke."""

from typing import Any

from flask import g
from sqlalchemy import ColumnElement, select, update

import auth
import errors
from api import Blueprint, headers, page
from models import AnyRow, Scope, Token, columns, db, soon, utcnow
from schemas import EmptySchema, MintedTokenSchema, TokenInSchema, TokenQuerySchema, TokenSchema

blueprint = Blueprint("tokens", __name__, url_prefix="/api/v1", description="Mint and revoke")


@blueprint.get("/tokens")
@blueprint.arguments(TokenQuerySchema, location="query")
@blueprint.response(200, TokenSchema(many=True), headers=headers("Link", "X-Total-Count"))
def index(query: dict[str, Any]) -> Any:
    """List the live tokens, their secrets masked."""
    tokens = select(*columns(Token, "digest"))
    rows, headers = page(tokens, query, *_live(), key=Token.id)
    return [_shown(row, auth.MASKED) for row in rows], headers


@blueprint.post("/tokens")
@blueprint.arguments(TokenInSchema, required=False)
@blueprint.response(201, MintedTokenSchema)
def create(fields: dict[str, Any]) -> Any:
    """Mint a token: the answer is the only one that ever shows its secret."""
    is_first = g.caller is None
    scope = fields["scope"] or (Scope.ADMIN if is_first else g.caller.scope)
    if is_first and scope != Scope.ADMIN:
        raise errors.InvalidInput(errors={"scope": ["The first token is an admin's."]})

    expires_at = soon(fields["expires_in"]) if fields["expires_in"] else None
    return _shown(*auth.mint(fields["name"], scope, expires_at, is_first=is_first))


@blueprint.delete("/tokens/all")
@blueprint.response(200, EmptySchema)
def revoke_others() -> Any:
    """Revoke every token but the caller's."""
    _revoke(Token.id != g.caller.id)
    return {}


@blueprint.delete("/token/<id:token_id>")
@blueprint.response(200, EmptySchema)
@blueprint.refuses(errors.NoSuchToken)
def revoke(token_id: int) -> Any:
    """Revoke one token."""
    if not _revoke(Token.id == token_id):
        raise errors.NoSuchToken(token_id=token_id)
    return {}


def _live() -> tuple[ColumnElement[bool], ...]:
    return Token.revoked_at.is_(None), Token.expires_at > utcnow()


def _revoke(which: ColumnElement[bool]) -> int:
    """Revoke the live tokens that `which` selects; return how many they were."""
    live = update(Token).where(which, *_live()).values(revoked_at=utcnow())
    revoked = db.session.execute(live.returning(Token.id)).all()
    db.session.commit()
    return len(revoked)


def _shown(row: AnyRow, secret: str) -> dict[str, Any]:
    is_current = g.caller is not None and g.caller.id == row.id
    return row._asdict() | {"token": secret, "current": is_current}
