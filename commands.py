"""The `flask` commands of an operator on the host."""

import importlib
import re
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import click
from flask import Flask, current_app
from flask.cli import with_appcontext
from marshmallow import ValidationError
from sqlalchemy import MetaData, text

import auth
import data_folder
import health
import maintenance
import nix
import pins
import services
from catalog_state import Catalogs
from config import DAY, HERE
from models import DATABASE_AWAY, Scope, cause, db, soon
from schemas import TokenInSchema
from worker import Pool

MIGRATIONS = HERE / "migrations"
VIRTUAL_TABLES = (
    "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%'"
)
LIFE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd]?)", re.ASCII)
TOLD = (
    maintenance.TooMuchLost,
    data_folder.NotYours,
    pins.PinError,
    nix.NixError,
    OSError,
    *DATABASE_AWAY,
)
UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": DAY}


def init_app(app: Flask) -> None:
    """Add the commands to `app`."""
    for command in (init_db, adopt, create_token, run_worker, reconcile, gc, prune, backup):
        app.cli.add_command(command)


def in_one_line(function: Callable[..., None]) -> Callable[..., None]:
    """Have what goes wrong with Nix, the database or a file end a command in one line."""

    @wraps(function)
    def telling(*args: object, **kwargs: object) -> None:
        try:
            function(*args, **kwargs)
        except TOLD as error:
            raise _refusal(cause(error)) from None

    return telling


def _refusal(reason: object) -> click.ClickException:
    return click.ClickException(" ".join(nix.plain(str(reason)).split()))


def state_command(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Return a decorator for commands that read or write the service's state.

    They are refused where the data folder belongs to another store or database, and where the
    database can't be used.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        @wraps(function)
        @in_one_line
        def checked(*args: object, **kwargs: object) -> None:
            data_folder.claim(record=False)
            state = health.database_state()
            if state != "ok":
                raise _refusal(state)
            data_folder.claim()
            function(*args, **kwargs)

        return click.command(name)(with_appcontext(checked))

    return decorate


@click.command("init-db")
@click.option("--drop", is_flag=True, help="Delete everything and start afresh.")
@click.option("--yes", is_flag=True, help="Don't ask before deleting.")
@with_appcontext
@in_one_line
def init_db(drop: bool, yes: bool) -> None:
    """Create the database, or bring its schema up to date; safe to repeat."""
    data_folder.claim(record=False)  # the settings may be wrong: then there is no such database
    if drop:
        where = db.engine.url.render_as_string()
        if not yes:
            click.confirm(f"Delete every package, task and token in {where}?", abort=True)
        drop_all()
    if db.engine.dialect.name == "sqlite":
        # It holds the digests of tokens, which others need not read.
        Path((db.engine.url.database or "").removeprefix("file:")).touch(mode=0o600)
    _upgrade()
    data_folder.claim()
    click.echo(f"The database is ready: {db.engine.url.render_as_string()}")


@click.command("adopt")
@click.option("--machine-store", is_flag=True, help="Leave the private store that it belongs to.")
@click.option("--yes", is_flag=True, help="Don't ask before it.")
@with_appcontext
@in_one_line
def adopt(machine_store: bool, yes: bool) -> None:
    """Make DATA_DIR belong to the store and the database that the settings name."""
    folder = current_app.config["DATA_DIR"]
    wanted = data_folder.configured()
    if machine_store:
        wanted = replace(wanted, store=str(data_folder.MACHINE_STORE), store_dir="")
    if not yes:
        click.confirm(
            f"DATA_DIR {folder} {_owner(folder)}. Make it belong to {wanted}?", abort=True
        )
    data_folder.adopt(wanted)
    click.echo(f"DATA_DIR {folder} belongs to {wanted}")


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
@click.option("--scope", type=click.Choice([one.value for one in Scope]), default="admin")
@click.option(
    "--expires-in",
    metavar="TIME",
    callback=check_life,
    help="How long it lives, such as 12h or 30d.  [default: TOKEN_DAYS]",
)
def create_token(name: str | None, scope: str, expires_in: int | None) -> None:
    """Mint a token and print its secret, which is shown this once."""
    life = expires_in or current_app.config["TOKEN_DAYS"] * DAY
    _, secret = auth.mint(name, Scope(scope), soon(life))
    click.echo(secret)


@click.command("run-worker")
@with_appcontext
@in_one_line
def run_worker() -> None:
    """Run the worker pool in a process of its own, until SIGTERM or SIGINT."""
    pool = services.get(Pool)
    if pool.size == 0:
        raise click.ClickException("WORKER_THREADS is 0: there would be nothing to run")
    health.check_start(current_app)

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ended.set())
    pool.start()
    services.get(Catalogs).look()
    click.echo(f"{pool.size} workers run")
    ended.wait()
    pool.stop()


@state_command("reconcile")
@click.option("--force", is_flag=True, help="Even if most packages are no longer downloaded then.")
def reconcile(force: bool) -> None:
    """Make the database say what is true of the profile and the store."""
    for sentence in maintenance.reconcile(force=force) or ["all as it should be"]:
        click.echo(nix.plain(sentence))


@state_command("gc")
@click.option("--dry-run", is_flag=True, help="Only tell what would be removed and freed.")
@click.option("--force", is_flag=True, help="Even if most packages are no longer downloaded then.")
def gc(dry_run: bool, force: bool) -> None:
    """Remove roots and generations that no package needs, and run Nix's garbage collector."""
    done = maintenance.collect_garbage(dry_run=dry_run, force=force)
    would = "would be " if dry_run else ""
    numbers = ", ".join(done.generations) or "none"
    click.echo(f"generations {would}removed: {numbers}")
    click.echo(f"roots {would}removed: {len(done.roots)}")
    click.echo(f"bytes {would}freed: {done.freed_bytes}")


@state_command("prune")
@click.option("--dry-run", is_flag=True, help="Only tell how many tasks would go.")
def prune(dry_run: bool) -> None:
    """Delete tasks that ended more than TASK_DAYS ago; the pool does so, too, each hour."""
    days = current_app.config["TASK_DAYS"]
    if dry_run:
        click.echo(f"{maintenance.prunable(days)} tasks would be pruned")
    else:
        click.echo(f"{maintenance.prune(days)} tasks pruned")


@state_command("backup")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def backup(file: Path) -> None:
    """Copy the SQLite database, consistently and while the service runs, to a new FILE."""
    if db.engine.dialect.name != "sqlite":
        raise click.ClickException("this database is PostgreSQL: use pg_dump DATABASE_URL > FILE")
    if nix.plain(str(file)) != str(file):
        raise click.ClickException("FILE has a path with bytes that are no text")
    if file.exists():
        raise click.ClickException(f"{file} is there already: name a new file")
    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)
    with db.engine.connect() as connection:
        connection.exec_driver_sql("VACUUM INTO ?", (str(unfinished),))
    unfinished.rename(file)
    click.echo(f"{file}: {file.stat().st_size} bytes")


def _owner(folder: Path) -> str:
    """Say to what a data folder belongs now."""
    try:
        owner = data_folder.recorded(folder)
    except data_folder.NotYours as error:
        return f"has lost its record: {error}"
    return f"belongs to {owner}" if owner else "belongs to nothing yet"


def _upgrade() -> None:
    # Imported here, since serving never needs Alembic, whose import is a fifth of the start.
    flask_migrate = importlib.import_module("flask_migrate")
    flask_migrate.Migrate(current_app, db, directory=str(MIGRATIONS), render_as_batch=True)
    flask_migrate.upgrade()


def drop_all() -> None:
    """Drop all tables, also those that no model of this version describes."""
    found = MetaData()
    with db.engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            # A virtual table takes its shadow tables along, which can't be dropped one by one.
            for name in connection.scalars(text(VIRTUAL_TABLES)).all():
                connection.exec_driver_sql(f"DROP TABLE {name}")
        found.reflect(connection)
        found.drop_all(connection)
