"""The routes of the profile's generations: list, switch, roll back."""

from collections import defaultdict
from collections.abc import Collection
from typing import Any

from flask import g
from sqlalchemy import select

import errors
import history
import profiles
from api import Blueprint, headers, page
from models import AnyRow, Change, Generation, columns, db
from schemas import GenerationQuerySchema, GenerationSchema

blueprint = Blueprint(
    "generations", __name__, url_prefix="/api/v1", description="The profile, and a way back"
)

GENERATIONS = select(*columns(Generation))
REFUSALS = (
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
def index(query: dict[str, Any]) -> Any:
    """List the profile's generations, newest first."""
    is_true = Generation.id.not_in(history.untrue())
    number = Generation.number
    rows, headers = page(
        GENERATIONS, query, is_true, key=number, newest_first=True, cursor="number"
    )
    return _shown(rows), headers


@blueprint.post("/generation/<id:number>/activate")
@blueprint.response(200, GenerationSchema)
@blueprint.refuses(*REFUSALS)
def activate(number: int) -> Any:
    """Switch to a generation; being there already is a success."""
    profiles.switch(number, by=g.caller.label)
    return _one(number)


@blueprint.post("/generations/rollback")
@blueprint.response(200, GenerationSchema)
@blueprint.refuses(*REFUSALS)
def rollback() -> Any:
    """Switch to the generation that was active before this one."""
    return _one(profiles.rollback(by=g.caller.label))


def _one(number: int) -> dict[str, Any]:
    row = db.session.execute(GENERATIONS.where(Generation.number == number)).one_or_none()
    if row is None:
        raise errors.NoSuchGeneration(number=number)
    return _shown([row])[0]


def _shown(rows: list[AnyRow]) -> list[dict[str, Any]]:
    changes = _changes([row.id for row in rows])
    active = history.current_number()

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
