"""The routes of webhooks: add, list, show, test, enable, remove."""

import base64
import secrets
import threading
from collections.abc import Collection
from typing import Any

from flask import g
from sqlalchemy import delete, func, insert, literal, select, update

import errors
import event_log
import services
from api import Blueprint, headers, page
from event_log import Event, EventType
from fields import rfc3339
from models import NO_SYNC, AnyRow, columns, db, utcnow
from schemas import EmptySchema
from webhooks import deliveries
from webhooks.answers import Stopped
from webhooks.models import Delivery, Webhook, WebhookState
from webhooks.schemas import (
    AddedWebhookSchema,
    DeliverySchema,
    EnableSchema,
    From,
    WebhookInSchema,
    WebhookQuerySchema,
    WebhookSchema,
    WholeWebhookSchema,
)
from worker import Pool

blueprint = Blueprint(
    "webhooks", __name__, url_prefix="/api/v1", description="URLs that are told of events"
)

MAX_WEBHOOKS = 50
SECRET_BYTES = 32
# A test takes a thread of a request until the receiver has answered, 15 s at most.
TESTS_AT_ONCE = 2


class TestSlots(threading.BoundedSemaphore):
    """How many webhooks of this process may be tested at once."""

    __test__ = False  # it is none of pytest's


@blueprint.get("/webhooks")
@blueprint.arguments(WebhookQuerySchema, location="query")
@blueprint.response(200, WebhookSchema(many=True), headers=headers("Link", "X-Total-Count"))
def index(query: dict[str, Any]) -> Any:
    """List the webhooks, their URLs without queries."""
    return listed(query)


@blueprint.post("/webhooks")
@blueprint.arguments(WebhookInSchema)
@blueprint.response(201, AddedWebhookSchema)
@blueprint.refuses(errors.TooManyWebhooks)
def create(fields: dict[str, Any]) -> Any:
    """Add a webhook, which is told of all events from now on, one at a time, in their order.

    The answer is the only one that ever shows its secret.
    """
    return add(**fields)


@blueprint.get("/webhook/<id:webhook_id>")
@blueprint.response(200, WholeWebhookSchema)
@blueprint.refuses(errors.NoSuchWebhook)
def show(webhook_id: int) -> Any:
    """Show a webhook, with what was sent to it lately."""
    return find(webhook_id)


@blueprint.delete("/webhook/<id:webhook_id>")
@blueprint.response(200, EmptySchema)
@blueprint.refuses(errors.NoSuchWebhook)
def forget(webhook_id: int) -> Any:
    """Remove a webhook."""
    remove(webhook_id)
    return {}


@blueprint.post("/webhook/<id:webhook_id>/test")
@blueprint.response(200, DeliverySchema)
@blueprint.refuses(errors.NoSuchWebhook, errors.Busy)
def test(webhook_id: int) -> Any:
    """Send the event `webhook.test` now, and tell how that went; a disabled one can be tested, too.

    It is sent once, and changes nothing of what the webhook is told of.
    """
    return send_test(webhook_id)


@blueprint.post("/webhook/<id:webhook_id>/enable")
@blueprint.arguments(EnableSchema, required=False)
@blueprint.response(200, WebhookSchema)
@blueprint.refuses(errors.NoSuchWebhook)
def enable(fields: dict[str, Any], webhook_id: int) -> Any:
    """Enable a disabled webhook, or have one that fails tried again now.

    It goes on where it was, as far as events are kept (EVENT_DAYS), or with what happens from now
    on.
    """
    return resume(webhook_id, fields["start"])


# --- What the routes do ---


def listed(query: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return one page of the webhooks, their URLs without queries, and its headers."""
    rows, headers = page(select(*columns(Webhook, "secret")), query, key=Webhook.id)
    return [_shown(row) | {"url": listed_url(row.url)} for row in rows], headers


def find(webhook_id: int) -> dict[str, Any]:
    """Return a webhook with what was sent to it lately. Raises NoSuchWebhook."""
    mine = select(*columns(Delivery)).where(Delivery.webhook_id == webhook_id)
    shown = _shown(_webhook(webhook_id))
    return shown | {"deliveries": db.session.execute(mine.order_by(Delivery.id.desc())).all()}


def add(url: str, types: Collection[str] = (), secret: str | None = None) -> dict[str, Any]:
    """Add a webhook, and return what is shown of it, with its secret. Raises TooManyWebhooks."""
    key = base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    values = {
        "url": url,
        "types": list(types),
        "secret": secret or deliveries.SECRET_PREFIX + key,
    }
    now = {"created_at": utcnow(), "next_at": utcnow(), "failures": 0}
    given = [literal(value, getattr(Webhook, name).type) for name, value in (values | now).items()]
    is_room = select(func.count(Webhook.id)).scalar_subquery() < MAX_WEBHOOKS
    added = select(*given, _newest()).where(is_room)
    new = insert(Webhook).from_select([*values, *now, "cursor"], added, include_defaults=False)
    row = db.session.execute(new.returning(*columns(Webhook))).one_or_none()
    if row is None:
        db.session.rollback()
        raise errors.TooManyWebhooks(limit=MAX_WEBHOOKS)
    _tell(EventType.WEBHOOK_ADDED, row)
    db.session.commit()
    return _shown(row) | {"secret": row.secret}


def remove(webhook_id: int) -> None:
    """Remove a webhook. Raises NoSuchWebhook."""
    removed = delete(Webhook).where(Webhook.id == webhook_id).returning(Webhook.id, Webhook.url)
    row = db.session.execute(removed, execution_options=NO_SYNC).one_or_none()
    if row is None:
        db.session.rollback()
        raise errors.NoSuchWebhook(webhook_id=webhook_id)
    _tell(EventType.WEBHOOK_REMOVED, row)
    db.session.commit()


def resume(webhook_id: int, start: From | None = None) -> dict[str, Any]:
    """Enable a webhook, and return what is shown of it. Raises NoSuchWebhook."""
    this, is_disabled = Webhook.id == webhook_id, Webhook.disabled_at.is_not(None)
    freed = update(Webhook).where(this, is_disabled).values(disabled_at=None).returning(Webhook.id)
    was_disabled = db.session.execute(freed, execution_options=NO_SYNC).one_or_none() is not None
    # What a sender is about to write no longer counts.
    values = {
        **dict.fromkeys(("disabled_reason", "failing_since"), None),
        **dict.fromkeys(("lease_holder", "lease_until"), None),
        "failures": 0,
        "next_at": utcnow(),
        "cursor": _newest() if start == From.NOW else Webhook.cursor,
    }
    enabled = update(Webhook).where(this).values(values)
    enabled = enabled.returning(*columns(Webhook, "secret"))
    row = db.session.execute(enabled, execution_options=NO_SYNC).one_or_none()
    if row is None:
        db.session.rollback()
        raise errors.NoSuchWebhook(webhook_id=webhook_id)
    if was_disabled or start == From.NOW:  # else it is only tried at once
        _tell(EventType.WEBHOOK_ENABLED, row)
    db.session.commit()
    return _shown(row)


def send_test(webhook_id: int) -> AnyRow:
    """Send a test, and return the delivery. Raises NoSuchWebhook, or Busy."""
    webhook = _webhook(webhook_id)
    db.session.rollback()
    slots = services.get(TestSlots)
    if not slots.acquire(blocking=False):
        raise errors.Busy(what="other webhooks are being tested")
    try:
        body = deliveries.body_of(_test_event(webhook))
        stopping = services.get(Pool).stopping
        ended = deliveries.attempt(webhook, f"test_{g.request_id}", body, stopping)
    except Stopped:
        raise errors.Busy(what="the service stops") from None
    finally:
        slots.release()
    _webhook(webhook_id)  # which may have been removed meanwhile
    delivery = deliveries.note(webhook_id, deliveries.TEST, ended)
    db.session.commit()
    return delivery


def listed_url(url: str) -> str:
    """Return a URL for a list; what its query says may be a secret."""
    path, mark, _ = url.partition("?")
    return f"{path}?…" if mark else path


def _webhook(webhook_id: int) -> AnyRow:
    row = db.session.execute(select(*columns(Webhook)).filter_by(id=webhook_id)).one_or_none()
    if row is None:
        raise errors.NoSuchWebhook(webhook_id=webhook_id)
    return row


def _newest() -> Any:
    """Select the number of the newest event, or 0."""
    return select(func.coalesce(func.max(Event.seq), 0)).scalar_subquery()


def _tell(kind: EventType, webhook: AnyRow) -> None:
    about = deliveries.subject(webhook)
    event_log.add(kind, about, {"url": event_log.site(webhook.url)})


def _test_event(webhook: AnyRow) -> dict[str, Any]:
    """Return what a test tells of, in the form of an event; it is in no list."""
    by = event_log.actor()
    return {
        "seq": None,
        "at": rfc3339(utcnow()),
        "type": deliveries.TEST,
        "by": {key: value for key, value in by.items() if key != "from"},
        "from": by["from"],
        "subject": deliveries.subject(webhook),
        "data": {},
        "request_id": g.request_id,
    }


def _shown(row: AnyRow) -> dict[str, Any]:
    state = WebhookState.FAILING if row.failures else WebhookState.ACTIVE
    if row.disabled_at:
        state = WebhookState.DISABLED
    next_at = row.next_at if state == WebhookState.FAILING else None
    return row._asdict() | {"state": state, "next_at": next_at}
