"""The objects attached to an application, looked up by type: store, catalogs, worker pool.

The factory calls `add`; everything else calls `get`, which returns the type it is asked for.
"""

from typing import TypeVar

from flask import Flask, current_app

T = TypeVar("T")


def add(app: Flask, service: object) -> None:
    """Attach a service to the application, under its own type."""
    app.extensions[_key(type(service))] = service


def get(kind: type[T], app: Flask | None = None) -> T:
    """Return the application's service of this type; `app` is the current one by default."""
    service: T = (app or current_app).extensions[_key(kind)]
    return service


def _key(kind: type) -> str:
    return f"pkgd.{kind.__qualname__}"
