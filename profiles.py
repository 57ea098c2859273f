"""The routes of profiles: list, show, wait for, apply a set, roll out, promote, delete.

They show the record: a generation that PROFILE_CHECK is still checking is not shown.
"""

from functools import partial
from typing import Any

from flask import Response, current_app, g, request
from sqlalchemy import Select, func, select
from werkzeug.datastructures import ETags

import activation
import applies
import errors
import history
import machine_states
import rollouts
import services
from api import Blueprint, headers
from fields import PROFILE_NAME
from history import History, place
from long_polling import wait_until
from machine_models import Machine
from machine_schemas import PercentSchema
from models import LIVE, AnyRow, Task, db
from profile_models import Apply, Change, Generation, Profile
from profile_schemas import (
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


def _states() -> Select[Any]:
    """Select profiles, `default` first, each with its active generation and its live apply."""
    active = select(Change.generation_id).join(Generation)
    active = active.where(Generation.profile_id == Profile.id).order_by(Change.id.desc()).limit(1)
    live = select(func.max(Task.seq)).join(Apply)
    live = live.where(Apply.profile_id == Profile.id, Task.status.in_(LIVE))
    profile = Profile.id, Profile.name, Profile.revision, Profile.changed_at
    generation = (
        Generation.number.label("generation"),
        Generation.store_path,
        Generation.packages,
        Generation.published_at,
    )
    task = Task.seq.label("apply"), Task.id.label("task_id")
    states = (
        select(*profile, *generation, *task)
        .select_from(Profile)
        .outerjoin(Generation, Generation.id == active.correlate(Profile).scalar_subquery())
        .outerjoin(Task, Task.seq == live.correlate(Profile).scalar_subquery())
    )
    return rollouts.with_offers(states).order_by(Profile.id)


STATES = _states()


@blueprint.get("/profiles")
@blueprint.response(200, ProfileSchema(many=True))
def index() -> Any:
    """List the profiles, `default` first."""
    machines = machine_states.counts()
    return [_shown(state, machines[state.id]) for state in db.session.execute(STATES)]


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
    state, machine = _state(profile_name), query["machine"]
    _check_match(profile_name, state)
    etag = partial(_etag_of_offer, machine=machine)
    seen = request.if_none_match or ETags([etag(state)])
    headers = {}
    if query["wait"] and seen.contains_weak(etag(state)):
        changed = wait_until(
            lambda state: not seen.contains_weak(etag(state)),
            partial(_state, profile_name),
            query["wait"],
        )
        state, headers = changed or state, {} if changed else {"Retry-After": "1"}

    headers["ETag"] = f'"{etag(state)}"'
    if request.if_none_match.contains_weak(etag(state)):
        return Response(status=304, headers=headers)
    # A machine asks often, and counting all machines takes long.
    return _shown(state, None if machine else _counts(state), machine), headers


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
    check = partial(_check, profile_name)
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
    _check_match(profile_name, _state(profile_name))
    rollouts.set_percent(profile, fields["percent"])
    state = _state(profile_name)
    return _shown(state, _counts(state))


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
    if source.name == profile_name:
        raise errors.InvalidInput(errors={"from": ["It is the profile itself."]})

    def check(profile: History | None) -> None:
        _check(profile_name, profile)
        if query["require"]:
            machine_states.require_current(source)

    if query["dry_run"]:
        activation.check_name(profile_name)
        activation.promotable(source)
        check(history.of(profile_name))
    else:
        activation.promote(profile_name, source, check, by=g.caller.label)
    state = _state(source.name if query["dry_run"] else profile_name)
    return _shown(state, _counts(state))


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
    activation.delete(activation.find(profile_name), partial(_check, profile_name))
    return {}


def _state(name: str) -> AnyRow:
    """Return a profile by its record. Raises NoSuchProfile."""
    mine = STATES.where(Profile.name == name)
    # PostgreSQL refuses to compare some other texts, such as those with a NUL.
    row = db.session.execute(mine).one_or_none() if PROFILE_NAME.fullmatch(name) else None
    if row is None:
        raise errors.NoSuchProfile(name=name)
    return row


def _shown(
    state: AnyRow, machines: machine_states.Counts | None, machine: str | None = None
) -> dict[str, Any]:
    path, packages = str(place(state.name)), state.packages or []
    rest = rollouts.rest(state)
    has_cache = current_app.config["CACHE"] and state.generation is not None
    return {
        **state._mapping,
        "path": path,
        "packages": packages,
        "published": state.published_at is not None if has_cache else None,
        "offered": rollouts.offered(state, machine),
        "rollout": {"percent": state.percent, "rest": rest},
        "machines": machines,
    }


def _counts(state: AnyRow) -> machine_states.Counts:
    return machine_states.counts(Machine.profile_id == state.id)[state.id]


def _etag(state: AnyRow) -> str:
    """Return the part of the ETag that If-Match compares: what operators change.

    It is without quotation marks, and no other profile ever has it.
    """
    return f"{state.id}.{state.revision}.{state.apply or 0}"


def _etag_of_offer(state: AnyRow, machine: str | None) -> str:
    """Return the whole ETag: `_etag`, and what is published, rolled out, and offered."""
    offered = rollouts.offered(state, machine)
    offer = f"{state.newest_id or 0}.{state.percent}.{offered.id if offered else 0}"
    return f"{_etag(state)}.{offer}"


def _operators_part(etags: ETags, *, weak: bool = False) -> set[str]:
    """Return the part of each ETag that `_etag` returns; earlier versions sent only that."""
    return {".".join(etag.split(".")[:3]) for etag in etags.as_set(include_weak=weak)}


def _check(name: str, profile: History | None) -> bool:
    """Check If-Match and If-None-Match; return whether If-Match names one state of the profile.

    Raises ProfileChanged where one of them excludes the present state.
    """
    state = _state(name) if profile else None
    _check_match(name, state)
    excluded = request.if_none_match
    if state and (excluded.star_tag or _etag(state) in _operators_part(excluded, weak=True)):
        raise _changed(name, state)
    return "If-Match" in request.headers and not request.if_match.star_tag


def _check_match(name: str, state: AnyRow | None) -> None:
    """Raise ProfileChanged unless If-Match, if given, has the state; None: there is no profile."""
    if "If-Match" not in request.headers:
        return
    wanted = request.if_match
    if not (state and (wanted.star_tag or _etag(state) in _operators_part(wanted))):
        raise _changed(name, state)


def _changed(name: str, state: AnyRow | None) -> errors.ProfileChanged:
    etag = f'"{_etag_of_offer(state, None)}"' if state else "none"
    return errors.ProfileChanged(name=name, etag=etag)
