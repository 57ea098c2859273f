"""The routes of packages: register, look up, download, activate."""

from typing import Any

from flask import current_app, g, url_for
from sqlalchemy import select

import lookups
import profiles
import roots
import services
from blueprints import Blueprint, headers
from lookups import PACKAGES
from models import LIVE, Package, PackageStatus, Task, TaskStatus, db
from paging import paginate
from problems import Problem
from schemas import (
    TASK_ID,
    ActivationSchema,
    DownloadSchema,
    EmptySchema,
    PackageInSchema,
    PackageQuerySchema,
    PackageSchema,
    PlanSchema,
    StatusSchema,
)
from worker import Pool

blueprint = Blueprint(
    "packages", __name__, url_prefix="/api/v1", description="Register, download, activate"
)


@blueprint.get("/packages")
@blueprint.arguments(PackageQuerySchema, location="query")
@blueprint.response(200, PackageSchema(many=True), headers=headers("Link", "X-Total-Count"))
def index(query: dict[str, Any]) -> Any:
    """List packages, oldest first."""
    filters = [
        column == query[name]
        for name, column in (("name", PACKAGES.name), ("status", PACKAGES.status))
        if name in query
    ]
    return paginate(
        lookups.ALL_PACKAGES,
        *filters,
        key=PACKAGES.id,
        after=query.get("after"),
        limit=query["limit"],
    )


@blueprint.post("/packages")
@blueprint.arguments(PackageInSchema)
@blueprint.response(201, PackageSchema, headers=headers("Location"))
@blueprint.refuses("package-exists")
def create(fields: dict[str, Any]) -> Any:
    """Register a package; whether a catalog has it shows at its download."""
    package = Package.register(**fields)
    if package is None:
        detail = f"{fields['name']} {fields['version']} is registered already"
        raise Problem(409, detail, kind="package-exists")
    return package, {"Location": url_for("packages.show", package_id=package.id)}


@blueprint.get("/package/<id:package_id>")
@blueprint.response(200, PackageSchema)
@blueprint.refuses("no-such-package")
def show(package_id: int) -> Any:
    """Show one package."""
    return find(package_id)


@blueprint.post("/package/<id:package_id>/download")
@blueprint.response(202, DownloadSchema, description="Scheduled, now or before")
@blueprint.alt_response(
    200,
    schema=DownloadSchema,
    description="Done before",
    success=True,
    example={"status": "downloaded", "task_id": TASK_ID},
)
@blueprint.refuses("no-such-package")
def download(package_id: int) -> Any:
    """Schedule the download, unless one is live or was done."""
    while True:
        package = find(package_id)
        if package.status != PackageStatus.CREATED:
            return {"status": package.status, "task_id": _done_by(package_id)}, 200
        if package.task_status in LIVE:
            return package
        if (task_id := Task.queue(package_id, g.request_id)) is not None:
            services.get(Pool).wake()
            return {"status": package.status, "task_id": task_id}


@blueprint.post("/package/<id:package_id>/activate")
@blueprint.arguments(ActivationSchema, location="query")
@blueprint.response(200, PlanSchema, example={"status": "activated"})
@blueprint.refuses("no-such-package", "not-downloaded", "collision", "check-failed", "nix-failed")
def activate(query: dict[str, Any], package_id: int) -> Any:
    """Put the package in the profile, in place of another version of its name.

    With `dry_run`, only tell what that would change.
    """
    package = find(package_id)
    if query["dry_run"]:
        return {"status": package.status} | profiles.plan(package_id)
    profiles.activate(package_id, by=g.caller.label)
    return {"status": PackageStatus.ACTIVATED}


@blueprint.post("/package/<id:package_id>/deactivate")
@blueprint.response(200, StatusSchema)
@blueprint.refuses("no-such-package", "check-failed", "nix-failed")
def deactivate(package_id: int) -> Any:
    """Take the package out of the profile; it stays downloaded."""
    find(package_id)
    profiles.deactivate(package_id, by=g.caller.label)
    return {"status": find(package_id).status}


@blueprint.delete("/package/<id:package_id>")
@blueprint.response(200, EmptySchema)
@blueprint.refuses("no-such-package", "package-in-use")
def forget(package_id: int) -> Any:
    """Forget the package, its tasks and its GC roots; not while it is activated or downloading."""
    with profiles.locked():
        package = find(package_id)
        if not Package.forget(package_id):
            doing = "activated" if package.status == PackageStatus.ACTIVATED else "downloading"
            detail = f"{package.name} {package.version} is {doing}"
            raise Problem(409, detail, kind="package-in-use")
        roots.remove(current_app.config["DATA_DIR"], package_id)
    return {}


def find(package_id: int) -> Any:
    """Return the package's row, with its latest task; raise a 404 Problem when there is none."""
    row = lookups.package(package_id)
    if row is None:
        raise Problem(404, f"there is no package {package_id}", kind="no-such-package")
    return row


def _done_by(package_id: int) -> Any:
    """Return the id of the task that downloaded the package; None once it was pruned."""
    done = select(Task.id).where(Task.package_id == package_id, Task.status == TaskStatus.SUCCEEDED)
    return db.session.scalar(done.order_by(Task.seq.desc()).limit(1))
