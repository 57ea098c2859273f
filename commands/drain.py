"""The `flask` commands of draining: drain and resume."""

import math
import time
from pathlib import Path

import click
from flask import current_app
from sqlalchemy import select

import drain
import leases
import read_only
import task_queue
from catalogs.models import CatalogIndex
from commands.guard import state_command
from models import AnyRow, Package, Task, TaskStatus, db
from worker import dead_holders

POLL_SECONDS = 0.5
SAY_SECONDS = 15


@state_command("drain")
@click.option(
    "--wait",
    "seconds",
    type=click.FloatRange(min=0),
    default=math.inf,
    metavar="SECONDS",
    help="How long to wait for the tasks that run.  [default: until they have ended]",
)
def drain_(seconds: float) -> None:
    """Have workers finish what runs, and take nothing new.

    That holds for all hosts that share DATA_DIR, and after restarts, until flask resume. Requests
    are served, and downloads queued. Indexing stops at once, and goes on later. The exit code is 1
    where a task still runs after SECONDS, or where flask resume has ended the drain meanwhile.
    """
    folder: Path = current_app.config["DATA_DIR"]
    drain.begin(folder)
    reason = drain.reason(folder)
    click.echo(reason)
    _explain_wait(reason)
    running = _await_end(folder, seconds)
    if drain.reason(folder) is None:
        raise click.ClickException("flask resume has ended the drain: tasks are taken again")
    if running:
        raise click.ClickException("tasks still run; nothing new is taken meanwhile")
    click.echo("no task runs")


@state_command("resume")
def resume() -> None:
    """Have workers take tasks again."""
    was_drained = drain.end(current_app.config["DATA_DIR"])
    _explain_wait(None)
    click.echo("tasks are taken again" if was_drained else "tasks were taken: nothing was drained")


def _explain_wait(reason: str | None) -> None:
    """Write the reason to the queued tasks at once; a running pool would within a second."""
    if not read_only.is_set():
        task_queue.explain_wait(lambda: reason)


def _await_end(folder: Path, seconds: float) -> list[str]:
    """Wait for running tasks, at most `seconds`, or until the drain ends; return those left."""
    deadline = time.monotonic() + seconds
    told: list[str] = []
    told_at = -math.inf
    while running := _running():
        now = time.monotonic()
        if running != told or now >= told_at + SAY_SECONDS:
            told, told_at = running, now
            click.echo(f"waiting for {len(running)}: {', '.join(running)}")
        if now >= deadline or drain.reason(folder) is None:
            break
        time.sleep(min(POLL_SECONDS, deadline - now))
    return running


def _running() -> list[str]:
    """Return the running tasks, after requeueing those of dead workers."""
    holders = current_app.config["DATA_DIR"] / "holders"
    dead = dead_holders(holders, leases.holders())
    if not read_only.is_set():
        leases.reap(dead)
    names = select(Package.name, Package.version, CatalogIndex.catalog, Task.started_at)
    joined = names.select_from(Task).outerjoin(Package).outerjoin(CatalogIndex)
    runs = Task.status == TaskStatus.RUNNING, Task.lease_holder.not_in(dead)
    rows = db.session.execute(joined.where(*runs).order_by(Task.seq))
    running = [_described(row) for row in rows]
    db.session.rollback()
    return running


def _described(row: AnyRow) -> str:
    what = f"{row.name} {row.version}" if row.name else f"the index of {row.catalog}"
    return f"{what} since {row.started_at:%H:%M:%SZ}"
