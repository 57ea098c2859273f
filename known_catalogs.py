"""What is known of each catalog: where it comes from, how it is, how far it is indexed."""

from typing import Any

from sqlalchemy import func, select

import nix
import pins
import services
from catalog_models import CatalogIndex, IndexedOffer
from catalog_state import Catalogs
from models import AnyRow, db

NOT_PINNED = {"sha256": None, "revision": None, "dated_at": None, "added_at": None}
NOT_INDEXED = {"packages": None, "indexed_at": None}

_NEWEST = (
    select(CatalogIndex.catalog, func.max(CatalogIndex.id).label("id"))
    .where(CatalogIndex.finished_at.is_not(None))
    .group_by(CatalogIndex.catalog)
    .subquery()
)
_ROWS = (
    select(func.count())
    .where(IndexedOffer.index_id == CatalogIndex.id)
    .correlate(CatalogIndex)
    .scalar_subquery()
)
_INDEXES = select(
    CatalogIndex.catalog, CatalogIndex.finished_at.label("indexed_at"), _ROWS.label("packages")
).join(_NEWEST, _NEWEST.c.id == CatalogIndex.id)


def in_order() -> list[dict[str, Any]]:
    """Return all catalogs, in the order in which they are asked."""
    catalogs, known, indexes = services.get(Catalogs), pins.known(), _indexes()
    return [
        {
            "name": catalog.name,
            "nix": catalogs.nix_wanted(catalog),
            "state": catalogs.state_of(catalog),
            **_source(catalog, known.get(catalog.name)),
            **indexes.get(catalog.name, NOT_INDEXED),
        }
        for catalog in catalogs.in_order()
    ]


def _source(catalog: nix.Catalog, pin: AnyRow | None) -> dict[str, Any]:
    """Return where a catalog comes from; its hash and times are those of a pin."""
    if pin is None:
        return {"source": catalog.place, **NOT_PINNED}
    return {"source": pin.url, **{key: getattr(pin, key) for key in NOT_PINNED}}


def _indexes() -> dict[str, dict[str, Any]]:
    """Return, of each catalog's newest index, when it was finished and what it holds."""
    with db.engine.connect() as connection:
        found = connection.execute(_INDEXES).mappings()
        return {one["catalog"]: {key: one[key] for key in NOT_INDEXED} for one in found}
