"""The command that examines a host: doctor."""

import click
from flask import current_app
from flask.cli import with_appcontext

from commands import doctor_host, doctor_service, findings

CHECKS = (*doctor_service.CHECKS, *doctor_host.CHECKS)


@click.command("doctor")
@with_appcontext
def examine() -> None:
    """Say what is right and wrong with this host.

    It says what to do, and changes nothing. The exit code is 0 if all is well, 1 with warnings, 2
    with errors.
    """
    folder = current_app.config["DATA_DIR"]
    if not folder.is_dir():
        found = [findings.error("data", f"there is no DATA_DIR {folder}", "flask init-db makes it")]
    else:
        app = current_app._get_current_object()  # type: ignore[attr-defined]
        found = list(findings.examine(app, CHECKS))
    for finding in found:
        click.echo(finding)
    levels = [finding.level for finding in found]
    errors, warnings = levels.count(findings.Level.ERROR), levels.count(findings.Level.WARNING)
    click.echo(f"errors: {errors}, warnings: {warnings}")
    click.get_current_context().exit(max(levels))
