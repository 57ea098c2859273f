"""`flask doctor`: one page on what is right and wrong with this host.

Each check runs in a thread of its own, so that none keeps the others from being told, be it that a
disk or a database never answers. None changes anything.
"""

import threading
import time
from collections.abc import Iterator

import click
from flask import Flask, current_app
from flask.cli import with_appcontext
from sqlalchemy.exc import SQLAlchemyError

import config
import doctor_host
import doctor_service
import nix
from findings import Check, Finding, Level, error
from models import cause

DEADLINE_SECONDS = 60
# ValueError: rows that hold what is no time or no JSON.
FAULTS = (config.ConfigError, nix.NixError, OSError, SQLAlchemyError, ValueError)
CHECKS: tuple[Check, ...] = (
    doctor_service.version,
    doctor_service.settings,
    doctor_service.keys,
    doctor_service.data_dir,
    doctor_service.database,
    doctor_service.tokens,
    doctor_service.queue,
    doctor_service.backups,
    doctor_service.proxies,
    doctor_host.disk,
    doctor_host.nix_itself,
    doctor_host.daemon,
    doctor_host.build_users,
    doctor_host.sandbox,
    doctor_host.catalogs,
    doctor_service.roots,
    doctor_host.clock,
    doctor_service.times,
    doctor_host.unit,
)


def init_app(app: Flask) -> None:
    """Add the command to `app`."""
    app.cli.add_command(doctor)


@click.command("doctor")
@with_appcontext
def doctor() -> None:
    """Say what is right and wrong with this host, and what to do; nothing is changed.

    The exit code is 0 if all is well, 1 with warnings, 2 with errors.
    """
    folder = current_app.config["DATA_DIR"]
    if not folder.is_dir():
        found = [error("data", f"there is no DATA_DIR {folder}", "flask init-db makes it")]
    else:
        found = list(_examine(current_app._get_current_object()))  # type: ignore[attr-defined]
    for finding in found:
        click.echo(finding)
    levels = [finding.level for finding in found]
    click.echo(f"errors: {levels.count(Level.ERROR)}, warnings: {levels.count(Level.WARNING)}")
    click.get_current_context().exit(max(levels))


class Examination(threading.Thread):
    """One check, in a thread that nobody waits for at the end of the process."""

    def __init__(self, app: Flask, check: Check) -> None:
        super().__init__(name=check.__name__, daemon=True)
        self.app = app
        self.check = check
        self.found: list[Finding] | None = None

    def run(self) -> None:
        """Find out."""
        try:
            with self.app.app_context():
                self.found = list(self.check())
        except FAULTS as fault:
            self.found = [error(self._about, str(cause(fault)), "see above, and the log")]

    def told(self, deadline: float) -> list[Finding]:
        """Return what was found by the deadline."""
        self.join(max(0.0, deadline - time.monotonic()))
        if self.found is None:
            text = f"no answer within {DEADLINE_SECONDS} s"
            return [error(self._about, text, "something hangs: a disk, a mount, Nix, the database")]
        return self.found

    @property
    def _about(self) -> str:
        return self.check.__name__.replace("_", " ")


def _examine(app: Flask) -> Iterator[Finding]:
    """Run all checks at once, and yield what they find, in order."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    examinations = [Examination(app, check) for check in CHECKS]
    for one in examinations:
        one.start()
    for one in examinations:
        yield from one.told(deadline)
