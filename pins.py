"""Pins: the catalogs that the host has added, which are tarballs in the store."""

from collections.abc import Sequence

from flask import Flask
from sqlalchemy import select

from catalog_models import Pin
from catalog_state import Place
from models import db

_PLACES = select(Pin.name, Pin.store_path, Pin.anchor).order_by(Pin.rank, Pin.id)


def places(app: Flask) -> Sequence[Place]:
    """Return name, store path and anchor of each pin, by rank; also for threads of their own."""
    with app.app_context(), db.engine.connect() as connection:
        return connection.execute(_PLACES).all()
