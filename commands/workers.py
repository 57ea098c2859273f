"""The command that runs the worker pool without a web server: run-worker."""

import signal
from queue import SimpleQueue

import click
from flask import current_app
from flask.cli import with_appcontext
from werkzeug.serving import is_running_from_reloader

import config
import health
import read_only
import services
from catalogs.state import Catalogs
from commands.guard import in_one_line
from worker import Pool

SERVES_ONLY = (
    "pkgd: flask run serves only: tasks wait in the queue until a worker runs, "
    "by flask --app app run-worker"
)


def warn_under_flask_run() -> None:
    """Say under `flask run` that it runs no tasks."""
    if _is_made_by_run():
        click.echo(SERVES_ONLY, err=True)


def _is_made_by_run() -> bool:
    """Tell whether `flask run` makes the application, but for a restart by the reloader."""
    context = click.get_current_context(silent=True)
    return context is not None and context.info_name == "run" and not is_running_from_reloader()


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

    # Reentrant, as an Event is not: a signal may arrive while the main thread begins to wait.
    ends: SimpleQueue[int] = SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: ends.put(number))
    pool.start()
    services.get(Catalogs).look()
    click.echo(read_only.REASON if read_only.is_set() else f"{pool.size} workers run")
    ends.get()
    pool.stop()
