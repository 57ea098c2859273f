"""The commands of servers: login, logout, whoami, server list, use and forget, and status."""

import os
import sys
from contextlib import suppress
from urllib.parse import urlsplit

import click

from pkgctl import completion
from pkgctl.client import Client
from pkgctl.config import (
    DEFAULT_URL,
    ServerLogin,
    ServersFile,
    clean_token,
    clean_url,
    servers_path,
)
from pkgctl.errors import CommandError, ExitCode
from pkgctl.options import CommandContext, common_options
from pkgctl.tables import Column, Columns, text_column, time_column
from pkgctl.waiting import LIVE_STATUSES

MAX_TOKEN_LENGTH = 4096

SERVER_COLUMNS: Columns = {
    "NAME": text_column(lambda server: server["name"]),
    "URL": text_column(lambda server: server["url"]),
    "DEFAULT": Column(lambda server: "yes" if server["default"] else "no"),
}
STATUS_COLUMNS: Columns = {
    "SERVER": Column(lambda status: status["url"]),
    "VERSION": Column(lambda status: f"{status['version']} ({status['build']})"),
    "PROFILE": Column(lambda status: status.get("profile")),
    "DATABASE": Column(lambda status: status["checks"].get("database")),
    "NIX": Column(lambda status: status["checks"].get("nix")),
    "CATALOGS": Column(lambda status: status["checks"].get("catalogs")),
    "WORKERS": Column(lambda status: status["checks"].get("workers")),
    "QUEUED": Column(lambda status: status["tasks"]["queued"]),
    "RUNNING": Column(lambda status: status["tasks"]["running"]),
}
IDENTITY_COLUMNS: Columns = {
    "SERVER": Column(lambda identity: identity["url"]),
    "LOGIN": Column(lambda identity: identity["server"]),
    "TOKEN": Column(lambda identity: identity["token"]["id"]),
    "NAME": Column(lambda identity: identity["token"]["name"]),
    "SCOPE": Column(lambda identity: identity["token"]["scope"]),
    "EXPIRES": time_column(lambda identity: identity["token"]["expires_at"]),
}


@click.command()
@common_options
@click.argument("address", metavar="[URL]", required=False)
@click.option("--default/--no-default", default=True, help="Whether to use it by default.")
def login(context: CommandContext, address: str | None, *, default: bool) -> None:
    """Keep a server's URL and a token.

    They are kept under the name that --server gives, else the host's. What isn't given is asked
    for; where there is no terminal, the token is read from the standard input. An empty token
    asks a new development server for its first one.

    \b
    Examples:
      pkgctl login
      pkgctl login https://pkgd.example.org --server prod
    """
    url = clean_url(address or context.url or os.environ.get("PKGCTL_URL") or _ask_url())
    given = context.token or os.environ.get("PKGCTL_TOKEN") or _ask_token()
    servers = ServersFile.load()  # before a token is minted that could not be kept
    token = _verified(url, given) if given else _first_token(url)

    name = context.server or urlsplit(url).netloc
    servers.servers[name] = ServerLogin(url, token)
    if default or servers.default is None:
        servers.default = name
    servers.save()

    text = f"Success: Logged in to {url} as server {name}; kept in {servers_path()}"
    context.printer.result({"name": name, "url": url}, text)


def _ask_url() -> str:
    if not sys.stdin.isatty():
        return DEFAULT_URL
    url: str = click.prompt("Server", default=DEFAULT_URL, err=True)
    return url


def _ask_token() -> str:
    if not sys.stdin.isatty():
        try:
            return sys.stdin.readline(MAX_TOKEN_LENGTH).strip()
        except OSError as error:
            message = f"the standard input can't be read: {error.strerror or error}"
            raise CommandError(message, ExitCode.USAGE) from None
    question = "Token (hidden; none for a new server's first one)"
    token: str = click.prompt(question, default="", show_default=False, hide_input=True, err=True)
    return token


def _verified(url: str, token: str) -> str:
    """Return the token once the server has accepted it."""
    with Client(url, clean_token(token)) as client:
        client.get("version")
    return token


def _first_token(url: str) -> str:
    """Mint and return the first token of a new development server."""
    try:
        with Client(url) as client:
            return str(client.post("tokens")["token"])
    except CommandError as error:
        if error.exit_code != ExitCode.NOT_ALLOWED:
            raise
    hint = "an admin's is minted by pkgctl token create, or on its host by flask create-token"
    raise CommandError(f"{url} wants a token", ExitCode.NOT_ALLOWED, hint)


@click.group()
def server() -> None:
    """List, choose and forget servers.

    They are those that pkgctl login has kept.

    \b
    Examples:
      pkgctl server list
      pkgctl server use prod
    """


@server.command("list")
@common_options
def list_servers(context: CommandContext) -> None:
    """List the servers.

    \b
    Example:
      pkgctl server list
    """
    servers = ServersFile.load()
    listed = [
        {"name": name, "url": known.url, "default": name == servers.default}
        for name, known in servers.servers.items()
    ]
    context.printer.table(listed, SERVER_COLUMNS)


@server.command()
@common_options
@click.argument("name", shell_complete=completion.servers)
def use(context: CommandContext, name: str) -> None:
    """Make a server the default.

    \b
    Example:
      pkgctl server use prod
    """
    servers = ServersFile.load()
    url = servers.named(name).url
    servers.default = name
    servers.save()
    text = f"Success: The default is {name}, {url}"
    context.printer.result({"name": name, "url": url}, text)


@server.command()
@common_options
@click.argument("name", shell_complete=completion.servers)
def forget(context: CommandContext, name: str) -> None:
    """Forget a server and its token.

    The token itself stays valid.

    \b
    Example:
      pkgctl server forget prod
    """
    servers = ServersFile.load()
    changed = _forget(servers, name)
    context.printer.result({}, f"Success: Forgot {name}{changed}")


def _forget(servers: ServersFile, name: str) -> str:
    """Forget a server; return what to add where that makes another one the default."""
    before = servers.default
    servers.forget(name)
    servers.save()
    return (
        f"; the default is now {servers.default}" if servers.default not in (before, None) else ""
    )


@click.command()
@common_options
@click.option("--revoke", is_flag=True, help="Revoke the token as well.")
@click.option("--force", is_flag=True, help="Revoke the last one of an admin, too.")
def logout(context: CommandContext, *, revoke: bool, force: bool) -> None:
    """Forget a server and its token.

    It is the default server, or that of --server. The token stays valid until it expires, unless
    it is revoked, which takes one of scope admin.

    \b
    Examples:
      pkgctl logout
      pkgctl logout --server prod --revoke
    """
    servers = ServersFile.load()
    url = clean_url(context.url or servers.default_url)
    name = context.server or servers.name_of(url)
    if name is None:
        raise CommandError(f"there is no login for {url}", ExitCode.NOT_FOUND)
    known = servers.named(name)
    if revoke:
        with Client(known.url, known.token) as client:
            with context.needs_newer_server("tell which token is to be revoked"):
                token = client.get("token")
            with context.hint_at_conflict("--force revokes it all the same"):
                client.delete(f"token/{token['id']}", **{"force": "true"} if force else {})

    rest = "revoked its token" if revoke else "its token stays valid until it expires"
    rest += _forget(servers, name)
    text = f"Success: Logged out of {known.url}, server {name}; {rest}"
    context.printer.result({"name": name, "url": known.url}, text)


@click.command()
@common_options
def whoami(context: CommandContext) -> None:
    """Show which server and token are used.

    \b
    Example:
      pkgctl whoami
    """
    with context.needs_newer_server("tell whose token this is"):
        token = context.client.get("token")
    server = context.server
    with suppress(CommandError):  # of a user without a home: a URL and a token are enough
        server = server or ServersFile.load().name_of(context.client.url)
    identity = {"url": context.client.url, "server": server, "token": token}
    context.printer.record(identity, IDENTITY_COLUMNS)


@click.command()
@common_options
def status(context: CommandContext) -> None:
    """Show the server's health and its queue.

    \b
    Example:
      pkgctl status
    """
    client = context.client
    checks = client.ready()["checks"]
    counts = {state: client.count("tasks", status=state) for state in LIVE_STATUSES}
    document = {"url": client.url, **client.get("version"), "checks": checks, "tasks": counts}
    context.printer.record(document, STATUS_COLUMNS)
