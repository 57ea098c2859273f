"""The pages of webhooks: which there are, adding one, and what became of its deliveries."""

from typing import Any

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as WerkzeugResponse

from dashboard import once
from dashboard.forms import read
from dashboard.rendering import Entry, Fragment, fragment, page, send
from errors import ApiError
from event_log import EventType
from event_schemas import GROUPS
from webhooks import routes as webhooks
from webhooks.models import Webhook
from webhooks.schemas import EnableSchema, WebhookInSchema

pages = Blueprint("webhooks", __name__)
entry = Entry("Webhooks", "dashboard.access.webhooks.index")

NEW = WebhookInSchema()
HOW = EnableSchema()


@pages.get("/access/webhooks")
def index() -> Response:
    """Show the webhooks, and the form for a new one."""
    return _list()


@pages.get("/parts/webhooks")
def listed() -> Response:
    """Send the part that lists them."""
    return send(_listed())


@pages.post("/access/webhooks")
def add() -> Response:
    """Add a webhook, and show its secret in this one answer."""
    try:
        fields = read(NEW, once.sent("types"))
        once.check(Webhook.id)
        return page("webhook_added.html", webhook=webhooks.add(**fields))
    except ApiError as error:
        return _list(error)


@pages.get("/access/webhooks/<id:webhook_id>")
def show(webhook_id: int) -> Response:
    """Show a webhook with its last deliveries."""
    return page("webhook.html", webhook=webhooks.find(webhook_id), state=_state(webhook_id))


@pages.get("/parts/webhook/<id:webhook_id>")
def state(webhook_id: int) -> Response:
    """Send the part that changes with each delivery."""
    return send(_state(webhook_id))


@pages.post("/access/webhooks/<id:webhook_id>/test")
def test(webhook_id: int) -> WerkzeugResponse:
    """Send a test; what became of it is the newest delivery on the page."""
    webhooks.send_test(webhook_id)
    return _to(webhook_id)


@pages.post("/access/webhooks/<id:webhook_id>/enable")
def enable(webhook_id: int) -> WerkzeugResponse:
    """Go on sending, with what it lacks or with what happens from now on."""
    webhooks.resume(webhook_id, read(HOW, request.form)["start"])
    return _to(webhook_id)


@pages.get("/access/webhooks/<id:webhook_id>/remove")
def ask(webhook_id: int) -> Response:
    """Show which webhook would be removed, with the button that does."""
    return page("webhook_remove.html", webhook=webhooks.find(webhook_id))


@pages.post("/access/webhooks/<id:webhook_id>/remove")
def remove(webhook_id: int) -> WerkzeugResponse:
    """Remove a webhook."""
    webhooks.remove(webhook_id)
    return redirect(url_for(".index"), 303)


def _to(webhook_id: int) -> WerkzeugResponse:
    return redirect(url_for(".show", webhook_id=webhook_id), 303)


def _list(fault: ApiError | None = None) -> Response:
    values = {
        "listed": _listed(),
        "types": EventType,
        "groups": GROUPS,
        "newest": once.newest(Webhook.id),
        "given": request.form,
        "fault": fault,
    }
    return page("webhooks.html", status=fault.status if fault else 200, **values)


def _listed() -> Fragment:
    def gather() -> dict[str, Any]:
        rows, _ = webhooks.listed({"limit": webhooks.MAX_WEBHOOKS})
        return {"webhooks": rows}

    return fragment("dashboard.access.webhooks.listed", "webhooks_list.html", gather)


def _state(webhook_id: int) -> Fragment:
    def gather() -> dict[str, Any]:
        return {"webhook": webhooks.find(webhook_id)}

    return fragment(
        "dashboard.access.webhooks.state", "webhook_state.html", gather, webhook_id=webhook_id
    )
