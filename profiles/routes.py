"""The routes of profiles: list, show, wait for, apply a set, roll out, promote, delete.

They show the record: a generation that PROFILE_CHECK is still checking is not shown.
"""

from functools import partial
from typing import Any

from flask import Response, g, request
from werkzeug.datastructures import ETags

import errors
import services
from api import Blueprint, headers
from long_polling import wait_until
from machines import rollouts
from machines import states as machine_states
from machines.schemas import PercentSchema
from profiles import activation, applies, history
from profiles import states as profile_states
from profiles.history import History
from profiles.schemas import (
    AppliedSchema,
    ApplyQuerySchema,
    PackageSetSchema,
    ProfileSchema,
    ProfileWaitSchema,
    PromotionQuerySchema,
    PromotionSchema,
)
from schemas import EmptySchema
from worker import Pool

blueprint = Blueprint(
    "profiles", __name__, url_prefix="/api/v1", description="Sets of packages that are active"
)


@blueprint.get("/profiles")
@blueprint.response(200, ProfileSchema(many=True))
def index() -> Any:
    """List the profiles, `default` first."""
    return profile_states.every()


@blueprint.get("/profile/<profile_name>")
@blueprint.arguments(ProfileWaitSchema, location="query")
@blueprint.response(200, ProfileSchema, headers=headers("ETag", "Retry-After"))
@blueprint.alt_response(304, description="It is as If-None-Match has it", success=True)
@blueprint.refuses(errors.NoSuchProfile, errors.ProfileChanged)
def show(query: dict[str, Any], profile_name: str) -> Any:
    """Show a profile, at once or as soon as it has changed.

    Its ETag changes with each change of the profile, when an apply is accepted or ends, and with
    what is offered to `machine`, or to machines at all; not with what these report. What `wait`
    waits for is an ETag other than those in If-None-Match, or than the present one.
    """
    state, machine = profile_states.find(profile_name), query["machine"]
    profile_states.check_match(profile_name, state)
    etag = partial(profile_states.etag_of_offer, machine=machine)
    seen = request.if_none_match or ETags([etag(state)])
    headers = {}
    if query["wait"] and seen.contains_weak(etag(state)):
        changed = wait_until(
            lambda state: not seen.contains_weak(etag(state)),
            partial(profile_states.find, profile_name),
            query["wait"],
        )
        state, headers = changed or state, {} if changed else {"Retry-After": "1"}

    headers["ETag"] = f'"{etag(state)}"'
    if request.if_none_match.contains_weak(etag(state)):
        return Response(status=304, headers=headers)
    # A machine asks often, and counting all machines takes long.
    return profile_states.shown(
        state, None if machine else profile_states.counts(state), machine
    ), headers


@blueprint.put("/profile/<profile_name>")
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
    errors.ProfileChanged,
    errors.LockMismatch,
    errors.ActivationRefused,
    errors.FilesCollide,
    errors.NixFailed,
)
def apply(query: dict[str, Any], fields: dict[str, Any], profile_name: str) -> Any:
    """Make a profile hold exactly these packages, in one generation or not at all.

    What isn't there yet is registered and downloaded first, and a profile that isn't there is made.
    An apply that still waits gives way to a newer one, and to a switch, a rollback or a promotion;
    one of the same set is the answer to both. Where a package has another store path than the set
    insists on, nothing changes.
    If-Match and If-None-Match make it depend on the state of the profile, If-Match until the change
    itself. With `dry_run`, only tell what that would change.
    """
    wanted = applies.versions(fields["packages"])
    check = partial(profile_states.check_headers, profile_name)
    if query["dry_run"]:
        return {"task_id": None, **applies.plan(profile_name, wanted, check)}, 200
    task_id = applies.accept(
        profile_name, wanted, check, by=g.caller.label, request_id=g.request_id
    )
    if task_id is None:
        return {"task_id": None}, 200
    services.get(Pool).wake()
    return {"task_id": task_id}


@blueprint.put("/profile/<profile_name>/rollout")
@blueprint.arguments(PercentSchema)
@blueprint.response(200, ProfileSchema)
@blueprint.refuses(errors.NoSuchProfile, errors.ProfileChanged)
def roll_out(fields: dict[str, Any], profile_name: str) -> Any:
    """Offer the newest generation to a share of the machines, and what comes after it, too.

    The rest goes on being offered what all were, however often the profile changes, until a larger
    share or 100 includes it. A share that is set before a change holds back that change. One that
    is set after it does so only while no machine holds the new generation yet.
    """
    profile = activation.find(profile_name)
    profile.lock()
    profile_states.check_match(profile_name, profile_states.find(profile_name))
    rollouts.set_percent(profile, fields["percent"])
    state = profile_states.find(profile_name)
    return profile_states.shown(state, profile_states.counts(state))


@blueprint.post("/profile/<profile_name>/promote")
@blueprint.arguments(PromotionQuerySchema, location="query")
@blueprint.arguments(PromotionSchema)
@blueprint.response(200, ProfileSchema)
@blueprint.refuses(
    errors.NoSuchProfile,
    errors.NothingToPromote,
    errors.MachinesNotCurrent,
    errors.ActivationRefused,
    errors.CheckFailed,
    errors.ProfileReplaced,
    errors.ProfileChanged,
    errors.NixFailed,
    errors.Busy,
    errors.FileUnusable,
)
def promote(query: dict[str, Any], fields: dict[str, Any], profile_name: str) -> Any:
    """Make a profile the active generation of another one: its very store path, in one switch.

    With `require=current`, only if every machine of the source that was heard of lately is current,
    and one of them holds that generation. With `dry_run`, only tell whether that would be done: the
    answer is then the source.
    """
    source = activation.find(fields["source"])

    def check(profile: History | None) -> None:
        profile_states.check_headers(profile_name, profile)
        if query["require"]:
            machine_states.require_current(source)

    if query["dry_run"]:
        activation.check_name(profile_name)
        activation.promotable(profile_name, source)
        check(history.of(profile_name))
    else:
        activation.promote(profile_name, source, check, by=g.caller.label)
    state = profile_states.find(source.name if query["dry_run"] else profile_name)
    return profile_states.shown(state, profile_states.counts(state))


@blueprint.delete("/profile/<profile_name>")
@blueprint.response(200, EmptySchema)
@blueprint.refuses(
    errors.NoSuchProfile,
    errors.ProfileKept,
    errors.ProfileReplaced,
    errors.ProfileChanged,
    errors.Busy,
    errors.FileUnusable,
)
def delete(profile_name: str) -> Any:
    """Delete a profile with its generations; its packages stay downloaded."""
    activation.delete(
        activation.find(profile_name), partial(profile_states.check_headers, profile_name)
    )
    return {}
