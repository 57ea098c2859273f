"""The `flask catalog` commands: the catalogs that the host adds."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from flask import current_app

import nix
import services
from catalogs import indexes as catalog_indexes
from catalogs import pins
from catalogs import routes as catalogs
from catalogs.pins import Content, Source
from catalogs.state import Catalogs
from commands.guard import check_writable, state_command
from fields import rfc3339

MEGABYTE = 10**6


@click.group("catalog")
def catalog() -> None:
    """Manage the catalogs beside those of CATALOGS."""


def command(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Return a decorator for commands of the group."""

    def decorate(function: Callable[..., None]) -> click.Command:
        made = state_command(name)(function)
        catalog.add_command(made)
        return made

    return decorate


def check_url(_context: object, _argument: object, url: str) -> str:
    """Return the URL of a tarball."""
    try:
        nix.check_url(url)
    except ValueError as error:
        raise click.BadParameter(f"{url!r}: {error}") from None
    return url


def check_hash(_context: object, _option: object, sha256: str) -> str:
    """Return a hash in Nix's base 32."""
    try:
        return nix.base32(sha256) if sha256 else ""
    except ValueError as error:
        raise click.BadParameter(f"{sha256!r} is {error}") from None


of_url = click.argument("url", callback=check_url)
of_hash = click.option(
    "--sha256",
    default="",
    callback=check_hash,
    help="The hash that the unpacked tarball must have.",
)


@command("add")
@click.argument("name")
@of_url
@of_hash
@click.option("--first", is_flag=True, help="Before all other catalogs, in place of after them.")
@click.option("--after", metavar="NAME", help="After this catalog, in place of after all.")
def add(name: str, url: str, sha256: str, first: bool, after: str | None) -> None:
    """Fetch a tarball, and make it the catalog NAME.

    Its URL is one of https, http or file. A catalog is code that the service evaluates: add only
    those whose authors you trust.
    """
    if first and after is not None:
        raise click.UsageError("--first and --after exclude each other")
    check_writable()
    began = time.monotonic()
    with _progress() as show:
        content = pins.add(name, Source(url, sha256, show), is_first=first, after=after)
    _report(name, content, began)


@command("update")
@click.argument("name")
@of_url
@of_hash
def update(name: str, url: str, sha256: str) -> None:
    """Fetch another tarball for the catalog NAME.

    It keeps its place among the catalogs.
    """
    check_writable()
    began = time.monotonic()
    with _progress() as show:
        content = pins.change(name, Source(url, sha256, show))
    _report(name, content, began)


@command("remove")
@click.argument("name")
@click.option("--force", is_flag=True, help="Even if an activated package came from it.")
def remove(name: str, force: bool) -> None:
    """Remove the catalog NAME.

    What was downloaded from it stays.
    """
    check_writable()
    pins.remove(name, force=force)
    click.echo(f"{name} removed; flask gc frees its space")


@command("list")
def list_() -> None:
    """List all catalogs in the order in which they are asked."""
    for one in catalogs.in_order():
        dated = rfc3339(one["dated_at"]) if one["dated_at"] else None
        hash_ = one["sha256"] and f"sha256:{one['sha256']}"
        source = one["source"] if one["added_at"] else "in CATALOGS"
        click.echo("  ".join(filter(None, (one["name"], source, one["revision"], dated, hash_))))


@command("index")
@click.argument("name", required=False)
def index(name: str | None) -> None:
    """Queue the indexing of the catalog NAME, or of all.

    Those that were indexed before are indexed again.
    """
    check_writable()
    for state in _states(name):
        is_queued = catalog_indexes.schedule_again(state)
        told = "will be indexed" if is_queued else "is being indexed, or will be"
        click.echo(f"{state.catalog.name} {told}")


@command("verify")
@click.argument("name", required=False)
def verify(name: str | None) -> None:
    """Queue the verification of what the catalog NAME offers, or of all.

    One that was cancelled or failed goes on where it was.
    """
    check_writable()
    wanted = _states(name)
    indexes = catalog_indexes.current(wanted)
    for state in wanted:
        index_id = indexes.get(state.catalog.name)
        told = "is not indexed yet"
        if index_id is not None:
            is_queued = catalog_indexes.verify_again(index_id)
            told = "will be verified" if is_queued else "is being verified, or will be"
        click.echo(f"{state.catalog.name} {told}")


def _states(name: str | None) -> list[catalog_indexes.State]:
    """Return the state of the catalog of that name, or of all."""
    if not current_app.config["INDEX_BYTES"]:
        raise click.ClickException("INDEX_BYTES is 0: no catalog is indexed")
    states = services.get(Catalogs).states()
    wanted = [state for state in states if name in (None, state.catalog.name)]
    if not wanted:
        raise click.ClickException(f"there is no catalog {name}")
    return wanted


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Provide a function that shows the progress of a download on a terminal."""
    if not sys.stderr.isatty():
        yield lambda _done, _expected: None
        return

    def show(done: int, expected: int) -> None:
        of_all = f" of {expected / MEGABYTE:.1f}" if expected else ""
        is_whole = expected and done >= expected
        then = ", unpacking …" if is_whole else ""
        click.echo(f"\r\x1b[K{done / MEGABYTE:.1f}{of_all} MB{then}", nl=False, err=True)

    try:
        yield show
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)  # also before an error


def _report(name: str, content: Content, began: float) -> None:
    tarball = content.tarball
    if content.warning:
        click.echo(f"warning: {content.warning}", err=True)
    click.echo(f"{name}: {tarball.store_path}")
    click.echo(f"revision: {tarball.revision or 'unknown'}")
    click.echo(f"date: {rfc3339(tarball.dated_at) if tarball.dated_at else 'unknown'}")
    click.echo(f"sha256: {tarball.sha256}")
    click.echo(f"attributes: {'unknown' if content.attributes is None else content.attributes}")
    click.echo(f"seconds: {time.monotonic() - began:.1f}")
