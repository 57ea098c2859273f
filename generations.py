"""The routes of the profile's generations: list, switch, roll back."""

from collections import defaultdict
from collections.abc import Collection
from typing import Any

from flask import g
from sqlalchemy import Row, select

import profiles
from blueprints import Blueprint, headers
from models import Change, Generation, db
from paging import paginate
from schemas import GenerationQuerySchema, GenerationSchema

blueprint = Blueprint(
    "generations", __name__, url_prefix="/api/v1", description="The profile, and a way back"
)


@blueprint.get("/generations")
@blueprint.arguments(GenerationQuerySchema, location="query")
@blueprint.response(200, GenerationSchema(many=True), headers=headers("Link", "X-Total-Count"))
def index(query: dict[str, Any]) -> Any:
    """List the profile's generations, newest first."""
    rows, headers = paginate(
        select(Generation.__table__, Generation.number.label("id")),
        key=Generation.__table__.c.number,
        after=query.get("after"),
        limit=query["limit"],
        newest_first=True,
    )
    return _shown(rows), headers


@blueprint.post("/generation/<id:number>/activate")
@blueprint.response(200, GenerationSchema)
@blueprint.refuses("no-such-generation", "check-failed", "nix-failed")
def activate(number: int) -> Any:
    """Switch to a generation; being there already is a success."""
    profiles.switch(number, by=g.caller.label)
    return _one(number)


@blueprint.post("/generations/rollback")
@blueprint.response(200, GenerationSchema)
@blueprint.refuses("no-such-generation", "check-failed", "nix-failed")
def rollback() -> Any:
    """Switch to the generation that was active before this one."""
    return _one(profiles.rollback(by=g.caller.label))


def _one(number: int) -> dict[str, Any]:
    wanted = select(Generation.__table__).where(Generation.number == number)
    return _shown([db.session.execute(wanted).one()])[0]


def _shown(rows: list[Row[Any]]) -> list[dict[str, Any]]:
    changes = _changes([row.number for row in rows])
    active = profiles.current()
    return [
        {
            "number": row.number,
            "active": row.number == active,
            "created_at": row.created_at,
            "packages": [
                package | {"store_path": package["store_paths"][0]} for package in row.packages
            ],
            "changes": changes[row.number],
        }
        for row in rows
    ]


def _changes(numbers: Collection[int]) -> dict[int, list[Row[Any]]]:
    newest_first = (
        select(Change.__table__).where(Change.generation.in_(numbers)).order_by(Change.id.desc())
    )
    changes = defaultdict(list)
    for row in db.session.execute(newest_first):
        changes[row.generation].append(row)
    return changes
