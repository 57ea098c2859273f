"""The commands of the database and the data folder: init-db, adopt, backup, copy-db."""

from dataclasses import replace
from pathlib import Path

import click
from flask import current_app
from flask.cli import with_appcontext
from sqlalchemy import make_url

import config
import data_folder
import database
import nix
import read_only
from commands import database_copy
from commands.guard import check_writable, in_one_line, refusal, state_command
from models import db

SAY_ROWS = 100_000


@click.command("init-db")
@click.option("--drop", is_flag=True, help="Delete everything and start afresh.")
@click.option("--yes", is_flag=True, help="Don't ask before deleting.")
@with_appcontext
@in_one_line
def init_db(drop: bool, yes: bool) -> None:
    """Create the database, or bring its schema up to date.

    It is safe to repeat.
    """
    data_folder.claim(record=False)  # the settings may be wrong: then there is no such database
    where = db.engine.url.render_as_string()
    if read_only.is_set() and database.state() == "ok":
        click.echo(f"The database is ready: {where}")
        return
    check_writable()
    if drop:
        if not yes:
            click.confirm(f"Delete every package, task and token in {where}?", abort=True)
        database.drop_all(db.engine)
    if file := database.sqlite_file(db.engine.url):
        file.touch(mode=0o600)  # it holds the digests of tokens, which others need not read
    state = database.state()
    if database.NEWER in state:
        raise refusal(state, lasts=True)
    database.upgrade(db.engine)
    data_folder.claim()
    click.echo(f"The database is ready: {where}")


@click.command("adopt")
@click.option("--machine-store", is_flag=True, help="Leave the private store that it belongs to.")
@click.option("--yes", is_flag=True, help="Don't ask before it.")
@with_appcontext
@in_one_line
def adopt(machine_store: bool, yes: bool) -> None:
    """Make DATA_DIR belong to what the settings name.

    That is the store and the database.
    """
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


def check_database_url(_context: object, _argument: object, url: str) -> str:
    """Return the URL of a database as SQLAlchemy takes it."""
    try:
        return config.database_url({"DATABASE_URL": url or "nothing"})
    except config.ConfigError as error:
        raise click.BadParameter(str(error).replace("DATABASE_URL", "it", 1)) from None


@state_command("backup")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def backup(file: Path) -> None:
    """Copy the SQLite database to a new FILE.

    The copy is consistent, also while the service runs.
    """
    if db.engine.dialect.name != "sqlite":
        raise click.ClickException("this database is PostgreSQL: use pg_dump DATABASE_URL > FILE")
    if nix.plain(str(file)) != str(file):
        raise click.ClickException("FILE has a path with bytes that are no text")
    if file.exists():
        raise click.ClickException(f"{file} is there already: name a new file")
    _copy_sqlite(file)
    click.echo(f"{file}: {file.stat().st_size} bytes")
    try:
        database.backup_note().write_text(str(file.absolute()))
    except OSError as error:
        click.echo(f"the backup is made, but flask doctor can't know of it: {error}", err=True)


def _copy_sqlite(file: Path) -> None:
    """Copy the database to a new file; a copy that fails, as on a full disk, leaves none."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)
    try:
        with db.engine.connect() as connection:
            connection.exec_driver_sql(
                "PRAGMA query_only = OFF"
            )  # SQLite takes VACUUM INTO for a write
            connection.exec_driver_sql("VACUUM INTO ?", (str(unfinished),))
        unfinished.rename(file)
    finally:
        for left in (unfinished, unfinished.with_name(f"{unfinished.name}-journal")):
            left.unlink(missing_ok=True)


@state_command("copy-db")
@click.argument("url", callback=check_database_url)
def copy_db(url: str) -> None:
    """Copy all of the database to the empty one at URL.

    From SQLite to PostgreSQL, or back. It is a copy of one moment: stop the service before, or set
    READ_ONLY.
    """
    folder = current_app.config["DATA_DIR"]
    here, there = (data_folder.database_name(one, folder) for one in (db.engine.url, make_url(url)))
    if here == there:
        raise click.ClickException(f"{there} is this database itself")
    if not read_only.is_set():
        click.echo(f"what the service writes from now on stays in {here} alone", err=True)

    done = database_copy.copy(db.engine, url, _report_copied)
    click.echo(f"{done.rows} rows of {done.tables} tables are in {there}, as many as in {here}")
    click.echo(
        "to change over to it: set DATABASE_URL, then run flask adopt, and start the service"
    )


def _report_copied(table: str, copied: int, total: int) -> None:
    """Print how far the copy is: after each table, and every 100,000 rows."""
    if copied == total or copied % SAY_ROWS == 0 < copied:
        click.echo(f"{table}: {copied} of {total}")


def _owner(folder: Path) -> str:
    """Return what a data folder belongs to now, in words."""
    try:
        owner = data_folder.recorded(folder)
    except data_folder.NotYours as error:
        return f"has lost its record: {error}"
    return f"belongs to {owner}" if owner else "belongs to nothing yet"
