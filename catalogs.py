"""The routes of catalogs: which versions of a name they offer."""

import re
from typing import Any

import errors
import nix
import services
from api import Blueprint
from catalog_state import Catalogs
from fields import NAME_PATTERN
from schemas import CatalogSchema

blueprint = Blueprint(
    "catalog", __name__, url_prefix="/api/v1", description="Which versions there are"
)


@blueprint.get("/catalog/<name>")
@blueprint.response(200, CatalogSchema)
@blueprint.refuses(errors.NameNotFound, errors.UrlTooLong, errors.NixFailed, errors.Busy)
def show(name: str) -> Any:
    """Show every version of a name that the catalogs offer, newest first."""
    offers = nix.Offers()
    if re.match(NAME_PATTERN, name):
        offers = services.get(Catalogs).offers(name)
    if not offers.versions and not offers.failures:
        raise errors.NameNotFound(
            detail=nix.NameUnknown(name, offers.near, offers.kind), near=offers.near
        )
    return {"name": name, "versions": offers.versions, "failures": offers.failures}
