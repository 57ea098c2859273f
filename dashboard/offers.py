"""The pages of what the catalogs offer: searching them, the versions of a name, installing one."""

from flask import Blueprint, Response, g, redirect, request, url_for
from sqlalchemy import select
from werkzeug.wrappers import Response as WerkzeugResponse

import packages
import registration
import services
from catalogs import routes as catalogs
from catalogs import search as catalog_search
from catalogs.schemas import CatalogQuerySchema, SearchQuerySchema
from catalogs.state import Catalogs
from dashboard.forms import next_url, read
from dashboard.plans import Plan, PlannedChangeSchema, if_seen, told
from dashboard.rendering import page
from models import Package, db
from profiles import applies, history
from profiles import states as profile_states
from schemas import PackageInSchema
from worker import Pool

pages = Blueprint("offers", __name__)

LISTED = 1000  # registered versions of a name


class InstallationSchema(PlannedChangeSchema, PackageInSchema):
    """A package to install, and where."""


SEARCH, RANGE = SearchQuerySchema(), CatalogQuerySchema()
PACKAGE, INSTALLATION = PackageInSchema(), InstallationSchema()


@pages.get("/catalog")
def search() -> WerkzeugResponse:
    """Show what the catalogs have for a text."""
    query = read(SEARCH, request.args)
    hits, total, has_more = catalog_search.search(
        services.get(Catalogs), query["search"], limit=query["limit"], after=query.get("after")
    )
    return page(
        "search.html",
        hits=hits,
        total=total,
        most=catalog_search.COUNTED,
        text=query["search"],
        next=next_url({"Link": ""}, hits[-1].name) if has_more else None,
    )


@pages.get("/catalog/<name>")
def versions(name: str) -> Response:
    """Show which versions of a name the catalogs offer."""
    wanted = read(RANGE, request.args).get("version")
    found = catalogs.offered(name, wanted)
    registered, _ = packages.listed({"name": name, "limit": LISTED})
    by_version = {row.version: row for row in registered}
    return page("versions.html", wanted=wanted, registered=by_version, **found)


@pages.get("/install")
def plan() -> Response:
    """Show what an installation would change."""
    fields = read(INSTALLATION, request.args)
    name, version, profile = fields["name"], fields["version"], fields["profile"]
    state = profile_states.find(profile)
    seen = profile_states.etag(state)
    wanted = applies.with_package(state, name, version)
    changes = told(applies.plan(profile, wanted, if_seen(profile, seen)))
    return Plan(
        title=f"Install {name} {version}",
        url=url_for("dashboard.offers.install"),
        label="Install",
        back=url_for("dashboard.offers.versions", name=name),
        fields={"name": name, "version": version, "profile": profile, "seen": seen},
        changes=changes,
    ).show("install.html", before=state.task_id, profiles=[one.name for one in history.every()])


@pages.post("/install")
def install() -> WerkzeugResponse:
    """Have a profile hold a package, too: by one apply, which registers and downloads it first."""
    fields = read(INSTALLATION, request.form)
    name, version, profile = fields["name"], fields["version"], fields["profile"]
    wanted = applies.with_package(profile_states.find(profile), name, version)
    check = if_seen(profile, fields["seen"])
    asked = {"by": g.caller.label, "request_id": g.request_id}
    if applies.accept(profile, wanted, check, **asked):
        services.get(Pool).wake()
    same = Package.name == name, Package.version == version
    package_id = db.session.scalar(select(Package.id).where(*same))
    return redirect(url_for("dashboard.packages.show", package_id=package_id), 303)


@pages.post("/download")
def download() -> WerkzeugResponse:
    """Register a package where it isn't yet, and queue its download."""
    fields = read(PACKAGE, request.form)
    name, version = fields["name"], fields["version"]
    registration.register(name, version)
    same = Package.name == name, Package.version == version
    package_id = db.session.scalars(select(Package.id).where(*same)).one()
    packages.request_download(package_id)
    return redirect(url_for("dashboard.packages.show", package_id=package_id), 303)
