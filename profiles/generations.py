"""The routes of generations: list those of a profile, switch to one, roll back."""

from collections import defaultdict
from collections.abc import Collection
from functools import partial
from typing import Any

from flask import g
from sqlalchemy import select

import errors
from api import Blueprint, headers, page
from models import AnyRow, columns, db
from profiles import activation
from profiles import states as profile_states
from profiles.history import History
from profiles.models import Change, Generation
from profiles.schemas import GenerationQuerySchema, GenerationSchema, ProfileQuerySchema

blueprint = Blueprint(
    "generations",
    __name__,
    url_prefix="/api/v1",
    description="Generations of a profile, and a way back",
)

GENERATIONS = select(*columns(Generation))
REFUSALS = (
    errors.NoSuchProfile,
    errors.NoSuchGeneration,
    errors.ActivationRefused,
    errors.CheckFailed,
    errors.ProfileReplaced,
    errors.ProfileChanged,
    errors.NixFailed,
    errors.Busy,
    errors.FileUnusable,
)


@blueprint.get("/generations")
@blueprint.arguments(GenerationQuerySchema, location="query")
@blueprint.response(200, GenerationSchema(many=True), headers=headers("Link", "X-Total-Count"))
@blueprint.refuses(errors.NoSuchProfile)
def index(query: dict[str, Any]) -> Any:
    """List a profile's generations, newest first."""
    return listed(activation.find(query.pop("profile")), query)


def listed(profile: History, query: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return a page of a profile's generations, newest first, and its headers."""
    mine = Generation.profile_id == profile.id, Generation.id.not_in(profile.untrue())
    number = Generation.number
    rows, headers = page(GENERATIONS, query, *mine, key=number, newest_first=True, cursor="number")
    return _shown(profile, rows), headers


@blueprint.post("/generation/<id:number>/activate")
@blueprint.arguments(ProfileQuerySchema, location="query")
@blueprint.response(200, GenerationSchema)
@blueprint.refuses(*REFUSALS)
def activate(query: dict[str, Any], number: int) -> Any:
    """Switch to a generation; being there already is a success.

    If-Match and If-None-Match make it depend on the state of the profile, as they do for an apply.
    """
    profile = activation.find(query["profile"])
    activation.switch(profile, number, by=g.caller.label, check=_check(profile))
    return find(profile, number)


@blueprint.post("/generations/rollback")
@blueprint.arguments(ProfileQuerySchema, location="query")
@blueprint.response(200, GenerationSchema)
@blueprint.refuses(*REFUSALS)
def rollback(query: dict[str, Any]) -> Any:
    """Switch to the generation that was active before this one.

    If-Match and If-None-Match make it depend on the state of the profile, as they do for an apply.
    """
    profile = activation.find(query["profile"])
    number = activation.rollback(profile, by=g.caller.label, check=_check(profile))
    return find(profile, number)


def _check(profile: History) -> activation.Check:
    """Return the check that the profile is as If-Match and If-None-Match have it."""
    return partial(profile_states.check_headers, profile.name)


def find(profile: History, number: int) -> dict[str, Any]:
    """Return a generation as clients see it. Raises NoSuchGeneration."""
    mine = Generation.profile_id == profile.id, Generation.number == number
    row = db.session.execute(GENERATIONS.where(*mine)).one_or_none()
    if row is None:
        raise errors.NoSuchGeneration(number=number)
    return _shown(profile, [row])[0]


def _shown(profile: History, rows: list[AnyRow]) -> list[dict[str, Any]]:
    changes = _changes([row.id for row in rows])
    active = profile.current_number()

    return [
        {
            "number": row.number,
            "active": row.number == active,
            "created_at": row.created_at,
            "packages": [
                package | {"store_path": package["store_paths"][0]} for package in row.packages
            ],
            "changes": changes[row.id],
        }
        for row in rows
    ]


def _changes(generation_ids: Collection[int]) -> dict[int, list[AnyRow]]:
    """Return the switches to each of these generations, newest first."""
    is_theirs = Change.generation_id.in_(generation_ids)
    newest_first = select(*columns(Change)).where(is_theirs).order_by(Change.id.desc())
    changes = defaultdict(list)
    for row in db.session.execute(newest_first):
        changes[row.generation_id].append(row)
    return changes
