"""The `flask` commands, by which an operator looks after the service on its host."""

from flask import Flask

from commands import cache, catalog, data, doctor, drain, tokens, upkeep, workers

COMMANDS = (
    data.init_db,
    data.adopt,
    data.backup,
    data.copy_db,
    tokens.create_token,
    workers.run_worker,
    upkeep.reconcile,
    upkeep.gc,
    upkeep.prune,
    doctor.examine,
    drain.drain_,
    drain.resume,
    catalog.catalog,
    cache.cache_key,
    cache.publish,
)


def init_app(app: Flask) -> None:
    """Add the commands to `app`."""
    for command in COMMANDS:
        app.cli.add_command(command)
    workers.warn_under_flask_run()
