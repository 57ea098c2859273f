"""The commands of getting in: logins, the servers that they are to, how these are, and tokens."""

import os
import sys
from urllib.parse import urlsplit

import click

from pkgctl.client import Client, Exit, Failure
from pkgctl.config import DEFAULT_URL, Server, clean_token, clean_url, load, login_file, save
from pkgctl.options import DurationType, Setup, common
from pkgctl.output import Columns, moment
from pkgctl.tasks import LIVE

TOKENS: Columns = {
    "ID": lambda token: token["id"],
    "NAME": lambda token: token["name"],
    "SCOPE": lambda token: token["scope"],
    "CREATED": lambda token: moment(token["created_at"]),
    "EXPIRES": lambda token: moment(token["expires_at"]),
    "LAST USED": lambda token: moment(token["last_used_at"]),
    "CURRENT": lambda token: "yes" if token["current"] else "no",
}
SERVERS: Columns = {
    "NAME": lambda server: server["name"],
    "URL": lambda server: server["url"],
    "DEFAULT": lambda server: "yes" if server["default"] else "no",
}


STATUS: Columns = {
    "SERVER": lambda status: status["url"],
    "VERSION": lambda status: f"{status['version']} ({status['build']})",
    "DATABASE": lambda status: status["checks"].get("database"),
    "NIX": lambda status: status["checks"].get("nix"),
    "WORKERS": lambda status: status["checks"].get("workers"),
    "QUEUED": lambda status: status["tasks"]["queued"],
    "RUNNING": lambda status: status["tasks"]["running"],
}


@click.command()
@common
@click.argument("address", metavar="[URL]", required=False)
@click.option("--default/--no-default", default=True, help="Whether to use it by default.")
def login(setup: Setup, address: str | None, *, default: bool) -> None:
    """Keep a server's URL and a token for later commands.

    They are kept under the name that --server gives, else the host's. What isn't given is asked
    for; where there is no terminal, the token is read from the standard input. An empty token
    asks a new development server for its first one.

    \b
    Examples:
      pkgctl login
      pkgctl login https://pkgd.example.org --server prod < token-file
    """
    url = clean_url(address or setup.url or os.environ.get("PKGCTL_URL") or _ask_url())
    given = setup.token or os.environ.get("PKGCTL_TOKEN") or _ask_token()
    token = _checked(url, given) if given else _first_token(url)

    name = setup.server or urlsplit(url).netloc
    logins = load()
    logins.servers[name] = Server(url, token)
    if default or logins.default is None:
        logins.default = name
    save(logins)
    said = f"Success: Logged in to {url} as server {name}; kept in {login_file()}"
    setup.screen.answer({"name": name, "url": url}, said)


def _ask_url() -> str:
    if not sys.stdin.isatty():
        return DEFAULT_URL
    url: str = click.prompt("Server", default=DEFAULT_URL, err=True)
    return url


def _ask_token() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().strip()
    question = "Token (hidden; none for a new server's first one)"
    token: str = click.prompt(question, default="", show_default=False, hide_input=True, err=True)
    return token


def _checked(url: str, token: str) -> str:
    """Return the token once the server has taken it."""
    with Client(url, clean_token(token)) as client:
        client.get("version")
    return token


def _first_token(url: str) -> str:
    """Have a new development server mint its first token, and return it."""
    try:
        with Client(url) as client:
            return str(client.post("tokens")["token"])
    except Failure as error:
        if error.exit_code != Exit.NOT_ALLOWED:
            raise
        hint = "an admin's is minted by pkgctl token create, or on its host by flask create-token"
        raise Failure(f"{url} wants a token", Exit.NOT_ALLOWED, hint) from None


@click.group()
def server() -> None:
    """The servers that were logged in to.

    \b
    Examples:
      pkgctl server list
      pkgctl server use prod
    """


@server.command("list")
@common
def list_servers(setup: Setup) -> None:
    """List them.

    \b
    Example:
      pkgctl server list
    """
    logins = load()
    setup.screen.rows(
        [
            {"name": name, "url": known.url, "default": name == logins.default}
            for name, known in logins.servers.items()
        ],
        SERVERS,
    )


@server.command()
@common
@click.argument("name")
def use(setup: Setup, name: str) -> None:
    """Make one the default.

    \b
    Example:
      pkgctl server use prod
    """
    logins = load()
    url = logins.named(name).url
    logins.default = name
    save(logins)
    setup.screen.answer({"name": name, "url": url}, f"Success: The default is {name}, {url}")


@server.command()
@common
@click.argument("name")
def forget(setup: Setup, name: str) -> None:
    """Drop one and its token, which stays good until it is revoked.

    \b
    Example:
      pkgctl server forget prod
    """
    logins = load()
    logins.forget(name)
    save(logins)
    setup.screen.answer({}, f"Success: Forgot {name}")


@click.command()
@common
def status(setup: Setup) -> None:
    """Tell how the server is, and how much it has to do.

    \b
    Example:
      pkgctl status
    """
    client = setup.client
    checks = client.ready()["checks"]
    counts = {state: client.count("tasks", status=state) for state in LIVE}
    document = {"url": client.url, **client.get("version"), "checks": checks, "tasks": counts}
    setup.screen.fields(document, STATUS)


@click.group()
def token() -> None:
    """Tokens: mint, list, revoke.

    \b
    Examples:
      pkgctl token create --name robot --scope operate --expires-in 30d
      pkgctl token revoke 2
    """


@token.command()
@common
@click.option("--name", help="What it is for.")
@click.option("--scope", type=click.Choice(["read", "operate", "admin"]), help="What it may do.")
@click.option("--expires-in", type=DurationType(), help="How long it lives, such as 12h or 30d.")
def create(setup: Setup, name: str | None, scope: str | None, expires_in: float | None) -> None:
    """Mint a token and print it: this once, it is kept nowhere.

    \b
    Examples:
      pkgctl token create
      pkgctl token create --name robot --scope operate --expires-in 30d
      API_KEY=$(pkgctl token create --scope read)
    """
    seconds = None if expires_in is None else int(expires_in)
    given = {"name": name, "scope": scope, "expires_in": seconds}
    minted = setup.client.post(
        "tokens", {field: value for field, value in given.items() if value is not None}
    )
    setup.screen.answer(minted, minted["token"])
    if setup.screen.is_terminal:
        click.echo(
            f"Token {minted['id']}, {minted['scope']}, until {minted['expires_at']}; "
            "it isn't shown again.",
            err=True,
        )


@token.command("list")
@common
def list_tokens(setup: Setup) -> None:
    """List the live tokens, without their secrets.

    \b
    Example:
      pkgctl token list
    """
    setup.screen.rows(setup.client.each("tokens"), TOKENS)


@token.command()
@common
@click.argument("token_id", metavar="ID", type=click.IntRange(min=0))
def revoke(setup: Setup, token_id: int) -> None:
    """Revoke a token, from the next request on.

    \b
    Example:
      pkgctl token revoke 2
    """
    setup.screen.answer(
        setup.client.delete(f"token/{token_id}"), f"Success: Revoked token {token_id}"
    )


@token.command("revoke-others")
@common
def revoke_others(setup: Setup) -> None:
    """Revoke every token but the one in use.

    \b
    Example:
      pkgctl token revoke-others
    """
    setup.screen.answer(
        setup.client.delete("tokens/all"), "Success: Revoked every token but this one"
    )


COMMANDS = (login, server, status, token)
