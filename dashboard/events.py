"""The page of events: who did what, when, from where, to what."""

import json
from typing import Any

from flask import Blueprint, Response, request, url_for
from marshmallow import fields, validate

import event_log
import events
from dashboard.forms import read
from dashboard.rendering import Entry, Fragment, fragment, page, send
from event_log import EventType
from event_schemas import GROUPS
from fields import MAX_OFFSET, Page, QueryInteger

pages = Blueprint("events", __name__)
entry = Entry("Events", "dashboard.access.events.index")


class FilterSchema(Page):
    """Which events to show: of a type or group of types, older than one."""

    type = fields.String(validate=validate.OneOf([*GROUPS, *EventType]))
    after = QueryInteger(validate=validate.Range(0, MAX_OFFSET))


FILTER = FilterSchema()


@pages.get("/access/events")
def index() -> Response:
    """Show events, the newest first."""
    asked = read(FILTER, request.args)
    return page("events.html", asked=asked, types=[*GROUPS, *EventType], listed=_listed(asked))


@pages.get("/parts/events")
def listed() -> Response:
    """Send the part that lists them."""
    return send(_listed(read(FILTER, request.args)))


def _listed(asked: dict[str, Any]) -> Fragment:
    query = {"newest_first": True, **asked}
    if "type" in asked:
        query["types"] = [query.pop("type")]

    def gather() -> dict[str, Any]:
        found = events.listed(query)
        rows = found[: asked["limit"]]
        older = {**asked, "after": rows[-1].seq} if len(found) > len(rows) else None
        next_url = older and url_for("dashboard.access.events.index", **older)
        whole = {
            row.seq: json.dumps(event_log.shown(row), indent=2, ensure_ascii=False) for row in rows
        }
        return {"events": rows, "whole": whole, "next_url": next_url}

    return fragment("dashboard.access.events.listed", "events_list.html", gather, **asked)
