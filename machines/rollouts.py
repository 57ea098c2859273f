"""Which generation a machine is offered: a published one, by the rollout of its profile.

The newest is the published generation that was active last. All machines are offered it or, during
a rollout to N percent, that share of them, by a hash of the names of profile and machine: a machine
in one share is in every larger one. The rest is offered what all were before the rollout, however
often the profile changes meanwhile, until the percentage grows to include it.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, case, delete, exists, func, select
from sqlalchemy.orm import aliased

from machines.models import Machine, Rollout
from models import AnyRow, columns, db, upsert
from profiles import events as profile_events
from profiles.history import History
from profiles.models import Change, Generation, Profile

ALL = 100
NEWEST, REST = aliased(Generation, name="newest"), aliased(Generation, name="rest")
# What `with_offers` adds to a select of profiles.
COLUMNS = (
    NEWEST.id.label("newest_id"),
    NEWEST.number.label("newest_number"),
    NEWEST.store_path.label("newest_path"),
    REST.id.label("rest_id"),
    REST.number.label("rest_number"),
    REST.store_path.label("rest_path"),
    func.coalesce(Rollout.percent, ALL).label("percent"),
)


@dataclass(frozen=True)
class Offer:
    """A generation that machines are to hold."""

    id: int
    generation: int
    store_path: str


def place_of(profile: str, machine: str) -> int:
    """Return the place of a machine in the rollouts of a profile, from 0 to 99."""
    digest = hashlib.sha256(f"{profile}/{machine}".encode()).digest()
    return int.from_bytes(digest[:8]) % ALL


def with_offers(profiles: Select[Any]) -> Select[Any]:
    """Add to a select of profiles what they offer, in COLUMNS."""
    generation = aliased(Generation)
    last = select(func.max(Change.id)).join(generation, generation.id == Change.generation_id)
    mine = generation.profile_id == Profile.id, generation.published_at.is_not(None)
    last_change = last.where(*mine).correlate(Profile).scalar_subquery()
    newest = select(Change.generation_id).where(Change.id == last_change)
    return (
        profiles.add_columns(*COLUMNS)
        .outerjoin(NEWEST, NEWEST.id == newest.correlate(Profile).scalar_subquery())
        .outerjoin(Rollout, Rollout.profile_id == Profile.id)
        .outerjoin(REST, REST.id == Rollout.generation_id)
    )


OFFERS = with_offers(select(*columns(Profile)).select_from(Profile))


def newest(row: AnyRow) -> Offer | None:
    """Return what the share is offered: all machines, without a rollout."""
    return _offer(row.newest_id, row.newest_number, row.newest_path)


def rest(row: AnyRow) -> Offer | None:
    """Return what the rest is offered while there is a rollout."""
    return _offer(row.rest_id, row.rest_number, row.rest_path)


def offered(row: AnyRow, machine: str | None) -> Offer | None:
    """Return what a machine, or without a name the share, is offered; None: keep what it has."""
    is_in_share = machine is None or place_of(row.name, machine) < row.percent
    return newest(row) if is_in_share else rest(row)


def _offer(generation_id: int | None, number: int, store_path: str) -> Offer | None:
    return None if generation_id is None else Offer(generation_id, number, store_path)


def offered_column(offers: Any, what: str) -> ColumnElement[Any]:
    """Return the column `number` or `path` of a machine's offer, from a subquery of OFFERS."""
    is_in_share = Machine.place < offers.c.percent
    return case((is_in_share, offers.c[f"newest_{what}"]), else_=offers.c[f"rest_{what}"])


def set_percent(profile: History, percent: int) -> None:
    """Offer the newest generation to this share of the machines, and commit."""
    if percent == ALL:
        ended = delete(Rollout).where(Rollout.profile_id == profile.id)
        changed = ended.returning(Rollout.profile_id)
    else:
        held = _to_be_held(profile)
        new = upsert(Rollout).values(profile_id=profile.id, percent=percent, generation_id=held)
        # The rest keeps what it is offered: generation_id is not updated.
        changed = new.on_conflict_do_update(
            index_elements=[Rollout.profile_id],
            set_={"percent": percent},
            where=Rollout.percent != percent,
        ).returning(Rollout.profile_id)
    if db.session.execute(changed).one_or_none() is not None:
        profile_events.tell_rollout(profile, percent)
    db.session.commit()


def _to_be_held(profile: History) -> int | None:
    """Return the generation that the rest is offered when a rollout begins.

    That is what all are offered now, so that a percentage set before a change moves no machine. But
    while no machine holds that generation, it is the one before: the percentage is then meant for
    the newest.
    """
    published = (
        select(Generation.id, Generation.store_path)
        .join(Change, Change.generation_id == Generation.id)
        .where(Generation.profile_id == profile.id, Generation.published_at.is_not(None))
        .order_by(Change.id.desc())
    )
    now: AnyRow | None = None
    for row in db.session.execute(published):
        if now is None:
            now = row
            held = exists().where(
                Machine.profile_id == profile.id, Machine.store_path == row.store_path
            )
            if db.session.scalar(select(held)):
                return int(row.id)
        elif row.store_path != now.store_path:
            return int(row.id)
    return None


def offered_numbers(profile: History) -> set[int]:
    """Return the numbers of the generations that machines of a profile are offered."""
    row = db.session.execute(OFFERS.where(Profile.id == profile.id)).one_or_none()
    offers = (newest(row), rest(row)) if row else ()
    return {offer.generation for offer in offers if offer}
