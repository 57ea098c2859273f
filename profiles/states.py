"""The states of profiles as clients see them, their ETags, and whether one is as it was seen."""

from typing import Any

from flask import current_app, request
from sqlalchemy import Select, func, select
from werkzeug.datastructures import ETags

import errors
from fields import PROFILE_NAME
from machines import rollouts
from machines import states as machine_states
from machines.models import Machine
from models import LIVE, AnyRow, Task, db
from profiles.history import History, place
from profiles.models import Apply, Change, Generation, Profile


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


def every() -> list[dict[str, Any]]:
    """Return all profiles as clients see them, `default` first."""
    machines = machine_states.counts()
    return [shown(state, machines[state.id]) for state in db.session.execute(STATES)]


def find(name: str) -> AnyRow:
    """Return a profile by its record. Raises NoSuchProfile."""
    mine = STATES.where(Profile.name == name)
    # PostgreSQL refuses to compare some other texts, such as those with a NUL.
    row = db.session.execute(mine).one_or_none() if PROFILE_NAME.fullmatch(name) else None
    if row is None:
        raise errors.NoSuchProfile(name=name)
    return row


def shown(
    state: AnyRow, machines: machine_states.Counts | None, machine: str | None = None
) -> dict[str, Any]:
    """Return a profile as clients see it, with what is offered to a machine or to the share."""
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


def counts(state: AnyRow) -> machine_states.Counts:
    """Return how many machines follow a profile, by state."""
    return machine_states.counts(Machine.profile_id == state.id)[state.id]


# --- ETags ---


def etag(state: AnyRow) -> str:
    """Return the part of the ETag that If-Match compares: what operators change.

    It is without quotation marks, and no other profile ever has it.
    """
    return f"{state.id}.{state.revision}.{state.apply or 0}"


def etag_of_offer(state: AnyRow, machine: str | None) -> str:
    """Return the whole ETag: `etag`, and what is published, rolled out, and offered."""
    offered = rollouts.offered(state, machine)
    offer = f"{state.newest_id or 0}.{state.percent}.{offered.id if offered else 0}"
    return f"{etag(state)}.{offer}"


def check_headers(name: str, profile: History | None) -> bool:
    """Check If-Match and If-None-Match; return whether If-Match names one state of the profile.

    `profile` is None where there is none. Raises ProfileChanged where one of them excludes the
    present state.
    """
    state = find(name) if profile else None
    check_match(name, state)
    excluded = request.if_none_match
    if state and (excluded.star_tag or etag(state) in _operators_part(excluded, weak=True)):
        raise _changed(name, state)
    return "If-Match" in request.headers and not request.if_match.star_tag


def check_match(name: str, state: AnyRow | None) -> None:
    """Raise ProfileChanged unless If-Match, if given, has the state; None: there is no profile."""
    if "If-Match" not in request.headers:
        return
    wanted = request.if_match
    if not (state and (wanted.star_tag or etag(state) in _operators_part(wanted))):
        raise _changed(name, state)


def check_seen(name: str, seen: str, profile: History | None) -> bool:
    """Return True where the profile still is in the state whose `etag` is `seen`; "" for none.

    Raises ProfileChanged.
    """
    state = find(name) if profile else None
    if seen != (etag(state) if state else ""):
        raise _changed(name, state)
    return True


def _operators_part(etags: ETags, *, weak: bool = False) -> set[str]:
    """Return the part of each ETag that `etag` returns; earlier versions sent only that."""
    return {".".join(each.split(".")[:3]) for each in etags.as_set(include_weak=weak)}


def _changed(name: str, state: AnyRow | None) -> errors.ProfileChanged:
    whole = f'"{etag_of_offer(state, None)}"' if state else "none"
    return errors.ProfileChanged(name=name, etag=whole)
