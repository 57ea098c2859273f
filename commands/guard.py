"""What the operator's commands have in common: how errors end them, and when they are refused."""

import os
from collections.abc import Callable
from functools import wraps

import click
from flask.cli import with_appcontext

import data_folder
import database
import maintenance
import nix
import read_only
from cache import publishing
from catalogs import pins
from commands import database_copy
from models import DATABASE_AWAY, cause

TOLD = (
    maintenance.TooMuchLost,
    data_folder.NotYours,
    database_copy.CopyError,
    pins.PinError,
    publishing.SweepPrevented,
    nix.NixError,
    OSError,
    *DATABASE_AWAY,
)


class Misconfigured(click.ClickException):
    """Ends a command as `refuse_start` ends a start."""

    exit_code = os.EX_CONFIG


def in_one_line(function: Callable[..., None]) -> Callable[..., None]:
    """Have an error of Nix, the database or a file end a command with a message of one line."""

    @wraps(function)
    def reporting(*args: object, **kwargs: object) -> None:
        try:
            function(*args, **kwargs)
        except TOLD as error:
            lasts = isinstance(error, data_folder.NotYours)
            raise refusal(cause(error), lasts=lasts) from None

    return reporting


def refusal(reason: object, *, lasts: bool = False) -> click.ClickException:
    """Return the error that ends a command; one that `lasts` does so until the settings change."""
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
