"""The routes of generations: list those of a profile, switch to one, roll back."""

from collections import defaultdict
from collections.abc import Collection
from typing import Any

from flask import g
from sqlalchemy import select

import activation
import errors
from api import Blueprint, headers, page
from history import History
from models import AnyRow, columns, db
from profile_models import Change, Generation
from profile_schemas import GenerationQuerySchema, GenerationSchema, ProfileQuerySchema

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
    profile = activation.find(query.pop("profile"))
    mine = Generation.profile_id == profile.id, Generation.id.not_in(profile.untrue())
    number = Generation.number
    rows, headers = page(GENERATIONS, query, *mine, key=number, newest_first=True, cursor="number")
    return _shown(profile, rows), headers


@blueprint.post("/generation/<id:number>/activate")
@blueprint.arguments(ProfileQuerySchema, location="query")
@blueprint.response(200, GenerationSchema)
@blueprint.refuses(*REFUSALS)
def activate(query: dict[str, Any], number: int) -> Any:
    """Switch to a generation; being there already is a success."""
    profile = activation.find(query["profile"])
    activation.switch(profile, number, by=g.caller.label)
    return _one(profile, number)


@blueprint.post("/generations/rollback")
@blueprint.arguments(ProfileQuerySchema, location="query")
@blueprint.response(200, GenerationSchema)
@blueprint.refuses(*REFUSALS)
def rollback(query: dict[str, Any]) -> Any:
    """Switch to the generation that was active before this one."""
    profile = activation.find(query["profile"])
    return _one(profile, activation.rollback(profile, by=g.caller.label))


def _one(profile: History, number: int) -> dict[str, Any]:
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
