"""The routes of catalogs: which there are, and which versions of a name they offer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import errors
import nix
import services
from api import Blueprint, headers, next_link
from catalogs import indexes, pins
from catalogs import search as catalog_search
from catalogs.models import IndexStatus
from catalogs.schemas import (
    CatalogQuerySchema,
    CatalogSchema,
    HitSchema,
    KnownCatalogSchema,
    SearchQuerySchema,
)
from catalogs.state import NOT_LOOKED_AT, Catalogs
from fields import MAX_NAME_LENGTH, NAME_PATTERN
from models import AnyRow

blueprint = Blueprint(
    "catalog", __name__, url_prefix="/api/v1", description="Which versions there are"
)


@blueprint.get("/catalog")
@blueprint.arguments(SearchQuerySchema, location="query")
@blueprint.response(200, HitSchema(many=True), headers=headers("Link", "X-Total-Count"))
@blueprint.refuses(errors.NixFailed, errors.Busy)
def search(query: dict[str, Any]) -> Any:
    """Search the catalogs for names and, where there is an index, descriptions; best first.

    First the name itself, then names that begin with the text, names that hold it, and those whose
    descriptions hold every word of it, in the order of the alphabet. Words of fewer than three
    letters are looked for at the beginning of names only. X-Total-Count is 1,000 at most.
    """
    hits, total, has_more = catalog_search.search(
        services.get(Catalogs), query["search"], limit=query["limit"], after=query.get("after")
    )
    headers = {"X-Total-Count": str(total)}
    if has_more:
        headers["Link"] = next_link(hits[-1].name)
    return hits, headers


@blueprint.get("/catalogs")
@blueprint.response(200, KnownCatalogSchema(many=True))
@blueprint.refuses(errors.NixFailed)
def index() -> Any:
    """List the catalogs in the order in which they are asked."""
    return listed()


NOT_PINNED = {"sha256": None, "revision": None, "dated_at": None, "added_at": None}


def listed() -> list[dict[str, Any]]:
    """Return what is known of all catalogs, and have those looked at that may have changed."""
    services.get(Catalogs).look()
    return in_order()


def in_order() -> list[dict[str, Any]]:
    """Return what is known of all catalogs, in the order in which they are asked."""
    catalogs, pinned = services.get(Catalogs), pins.known()
    standings = catalogs.standings()
    told = []
    for catalog in catalogs.in_order():
        standing = standings.get(catalog.name, indexes.Standing())
        state = catalogs.state_of(catalog)
        if state == NOT_LOOKED_AT and standing.status is IndexStatus.CURRENT:
            state = "ok"  # in that very state, it was evaluated for its index
        told.append(
            {
                "name": catalog.name,
                "nix": catalogs.nix_wanted(catalog),
                "state": state,
                **_source(catalog, pinned.get(catalog.name)),
                **_index(standing),
            }
        )
    return told


def _source(catalog: nix.Catalog, pin: AnyRow | None) -> dict[str, Any]:
    """Return where a catalog comes from; its hash and times are those of a pin."""
    if pin is None:
        return {"source": catalog.place, **NOT_PINNED}
    return {"source": pin.url, **{key: getattr(pin, key) for key in NOT_PINNED}}


def _index(standing: indexes.Standing) -> dict[str, Any]:
    return {
        "index": standing.status,
        "index_task_id": standing.task_id,
        "index_progress": standing.progress,
        "index_error": standing.error,
        "packages": standing.packages,
        "indexed_at": standing.indexed_at,
        "verification": standing.verification,
        "verification_task_id": standing.verification_task_id,
        "verified": standing.verified,
        "verified_at": standing.verified_at,
    }


@blueprint.get("/catalog/<name>")
@blueprint.arguments(CatalogQuerySchema, location="query")
@blueprint.response(200, CatalogSchema)
@blueprint.refuses(errors.NameNotFound, errors.UrlTooLong, errors.NixFailed, errors.Busy)
def show(query: dict[str, Any], name: str) -> Any:
    """Show the versions of a name that the catalogs offer, newest first.

    `version` leaves only an exact version, also as a catalog spells it, or those in a range: ^1.2,
    ~1.2, >=1,<2. If there is none, the list is empty.
    """
    return offered(name, query.get("version"), advice=" In a URL, %2B stands for +.")


def offered(name: str, wanted: str | None, advice: str = "") -> dict[str, Any]:
    """Return the versions of a name, only those in the range `wanted` if there is one.

    Raises NameNotFound, or InvalidInput for what is no range, with advice on how to write one.
    """
    offers = nix.Offers()
    if len(name) <= MAX_NAME_LENGTH and re.match(NAME_PATTERN, name):
        offers = services.get(Catalogs).offers(name)
    if not offers.versions and not offers.failures:
        raise errors.NameNotFound(
            detail=nix.NameUnknown(name, offers.near, offers.kind), near=offers.near
        )
    versions = _wanted(offers.versions, wanted, advice)
    return {"name": name, "versions": _dated(versions), "failures": offers.failures}


def _wanted(versions: Sequence[nix.Offer], wanted: str | None, advice: str) -> Sequence[nix.Offer]:
    """Return the versions that a client wants to see."""
    if wanted is None:
        return versions
    try:
        return nix.matching(versions, wanted)
    except ValueError as error:
        raise errors.InvalidInput(errors={"version": [f"{error}{advice}"]}) from None


@dataclass(frozen=True)
class DatedOffer(nix.Offer):
    """A version that a catalog has, with the date of the catalog if that is a pin."""

    pinned_at: datetime | None = None


def _dated(offers: Sequence[nix.Offer]) -> list[DatedOffer]:
    dates = {name: pin.dated_at for name, pin in pins.known().items()}
    return [DatedOffer(**vars(offer), pinned_at=dates.get(offer.catalog)) for offer in offers]
