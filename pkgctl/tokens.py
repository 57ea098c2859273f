"""The commands of tokens: token create, list, revoke, revoke-others."""

import sys
from http import HTTPStatus

import click

from pkgctl import completion
from pkgctl.arguments import DurationType, NumberType
from pkgctl.errors import CommandError, printable
from pkgctl.options import CommandContext, common_options
from pkgctl.tables import Column, Columns, text_column, time_column

TOKEN_COLUMNS: Columns = {
    "ID": Column(lambda token: token["id"]),
    "NAME": text_column(lambda token: token["name"]),
    "SCOPE": Column(lambda token: token["scope"]),
    "CREATED": time_column(lambda token: token["created_at"], rank=1),
    "EXPIRES": time_column(lambda token: token["expires_at"]),
    "LAST USED": time_column(lambda token: token["last_used_at"]),
    "CURRENT": Column(lambda token: "yes" if token["current"] else "no"),
}


@click.group()
def token() -> None:
    """Mint, list and revoke tokens.

    \b
    Examples:
      pkgctl token create --scope operate --expires-in 30d
      pkgctl token revoke 2
    """


@token.command()
@common_options
@click.option("--name", help="What it is for.")
@click.option(
    "--scope", type=click.Choice(["sync", "read", "operate", "admin"]), help="What it may do."
)
@click.option("--expires-in", type=DurationType(), help="How long it lives, such as 12h or 30d.")
def create(
    context: CommandContext, name: str | None, scope: str | None, expires_in: float | None
) -> None:
    """Mint a token and print it.

    It can't be shown again.

    \b
    Examples:
      pkgctl token create
      pkgctl token create --scope operate --expires-in 30d
      pkgctl token create --scope sync --name web
      API_KEY=$(pkgctl token create --scope read)
    """
    seconds = None if expires_in is None else int(expires_in)
    options = {"name": name, "scope": scope, "expires_in": seconds}
    given = {field: value for field, value in options.items() if value is not None}

    minted = context.client.post("tokens", given)
    context.printer.result(minted, minted["token"])
    if context.printer.is_terminal:
        facts = f"Token {minted['id']}, {minted['scope']}, until {minted['expires_at']}"
        click.echo(printable(f"{facts}; it isn't shown again."), err=True)


@token.command("list")
@common_options
def list_tokens(context: CommandContext) -> None:
    """List the live tokens.

    \b
    Example:
      pkgctl token list
    """
    context.printer.table(context.client.list_all("tokens"), TOKEN_COLUMNS)


@token.command()
@common_options
@click.argument(
    "token_id",
    metavar="ID",
    type=NumberType("pkgctl token list lists them"),
    shell_complete=completion.tokens,
)
@click.option(
    "--force", "--yes", "force", is_flag=True, help="Revoke the last one of an admin, too."
)
def revoke(context: CommandContext, token_id: int, *, force: bool) -> None:
    """Revoke a token.

    \b
    Examples:
      pkgctl token revoke 2
      pkgctl token revoke 1 --force
    """
    path, forced = f"token/{token_id}", {"force": "true"}
    try:
        answer = context.client.delete(path, **(forced if force else {}))
    except CommandError as error:
        if error.status != HTTPStatus.CONFLICT:
            raise
        _confirm(error)
        answer = context.client.delete(path, **forced)
    own = "" if _is_accepted(context) else ", which was this one (pkgctl login keeps another)"
    context.printer.result(answer, f"Success: Revoked token {token_id}{own}")


def _is_accepted(context: CommandContext) -> bool:
    """Tell whether the server still takes the token of this command."""
    try:
        context.client.get("token")
    except CommandError as error:
        return error.status != HTTPStatus.UNAUTHORIZED
    return True


def _confirm(refusal: CommandError) -> None:
    """Ask whether to revoke the last token of an admin; raise the refusal unless it is to be."""
    if not sys.stdin.isatty():
        hint = "--force revokes it all the same"
        raise CommandError(refusal.reason, refusal.exit_code, hint, refusal.status)
    if not click.confirm(f"{refusal.reason}. Revoke it all the same?", err=True):
        raise refusal


@token.command("revoke-others")
@common_options
def revoke_others(context: CommandContext) -> None:
    """Revoke all tokens but this one.

    \b
    Example:
      pkgctl token revoke-others
    """
    answer = context.client.delete("tokens/all")
    context.printer.result(answer, "Success: Revoked every token but this one")
