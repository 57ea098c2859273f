"""The routes of machines that follow profiles: report, list, show, remove."""

from functools import cache
from typing import Any

from flask import g
from sqlalchemy import ColumnElement, bindparam, exists, false, func, or_, select
from sqlalchemy.exc import IntegrityError

import errors
from api import Blueprint, headers, page
from fields import MACHINE_NAME, MACHINE_NAME_ERROR
from machines import events as machine_events
from machines import rollouts
from machines import states as machine_states
from machines.models import Machine, ReportedState
from machines.schemas import MachineQuerySchema, MachineSchema, ReportSchema
from models import AnyRow, Scope, Token, UtcDateTime, db, upsert, utcnow
from profiles.models import Profile
from schemas import EmptySchema

blueprint = Blueprint(
    "machines", __name__, url_prefix="/api/v1", description="Machines that follow a profile"
)

MACHINES_OF_A_TOKEN = 10_000  # so that a stolen token can't fill the database
REPORTED = (
    *("name", "place", "generation", "store_path", "reported", "error", "seen_at", "token_id"),
)


@blueprint.get("/machines")
@blueprint.arguments(MachineQuerySchema, location="query")
@blueprint.response(200, MachineSchema(many=True), headers=headers("Link", "X-Total-Count"))
def index(query: dict[str, Any]) -> Any:
    """List the machines that have reported, by name."""
    return listed(query)


@blueprint.get("/machine/<machine_name>")
@blueprint.response(200, MachineSchema)
@blueprint.refuses(errors.NoSuchMachine, errors.NotYourMachine)
def show(machine_name: str) -> Any:
    """Show a machine; to a token of scope `sync`, its own alone."""
    return find(machine_name, *_is_ours())


@blueprint.put("/machine/<machine_name>")
@blueprint.arguments(ReportSchema)
@blueprint.response(200, MachineSchema)
@blueprint.refuses(errors.NoSuchProfile, errors.NotYourMachine, errors.TooManyMachines)
def report(fields: dict[str, Any], machine_name: str) -> Any:
    """Report what a machine holds; one that isn't known yet becomes so.

    The name then belongs to the token of scope `sync` that reports it, until that expires or is
    revoked.
    """
    if not MACHINE_NAME.fullmatch(machine_name):
        raise errors.InvalidInput(errors={"name": [MACHINE_NAME_ERROR]})
    try:
        is_written = _write(machine_name, fields)
    except IntegrityError:  # the profile was deleted meanwhile
        db.session.rollback()
        is_written = _write(machine_name, fields)
    if not is_written:
        raise _refusal(machine_name, fields["profile"])
    return find(machine_name)


@blueprint.delete("/machine/<machine_name>")
@blueprint.response(200, EmptySchema)
@blueprint.refuses(errors.NoSuchMachine)
def remove(machine_name: str) -> Any:
    """Forget a machine; it is there again once it reports."""
    forget(machine_name)
    return {}


# --- What these routes do, and the dashboard's, too ---


def listed(query: dict[str, Any]) -> tuple[list[AnyRow], dict[str, str]]:
    """Return one page of the machines, by name, and its headers.

    `query` may have a `profile` and a `state` that they are to have.
    """
    where = []
    if "profile" in query:
        where.append(machine_states.of_profile(query["profile"]))
    if "state" in query:
        where.append(machine_states.in_state(query["state"]))
    return page(machine_states.MACHINES, query, *where, key=Machine.name, cursor="name")


def find(name: str, *where: ColumnElement[bool]) -> AnyRow:
    """Return a machine. Raises NoSuchMachine, or NotYourMachine where `where` leaves it out."""
    if not MACHINE_NAME.fullmatch(name):
        raise errors.NoSuchMachine(name=name)
    mine = machine_states.MACHINES.where(Machine.name == name)
    row = db.session.execute(mine.where(*where)).one_or_none()
    if row is None and where and db.session.execute(mine).one_or_none():
        raise errors.NotYourMachine(name=name)
    if row is None:
        raise errors.NoSuchMachine(name=name)
    return row


def forget(name: str) -> None:
    """Forget a machine. Raises NoSuchMachine."""
    is_name = MACHINE_NAME.fullmatch(name)
    if not is_name or not machine_events.remove(Machine.name == name):
        raise errors.NoSuchMachine(name=name)
    db.session.commit()


# --- Parts of them ---


def _is_ours() -> list[ColumnElement[bool]]:
    """Return what restricts a caller of scope `sync` to its own machines; nothing for others."""
    return [Machine.token_id == g.caller.id] if g.caller.scope == Scope.SYNC else []


def _write(name: str, fields: dict[str, Any]) -> bool:
    """Write a report by one statement; return False where it is refused: `_refusal` says why."""
    is_sync = g.caller.scope == Scope.SYNC
    now = utcnow()
    values = {
        "now": now,
        "limit": MACHINES_OF_A_TOKEN,
        "profile": fields["profile"],
        "name": name,
        "place": rollouts.place_of(fields["profile"], name),
        "generation": fields["generation"],
        "store_path": fields["store_path"],
        "reported": fields["state"],
        "error": fields["error"] or None,
        "seen_at": now,
        "token_id": g.caller.id if is_sync else None,
    }
    statement = _upsert(db.engine.dialect.name, is_sync)
    has_failed = fields["state"] == ReportedState.FAILED
    before = machine_events.locked(name) if has_failed else None
    # By the connection: a session takes an INSERT that comes with values for a bulk insert.
    written = db.session.connection().execute(statement, values).one_or_none()
    if written and has_failed:
        machine_events.tell_failure(written.id, before)
    db.session.commit()
    return written is not None


@cache
def _upsert(_dialect: str, is_sync: bool) -> Any:
    """Return the statement, built once: building costs more than executing.

    A report by an operator doesn't change which token the name belongs to.
    """
    given = {key: bindparam(key, type_=getattr(Machine, key).type) for key in REPORTED}
    reported = select(Profile.id, *given.values()).where(Profile.name == bindparam("profile"))
    if is_sync:
        is_known = exists().where(Machine.name == bindparam("name"))
        mine = select(func.count(Machine.id)).where(Machine.token_id == bindparam("token_id"))
        reported = reported.where(is_known | (mine.scalar_subquery() < bindparam("limit")))
    new = upsert(Machine).from_select(["profile_id", *given], reported)
    kept = {"name"} if is_sync else {"name", "token_id"}
    changed = {key: new.excluded[key] for key in ("profile_id", *given) if key not in kept}
    changed["is_silence_told"] = false()
    is_live = Token.revoked_at.is_(None), Token.expires_at > bindparam("now", type_=UtcDateTime)
    is_free = or_(
        Machine.token_id == new.excluded.token_id,
        Machine.token_id.is_(None),
        Machine.token_id.not_in(select(Token.id).where(*is_live)),
    )
    return new.on_conflict_do_update(
        index_elements=[Machine.name], set_=changed, where=is_free if is_sync else None
    ).returning(Machine.id)


def _refusal(name: str, profile: str) -> errors.ApiError:
    """Return the error for a report that was not written."""
    if db.session.scalar(select(Profile.id).where(Profile.name == profile)) is None:
        return errors.NoSuchProfile(name=profile)
    if db.session.scalar(select(Machine.id).where(Machine.name == name)) is None:
        return errors.TooManyMachines(limit=MACHINES_OF_A_TOKEN)
    return errors.NotYourMachine(name=name)
