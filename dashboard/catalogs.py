"""The page of catalogs: where each comes from, how it is, and how far it is indexed."""

from typing import Any

from flask import Blueprint, Response

from catalogs import routes as catalogs
from dashboard.rendering import Entry, Fragment, fragment, page, send

pages = Blueprint("catalogs", __name__)
entry = Entry("Catalogs", "dashboard.catalogs.index")


@pages.get("/catalogs")
def index() -> Response:
    """Show the catalogs in the order in which they are asked."""
    return page("catalogs.html", listed=_listed())


@pages.get("/parts/catalogs")
def listed() -> Response:
    """Send the part that lists them."""
    return send(_listed())


def _listed() -> Fragment:
    def gather() -> dict[str, Any]:
        return {"catalogs": catalogs.listed()}

    return fragment("dashboard.catalogs.listed", "catalogs_list.html", gather, seconds=3)
