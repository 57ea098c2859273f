"""The `flask` commands of an operator on the host."""

import os
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
from sqlalchemy import make_url
from werkzeug.serving import is_running_from_reloader

import auth
import config
import data_folder
import database
import database_copy
import doctor
import doctor_host
import doctor_service
import health
import maintenance
import nix
import pins
import read_only
import services
from catalog_state import Catalogs
from models import DATABASE_AWAY, Scope, cause, db, soon
from schemas import TokenInSchema
from worker import Pool

LIFE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd]?)", re.ASCII)
TOLD = (
    maintenance.TooMuchLost,
    data_folder.NotYours,
    database_copy.CopyError,
    pins.PinError,
    nix.NixError,
    OSError,
    *DATABASE_AWAY,
)
SAY_ROWS = 100_000
CHECKS = (*doctor_service.CHECKS, *doctor_host.CHECKS)
SERVES_ONLY = (
    "pkgd: flask run serves only: tasks wait in the queue until a worker runs, "
    "by flask --app app run-worker"
)
UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": config.DAY}


class Misconfigured(click.ClickException):
    """Ends a command as `refuse_start` ends a start."""

    exit_code = os.EX_CONFIG


def init_app(app: Flask) -> None:
    """Add the commands to `app`."""
    for command in (
        init_db,
        adopt,
        create_token,
        run_worker,
        reconcile,
        gc,
        prune,
        backup,
        copy_db,
        examine,
    ):
        app.cli.add_command(command)
    if _is_made_by_run():
        click.echo(SERVES_ONLY, err=True)


def _is_made_by_run() -> bool:
    """Tell whether `flask run` makes the application, and for the first time."""
    context = click.get_current_context(silent=True)
    return context is not None and context.info_name == "run" and not is_running_from_reloader()


def in_one_line(function: Callable[..., None]) -> Callable[..., None]:
    """Have what goes wrong with Nix, the database or a file end a command in one line."""

    @wraps(function)
    def telling(*args: object, **kwargs: object) -> None:
        try:
            function(*args, **kwargs)
        except TOLD as error:
            lasts = isinstance(error, data_folder.NotYours)
            raise refusal(cause(error), lasts=lasts) from None

    return telling


def refusal(reason: object, *, lasts: bool = False) -> click.ClickException:
    """Return what ends a command in one line; `lasts` until the configuration is another."""
    kind = Misconfigured if lasts else click.ClickException
    return kind(" ".join(nix.plain(str(reason)).split()))


def check_writable() -> None:
    """Refuse a command that changes something while READ_ONLY is set."""
    if read_only.is_set():
        raise click.ClickException("READ_ONLY is set: this command would change something")


def state_command(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Return a decorator for commands that read or write the service's state.

    They are refused where the data folder belongs to another store or database, and where the
    database can't be used.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        @wraps(function)
        @in_one_line
        def guarded(*args: object, **kwargs: object) -> None:
            data_folder.claim(record=False)
            state = database.state()
            if state != "ok":
                raise refusal(state)
            data_folder.claim()
            function(*args, **kwargs)

        return click.command(name)(with_appcontext(guarded))

    return decorate


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


def check_database_url(_context: object, _argument: object, url: str) -> str:
    """Return the URL of a database as SQLAlchemy takes it."""
    try:
        return config.database_url({"DATABASE_URL": url or "nothing"})
    except config.ConfigError as error:
        raise click.BadParameter(str(error).replace("DATABASE_URL", "it", 1)) from None


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


@click.command("run-worker")
@with_appcontext
@in_one_line
def run_worker() -> None:
    """Run the worker pool in a process of its own.

    SIGTERM or SIGINT ends it.
    """
    pool = services.get(Pool)
    if current_app.config["WORKER_THREADS"] == 0:
        config.refuse_start("WORKER_THREADS is 0: there would be nothing to run")
    health.check_start(current_app)

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ended.set())
    pool.start()
    services.get(Catalogs).look()
    click.echo(read_only.REASON if read_only.is_set() else f"{pool.size} workers run")
    ended.wait()
    pool.stop()


@state_command("reconcile")
@click.option("--force", is_flag=True, help="Even if most packages are no longer downloaded then.")
def reconcile(force: bool) -> None:
    """Make the database true of the profile and the store."""
    check_writable()
    for sentence in maintenance.reconcile(force=force) or ["all as it should be"]:
        click.echo(nix.plain(sentence))


@state_command("gc")
@click.option("--dry-run", is_flag=True, help="Only tell what would be removed and freed.")
@click.option("--force", is_flag=True, help="Even if most packages are no longer downloaded then.")
def gc(dry_run: bool, force: bool) -> None:
    """Remove roots and generations that no package needs.

    Then run Nix's garbage collector.
    """
    if not dry_run:
        check_writable()
    done = maintenance.collect_garbage(dry_run=dry_run, force=force)
    would = "would be " if dry_run else ""
    numbers = ", ".join(done.generations) or "none"
    click.echo(f"generations {would}removed: {numbers}")
    click.echo(f"roots {would}removed: {len(done.roots)}")
    click.echo(f"bytes {would}freed: {done.freed_bytes}")


@state_command("prune")
@click.option("--dry-run", is_flag=True, help="Only tell how many tasks would go.")
def prune(dry_run: bool) -> None:
    """Delete tasks that ended more than TASK_DAYS ago.

    The worker pool does so, too, each hour.
    """
    days = current_app.config["TASK_DAYS"]
    if dry_run:
        click.echo(f"{maintenance.prunable(days)} tasks would be pruned")
        return
    check_writable()
    click.echo(f"{maintenance.prune(days)} tasks pruned")


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
    """Copy the database to a new file; nothing is left of a copy that fails, as on a full disk."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)
    try:
        with db.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only = OFF")  # which takes it for a write
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


@click.command("doctor")
@with_appcontext
def examine() -> None:
    """Say what is right and wrong with this host.

    It says what to do, and changes nothing. The exit code is 0 if all is well, 1 with warnings, 2
    with errors.
    """
    folder = current_app.config["DATA_DIR"]
    if not folder.is_dir():
        found = [doctor.error("data", f"there is no DATA_DIR {folder}", "flask init-db makes it")]
    else:
        app = current_app._get_current_object()  # type: ignore[attr-defined]
        found = list(doctor.examine(app, CHECKS))
    for finding in found:
        click.echo(finding)
    levels = [finding.level for finding in found]
    errors, warnings = levels.count(doctor.Level.ERROR), levels.count(doctor.Level.WARNING)
    click.echo(f"errors: {errors}, warnings: {warnings}")
    click.get_current_context().exit(max(levels))


def _report_copied(table: str, copied: int, total: int) -> None:
    """Print how far the copy is: after each table, and every 100,000 rows."""
    if copied == total or copied % SAY_ROWS == 0 < copied:
        click.echo(f"{table}: {copied} of {total}")


def _owner(folder: Path) -> str:
    """Say to what a data folder belongs now."""
    try:
        owner = data_folder.recorded(folder)
    except data_folder.NotYours as error:
        return f"has lost its record: {error}"
    return f"belongs to {owner}" if owner else "belongs to nothing yet"
