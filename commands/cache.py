"""The commands of the binary cache: cache-key, publish."""

import sys
import time

import click
from flask import current_app
from flask.cli import with_appcontext

import nix
import services
from cache import publishing
from commands.guard import check_writable, in_one_line, state_command
from nix.cache import KEY_NAME


@click.command("cache-key")
@click.option("--name", default="pkgd-1", show_default=True, help="What clients see of the key.")
@with_appcontext
@in_one_line
def cache_key(name: str) -> None:
    """Make the key that signs what is published.

    It is written to the new file CACHE_KEY_FILE; the public key is printed, for clients.
    """
    file = current_app.config["CACHE_KEY_FILE"]
    if file is None:
        raise click.ClickException("CACHE_KEY_FILE is not set: it says where the key is to be")
    if not KEY_NAME.fullmatch(name):
        raise click.BadParameter("letters, digits and . _ + - make a name", param_hint="--name")
    try:
        click.echo(nix.make_key(services.get(nix.Store), name, file))
    except FileExistsError:
        how = "move it away to replace it: clients that trust it then need the new one"
        raise click.ClickException(f"{file} is there already; {how}") from None


@state_command("publish")
@click.option("--all", is_flag=True, required=True, expose_value=False, help="All there is.")
def publish() -> None:
    """Publish everything downloaded, and what all profiles are.

    What the cache has already is not copied again.
    """
    check_writable()
    if not current_app.config["CACHE"]:
        raise click.ClickException("CACHE is not set: there is nowhere to publish")
    began = time.monotonic()
    copied = publishing.publish_all(_show)
    seconds = time.monotonic() - began
    click.echo(f"published {copied.paths} paths, {copied.size} bytes, in {seconds:.1f} s")


def _show(done: int, of_all: int) -> None:
    """Show progress on a terminal."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{done} of {of_all} published …\r", nl=False, err=True)
