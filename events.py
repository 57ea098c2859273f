"""The route of events: list them, and wait for new ones."""

from collections.abc import Sequence
from typing import Any

from flask import jsonify
from sqlalchemy import Select, select

import event_log
from api import Blueprint, headers, next_link
from event_log import Event, selected
from event_schemas import EventQuerySchema, EventSchema
from long_polling import wait_until
from models import AnyRow, columns, db

blueprint = Blueprint("events", __name__, url_prefix="/api/v1", description="What happened")

EVENTS: Select[Any] = select(*columns(Event))


@blueprint.get("/events")
@blueprint.arguments(EventQuerySchema, location="query")
@blueprint.response(200, EventSchema(many=True), headers=headers("Link", "Retry-After"))
def index(query: dict[str, Any]) -> Any:
    """List events, oldest first, or wait for those after one.

    They are numbered in the order in which they were committed: to ask again, with the last `seq`
    as `after`, misses none and repeats none. Numbers may be left out. Where too many requests wait
    already, the answer comes at once, with Retry-After.
    """
    limit, more = query["limit"], {}
    found = listed(query)
    if query["wait"] and not found:
        found_later = wait_until(bool, lambda: listed(query), query["wait"])
        found, more = found_later or [], {} if found_later is not None else {"Retry-After": "1"}
    shown = found[:limit]
    if len(found) > limit:
        more = {"Link": next_link(shown[-1].seq)}
    return jsonify(list(map(event_log.shown, shown))), more


def listed(query: dict[str, Any]) -> Sequence[AnyRow]:
    """Return the events of a page, and one more if there is one."""
    is_newest_first, after = query["newest_first"], query.get("after")
    events = EVENTS.order_by(Event.seq.desc() if is_newest_first else Event.seq)
    if after is not None:
        events = events.where(Event.seq < after if is_newest_first else Event.seq > after)
    if "types" in query:
        events = events.where(Event.type.in_(selected(query["types"])))
    return db.session.execute(events.limit(query["limit"] + 1)).all()
