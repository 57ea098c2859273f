"""The routes of packages: register, look up, download, activate, forget."""

from functools import partial
from typing import Any

from flask import current_app, g, url_for
from sqlalchemy import select

import errors
import gc_roots
import queries
import registration
import services
import task_queue
from api import Blueprint, cached, headers, page
from errors import EXAMPLE_TASK
from models import LIVE, AnyRow, Package, PackageStatus, Task, TaskStatus, db
from profiles import activation, applies, plans
from profiles import states as profile_states
from profiles.schemas import ActivationSchema, PlanSchema, ProfileQuerySchema
from schemas import (
    DownloadSchema,
    EmptySchema,
    PackageIdsSchema,
    PackageInSchema,
    PackageQuerySchema,
    PackageSchema,
    StatusSchema,
)
from worker import Pool

blueprint = Blueprint(
    "packages", __name__, url_prefix="/api/v1", description="Register, download, activate"
)

ACTIVATION_ERRORS = (
    errors.NoSuchProfile,
    errors.NoSuchPackage,
    errors.NotDownloaded,
    errors.FilesCollide,
    errors.ActivationRefused,
    errors.CheckFailed,
    errors.ProfileReplaced,
    errors.ProfileChanged,
    errors.NixFailed,
    errors.Busy,
    errors.FileUnusable,
)


@blueprint.get("/packages")
@blueprint.arguments(PackageQuerySchema, location="query")
@blueprint.response(200, PackageSchema(many=True), headers=headers("Link", "X-Total-Count"))
def index(query: dict[str, Any]) -> Any:
    """List packages, oldest first."""
    return listed(query)


def listed(query: dict[str, Any]) -> tuple[list[AnyRow], dict[str, str]]:
    """Return a page of packages, oldest first, and its headers."""
    filters = {"name": Package.name, "status": Package.status}
    held = queries.held_by(query.pop("profile", None))
    return page(queries.PACKAGES, query, *held, key=Package.id, filters=filters)


@blueprint.post("/packages")
@blueprint.arguments(PackageInSchema)
@blueprint.response(201, PackageSchema, headers=headers("Location"))
@blueprint.refuses(errors.PackageExists)
def create(fields: dict[str, Any]) -> Any:
    """Register a package; the catalogs are not asked before its download."""
    package = registration.register(**fields)
    if package is None:
        raise errors.PackageExists(**fields)
    g.package = package
    return package, {"Location": url_for("packages.show", package_id=package.id)}


@blueprint.get("/package/<id:package_id>")
@cached
@blueprint.response(200, PackageSchema)
@blueprint.refuses(errors.NoSuchPackage)
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
    example={"status": "downloaded", "task_id": EXAMPLE_TASK},
)
@blueprint.refuses(errors.NoSuchPackage)
def download(package_id: int) -> Any:
    """Queue the download, or return the task that does it or did it."""
    answer = request_download(package_id)
    return answer, 202 if answer["status"] == PackageStatus.CREATED else 200


def request_download(package_id: int) -> dict[str, Any]:
    """Queue a download where one is needed; return the package's status, and the task's id.

    The task is the one that does it or did it; its id is None once that was pruned. Raises
    NoSuchPackage.
    """
    package = find(package_id)
    if package.status == PackageStatus.CREATED and package.task_status not in LIVE:
        task_id = task_queue.add(package_id, g.request_id)
        if task_id is not None:
            services.get(Pool).wake()
            return {"status": package.status, "task_id": task_id}
        package = find(package_id)  # another request was faster

    is_done = package.status != PackageStatus.CREATED
    task_id = _downloaded_by(package_id) if is_done else package.task_id
    return {"status": package.status, "task_id": task_id}


@blueprint.post("/package/<id:package_id>/activate")
@blueprint.arguments(ActivationSchema, location="query")
@blueprint.response(200, PlanSchema, example={"status": "activated"})
@blueprint.refuses(*ACTIVATION_ERRORS)
def activate(query: dict[str, Any], package_id: int) -> Any:
    """Put the package in a profile, in place of another version of its name.

    With `dry_run`, only tell what that would change. If-Match and If-None-Match make it depend on
    the state of the profile, as they do for an apply.
    """
    find(package_id)
    return _activate([package_id], **query)


@blueprint.post("/packages/activate")
@blueprint.arguments(ActivationSchema, location="query")
@blueprint.arguments(PackageIdsSchema)
@blueprint.response(200, PlanSchema, example={"status": "activated"})
@blueprint.refuses(*ACTIVATION_ERRORS)
def activate_all(query: dict[str, Any], fields: dict[str, Any]) -> Any:
    """Put several packages in a profile, in one generation or not at all.

    Each takes the place of another version of its name. With `dry_run`, only tell what that would
    change. If-Match and If-None-Match make it depend on the state of the profile, as they do for an
    apply.
    """
    return _activate(fields["ids"], **query)


def _activate(package_ids: list[int], *, profile: str, dry_run: bool) -> Any:
    where = activation.find(profile)
    if dry_run:
        return plans.plan(where, package_ids)
    check = partial(profile_states.check_headers, profile)
    activation.activate(where, package_ids, by=g.caller.label, check=check)
    return {"status": PackageStatus.ACTIVATED}


@blueprint.post("/package/<id:package_id>/deactivate")
@blueprint.arguments(ProfileQuerySchema, location="query")
@blueprint.response(200, StatusSchema)
@blueprint.refuses(
    errors.NoSuchProfile,
    errors.NoSuchPackage,
    errors.ActivationRefused,
    errors.CheckFailed,
    errors.ProfileReplaced,
    errors.ProfileChanged,
    errors.NixFailed,
    errors.Busy,
    errors.FileUnusable,
)
def deactivate(query: dict[str, Any], package_id: int) -> Any:
    """Take the package out of a profile; it stays downloaded, and in other profiles.

    If-Match and If-None-Match make it depend on the state of the profile, as they do for an apply.
    """
    profile = activation.find(query["profile"])
    find(package_id)
    check = partial(profile_states.check_headers, profile.name)
    activation.deactivate(profile, package_id, by=g.caller.label, check=check)
    return {"status": find(package_id).status}


@blueprint.delete("/package/<id:package_id>")
@blueprint.response(200, EmptySchema)
@blueprint.refuses(errors.NoSuchPackage, errors.PackageInUse, errors.Busy, errors.FileUnusable)
def forget(package_id: int) -> Any:
    """Forget the package, its tasks and its GC roots; not while it is activated or downloading."""
    remove(package_id)
    return {}


def remove(package_id: int) -> None:
    """Forget a package, its tasks and its GC roots. Raises NoSuchPackage or PackageInUse."""
    with activation.locked():
        package = find(package_id)
        if not registration.forget(package_id, ~applies.is_wanted()):
            use = _use(package)
            raise errors.PackageInUse(name=package.name, version=package.version, use=use)
        gc_roots.remove(current_app.config["DATA_DIR"], package_id)


def find(package_id: int) -> AnyRow:
    """Return the package's row, with its latest task; raise NoSuchPackage when there is none.

    The log names the package in the line of the request.
    """
    row = queries.package(package_id)
    if row is None:
        raise errors.NoSuchPackage(package_id=package_id)
    g.package = row
    return row


def _use(package: AnyRow) -> str:
    """Return in words why a package can't be forgotten."""
    if package.status == PackageStatus.ACTIVATED:
        return "activated"
    return "downloading" if package.task_status in LIVE else "in a set that is being applied"


def _downloaded_by(package_id: int) -> Any:
    """Return the id of the task that downloaded the package; None once that task was pruned."""
    done = select(Task.id).where(Task.package_id == package_id, Task.status == TaskStatus.SUCCEEDED)
    return db.session.scalar(done.order_by(Task.seq.desc()).limit(1))
