"""The routes of profiles: list, show, apply a set, promote, delete."""

from typing import Any

from flask import Response, g, request
from sqlalchemy import select

import applies
import errors
import history
import profiles
import services
from api import Blueprint, headers
from followers import wait_until
from history import History
from models import LIVE, Task, db
from profile_models import Apply, Profile
from profile_schemas import (
    AppliedSchema,
    ApplyQuerySchema,
    PackageSetSchema,
    ProfileSchema,
    PromotionSchema,
)
from schemas import EmptySchema, WaitSchema
from worker import Pool

blueprint = Blueprint(
    "profiles", __name__, url_prefix="/api/v1", description="Sets of packages that are active"
)

REFUSALS = (
    errors.NoSuchProfile,
    errors.ActivationRefused,
    errors.CheckFailed,
    errors.ProfileReplaced,
    errors.NixFailed,
    errors.Busy,
    errors.FileUnusable,
)


@blueprint.get("/profiles")
@blueprint.response(200, ProfileSchema(many=True))
def index() -> Any:
    """List the profiles, `default` first."""
    return [_shown(profile) for profile in history.every()]


@blueprint.get("/profile/<name>")
@blueprint.arguments(WaitSchema, location="query")
@blueprint.response(200, ProfileSchema, headers=headers("ETag", "Retry-After"))
@blueprint.alt_response(304, description="It is as If-None-Match has it", success=True)
@blueprint.refuses(errors.NoSuchProfile)
def show(query: dict[str, Any], name: str) -> Any:
    """Show a profile; with If-None-Match, at once or as soon as it has another ETag than that.

    The ETag changes with each change of the profile, and with each apply that is accepted.
    """
    profile = profiles.find(name)
    etag, headers = _etag(profile), {}
    if query["wait"] and not _is_new(etag):
        changed = wait_until(_is_new, lambda: _etag(profiles.find(name)), query["wait"])
        etag, headers = changed or etag, {} if changed else {"Retry-After": "1"}
    headers["ETag"] = f'"{etag}"'
    return (_shown(profile), headers) if _is_new(etag) else Response(status=304, headers=headers)


@blueprint.put("/profile/<name>")
@blueprint.arguments(ApplyQuerySchema, location="query")
@blueprint.arguments(PackageSetSchema)
@blueprint.response(202, AppliedSchema, example={"task_id": errors.EXAMPLE_TASK})
@blueprint.alt_response(
    200,
    schema=AppliedSchema,
    description="Nothing is to do, or it was only asked what would be",
    success=True,
    example={"task_id": None},
)
@blueprint.refuses(
    errors.ProfileChanged, errors.ActivationRefused, errors.FilesCollide, errors.NixFailed
)
def apply(query: dict[str, Any], fields: dict[str, Any], name: str) -> Any:
    """Make a profile hold exactly these packages, in one generation or not at all.

    What isn't there yet is registered and downloaded first, and a profile that isn't there is made.
    An apply that still waits gives way to a newer one. If-Match and If-None-Match make it depend on
    the state of the profile, If-Match until the change itself. With `dry_run`, only tell what that
    would change.
    """
    wanted = [(package["name"], package["version"]) for package in fields["packages"]]
    if query["dry_run"]:
        return {"task_id": None, **applies.plan(name, wanted)}, 200
    asked = {"by": g.caller.label, "request_id": g.request_id}
    task_id = applies.accept(name, wanted, lambda profile: _check(name, profile), **asked)
    if task_id is None:
        return {"task_id": None}, 200
    services.get(Pool).wake()
    return {"task_id": task_id}


@blueprint.post("/profile/<name>/promote")
@blueprint.arguments(PromotionSchema)
@blueprint.response(200, ProfileSchema)
@blueprint.refuses(*REFUSALS, errors.NothingToPromote)
def promote(fields: dict[str, Any], name: str) -> Any:
    """Make a profile the active generation of another one: its very store path, in one switch."""
    source = profiles.find(fields["source"])
    profiles.promote(name, source, by=g.caller.label)
    return _shown(profiles.find(name))


@blueprint.delete("/profile/<name>")
@blueprint.response(200, EmptySchema)
@blueprint.refuses(errors.NoSuchProfile, errors.ProfileKept, errors.Busy, errors.FileUnusable)
def delete(name: str) -> Any:
    """Delete a profile with its generations; its packages stay downloaded."""
    profiles.delete(profiles.find(name))
    return {}


def _shown(profile: History) -> dict[str, Any]:
    now = profile.current()
    live = select(Task.id).join(Apply).where(Apply.profile_id == profile.id, Task.status.in_(LIVE))
    return {
        "name": profile.name,
        "path": str(profile.path),
        "generation": now and now[0],
        "store_path": now and now[1],
        "packages": profile.active(),
        "changed_at": db.session.scalar(select(Profile.changed_at).where(Profile.id == profile.id)),
        "task_id": db.session.scalar(live.order_by(Task.seq.desc()).limit(1)),
    }


def _etag(profile: History) -> str:
    """Return the profile's ETag, without the quotation marks."""
    revision = db.session.scalar(select(Profile.revision).where(Profile.id == profile.id))
    now = profile.current()
    _, _, name = now[1].rpartition("/") if now else ("", "", "0")
    return f"{revision}.{name[:8]}"


def _is_new(etag: str) -> bool:
    """Tell whether If-None-Match does not name this ETag."""
    return not request.if_none_match.contains_weak(etag)


def _check(name: str, profile: History | None) -> bool:
    """Tell whether If-Match says which state of a profile the request is for.

    Raises ProfileChanged where If-Match or If-None-Match don't have it.
    """
    etag = _etag(profile) if profile else None
    if_match, if_none_match = request.if_match, request.if_none_match
    matches = not request.headers.get("If-Match") or (etag is not None and etag in if_match)
    is_other = etag is None or etag not in if_none_match
    if not matches or not is_other:
        raise errors.ProfileChanged(name=name, etag=f'"{etag}"' if etag else "none")
    return bool(request.headers.get("If-Match")) and not if_match.star_tag
