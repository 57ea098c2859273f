"""The command that mints a token: create-token."""

import re
from typing import Any

import click
from flask import current_app
from marshmallow import ValidationError

import auth
import config
from commands.guard import check_writable, state_command
from models import Scope, soon
from schemas import TokenInSchema

LIFE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd]?)", re.ASCII)
UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": config.DAY}


def checked(field: str, value: object) -> Any:
    """Return the value of a token's field; raise BadParameter for one that the API refuses, too."""
    try:
        return TokenInSchema(only=[field]).load({field: value})[field]
    except ValidationError as error:
        raise click.BadParameter(" ".join(error.messages_dict[field])) from None


def check_name(_context: object, _option: object, name: str | None) -> str | None:
    """Return the name of a token."""
    return checked("name", name)  # type: ignore[no-any-return]


def check_life(_context: object, _option: object, life: str | None) -> int | None:
    """Return the life of a token in seconds."""
    if life is None:
        return None
    match = LIFE.fullmatch(life)
    if match is None:
        raise click.BadParameter(f"{life!r} isn't a time, such as 90, 15m, 12h or 30d")
    return checked("expires_in", int(float(match[1]) * UNIT_SECONDS[match[2]]))  # type: ignore[no-any-return]


@state_command("create-token")
@click.option("--name", callback=check_name, help="What the token is for.")
@click.option(
    "--scope",
    type=click.Choice([one.value for one in Scope]),
    default="admin",
    show_default=True,
    help="What it may do.",
)
@click.option(
    "--expires-in",
    metavar="TIME",
    callback=check_life,
    help="How long it lives, such as 12h or 30d.  [default: TOKEN_DAYS]",
)
def create_token(name: str | None, scope: str, expires_in: int | None) -> None:
    """Mint a token and print it; it is shown this once."""
    check_writable()
    life = expires_in or current_app.config["TOKEN_DAYS"] * config.DAY
    _, secret = auth.mint(name, Scope(scope), soon(life))
    click.echo(secret)
