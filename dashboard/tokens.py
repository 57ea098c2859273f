"""The pages of tokens: which there are, minting one, revoking."""

from typing import Any

from flask import Blueprint, Response, g, redirect, request, url_for
from werkzeug.wrappers import Response as WerkzeugResponse

import tokens
from config import DAY
from dashboard import once
from dashboard.forms import read
from dashboard.rendering import Entry, page
from errors import ApiError, LastAdmin
from fields import QueryInteger
from models import Scope, Token, soon
from schemas import RevocationSchema, TokenInSchema, TokenQuerySchema

pages = Blueprint("tokens", __name__)
entry = Entry("Tokens", "dashboard.access.tokens.index")

LIVES = (1, 7, 30, 90, 365)  # days, of which a form offers those that the API takes
ASKED = TokenQuerySchema()
HOW = RevocationSchema()


class TokenFormSchema(TokenInSchema):
    """A token to mint, as a form sends it."""

    expires_in = QueryInteger(  # type: ignore[assignment] # of digits, not a number of JSON
        load_default=None, validate=TokenInSchema().fields["expires_in"].validators
    )


NEW = TokenFormSchema()


@pages.get("/access/tokens")
def index() -> Response:
    """Show the live tokens, and the form for a new one."""
    return _list()


@pages.post("/access/tokens")
def mint() -> Response:
    """Mint a token, and show its secret in this one answer."""
    try:
        fields = read(NEW, once.sent())
        once.check(Token.id)
        return page("token_minted.html", token=tokens.minted(fields))
    except ApiError as error:
        return _list(error)


@pages.get("/access/tokens/<id:token_id>/revoke")
def ask(token_id: int) -> Response:
    """Show which token would be revoked, with the button that does."""
    return page("token_revoke.html", token=tokens.find(token_id), fault=None)


@pages.post("/access/tokens/<id:token_id>/revoke")
def revoke(token_id: int) -> WerkzeugResponse:
    """Revoke a token; of the last admin's, ask once more."""
    force = read(HOW, request.form)["force"]
    try:
        tokens.revoke_one(token_id, force=force)
    except LastAdmin as error:
        token = tokens.find(token_id)
        return page("token_revoke.html", status=error.status, token=token, fault=error)
    return redirect(url_for(".index"), 303)


@pages.get("/access/tokens/revoke-others")
def ask_about_others() -> Response:
    """Ask whether all other tokens shall be revoked."""
    return page("tokens_revoke.html")


@pages.post("/access/tokens/revoke-others")
def revoke_others() -> WerkzeugResponse:
    """Revoke every token but the one that the caller has signed in with."""
    tokens.revoke_all_others(force=False)
    return redirect(url_for(".index"), 303)


def _list(fault: ApiError | None = None) -> Response:
    asked = read(ASKED, request.args)
    rows, headers = tokens.listed(asked)
    more = {"after": rows[-1]["id"]} if "Link" in headers else None
    values: dict[str, Any] = {
        "tokens": rows,
        "total": int(headers["X-Total-Count"]),
        "more": more,
        "scopes": Scope,
        "lives": [days for days in LIVES if soon(days * DAY) <= g.caller.expires_at],
        "newest": once.newest(Token.id),
        "given": request.form,
        "fault": fault,
    }
    return page("tokens.html", status=fault.status if fault else 200, **values)
