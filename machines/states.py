"""The states of machines, computed by the database at each read: listed, counted, and required."""

from collections import defaultdict
from datetime import datetime
from typing import Any

from flask import current_app
from sqlalchemy import ColumnElement, Select, String, bindparam, case, exists, func, literal, select

from errors import MachinesNotCurrent
from machines import rollouts
from machines.models import Machine, MachineState, ReportedState
from models import UtcDateTime, db, soon
from profiles.history import History
from profiles.models import Profile

Counts = dict[str, int]

NAMED = 5  # how many machines a refusal names
# Computed once for each profile, not for each machine.
OFFERS = rollouts.OFFERS.cte("offers").prefix_with("MATERIALIZED")
OFFERED_PATH = rollouts.offered_column(OFFERS, "path")


def _heard_before() -> datetime:
    """Return the time since when a machine has to have been heard of, else it is silent."""
    return soon(-current_app.config["MACHINE_SILENT_SECONDS"])


def _text(state: MachineState) -> ColumnElement[str]:
    return literal(state.value, String)


STATE = case(
    (
        Machine.seen_at < bindparam("heard_before", callable_=_heard_before, type_=UtcDateTime),
        _text(MachineState.SILENT),
    ),
    (Machine.reported == ReportedState.FAILED, _text(MachineState.FAILED)),
    (OFFERED_PATH.is_(None), _text(MachineState.CURRENT)),
    (Machine.store_path == OFFERED_PATH, _text(MachineState.CURRENT)),
    else_=_text(MachineState.BEHIND),
).label("state")
# What clients see.
MACHINES: Select[Any] = select(
    *(Machine.name, Machine.generation, Machine.store_path, Machine.error, Machine.seen_at),
    *(OFFERS.c.name.label("profile"), STATE, OFFERED_PATH.label("offered_path")),
    rollouts.offered_column(OFFERS, "number").label("offered_number"),
).join(OFFERS, OFFERS.c.id == Machine.profile_id)
IDS = select(Machine.id).join(OFFERS, OFFERS.c.id == Machine.profile_id)


def _counted(*by: Any) -> Select[Any]:
    counted = select(*by, STATE, func.count().label("machines"))
    return counted.join(OFFERS, OFFERS.c.id == Machine.profile_id).group_by(*by, STATE)


BY_STATE = _counted()
BY_PROFILE = _counted(Machine.profile_id)


def of_profile(name: str) -> ColumnElement[bool]:
    """Return what selects the machines of a profile."""
    mine = select(Profile.id).where(Profile.name == name)
    return Machine.profile_id == mine.scalar_subquery()


def in_state(state: MachineState) -> ColumnElement[bool]:
    """Return what selects the machines in a state."""
    return Machine.id.in_(IDS.where(_text(state) == STATE))


def counts(*where: ColumnElement[bool]) -> dict[int, Counts]:
    """Return how many machines are in each state, by the id of their profile."""
    found: dict[int, Counts] = defaultdict(none)
    for row in db.session.execute(BY_PROFILE.where(*where)):
        found[row.profile_id][row.state] = row.machines
    return found


def none() -> Counts:
    """Return the counts of a profile without machines."""
    return {state.value: 0 for state in MachineState}


def are_there() -> bool:
    """Tell whether any machine has reported."""
    return bool(db.session.scalar(select(exists(select(Machine.id)))))


def followed() -> list[dict[str, Any]]:
    """Return what each profile that has machines, or a rollout, offers to how many of them."""
    found = counts()
    return [
        {
            "name": row.name,
            "offered": rollouts.newest(row),
            "rest": rollouts.rest(row),
            "percent": row.percent,
            "machines": found[row.id],
        }
        for row in db.session.execute(rollouts.OFFERS.order_by(Profile.id))
        if row.id in found or row.percent < rollouts.ALL
    ]


def require_current(profile: History) -> None:
    """Raise MachinesNotCurrent unless the machines of a profile prove its active generation.

    Each that was heard of lately must hold what it is offered, and at least one the active
    generation: neither silence nor the older generation of a rollout proves anything.
    """
    found = counts(Machine.profile_id == profile.id)[profile.id]
    failed, behind = found[MachineState.FAILED], found[MachineState.BEHIND]
    if failed or behind:
        heard = failed + behind + found[MachineState.CURRENT]
        said = [f"{failed} failed"] * bool(failed) + [f"{behind} behind"] * bool(behind)
        why = f"of {heard} heard of lately, {' and '.join(said)}: {_first_names(profile)}"
        raise MachinesNotCurrent(name=profile.name, why=why)

    now = profile.current()
    held = Machine.profile_id == profile.id, Machine.store_path == (now and now[1])
    if not counts(*held)[profile.id][MachineState.CURRENT]:
        why = "none that was heard of lately holds its active generation"
        raise MachinesNotCurrent(name=profile.name, why=why)


def _first_names(profile: History) -> str:
    """Name some of the machines that are failed or behind, the failed ones first."""
    failing = STATE.in_([MachineState.FAILED.value, MachineState.BEHIND.value])
    listed = MACHINES.where(Machine.profile_id == profile.id, failing)
    in_order = listed.order_by(STATE.desc(), Machine.name).limit(NAMED + 1)
    names = [f"{row.name} ({row.state})" for row in db.session.execute(in_order)]
    return ", ".join([*names[:NAMED], *["…"] * (len(names) > NAMED)])
