"""Telling webhooks of events: each of its own, one at a time, in their order, at least once.

A sender claims one webhook that is due, by a lease, and sends it the next event. What it writes
then is fenced: it counts only while the lease is the webhook's. A webhook whose delivery failed is
tried again with growing pauses, and the events after wait. The messages are those of Standard
Webhooks (standardwebhooks.com).
"""

import base64
import hmac
import importlib
import json
import logging
import random
import time
import uuid
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from http import HTTPStatus
from threading import Event as Flag
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from flask import current_app
from sqlalchemy import Select, case, delete, func, insert, or_, select, update
from sqlalchemy.orm import aliased
from werkzeug.http import parse_date

import event_log
import last_writes
from config import DAY, VERSION
from database import reading
from event_log import Event, EventType
from models import NO_SYNC, AnyRow, columns, db, soon, upsert, utcnow
from webhooks.answers import Answer, NotDelivered, Stopped
from webhooks.models import Delivery, DeliveryTotal, Outcome, Webhook, WebhookState

log = logging.getLogger("pkgd.webhooks")

# For metrics. The lag is that of the webhook that has waited longest for its next event.
_STATE = case(
    (Webhook.disabled_at.is_not(None), WebhookState.DISABLED.value),
    (Webhook.failures > 0, WebhookState.FAILING.value),
    else_=WebhookState.ACTIVE.value,
)
BY_STATE = select(_STATE, func.count()).group_by(_STATE)
BY_OUTCOME = select(DeliveryTotal.outcome, DeliveryTotal.deliveries)
_LATER = aliased(Event)
_NEXT = select(func.min(_LATER.seq)).where(_LATER.seq > Webhook.cursor).scalar_subquery()
FIRST_UNTOLD = (
    select(func.min(Event.at))
    .join(Webhook, Event.seq == _NEXT)
    .where(Webhook.disabled_at.is_(None))
)

_HAS_EVENTS = select(Event.seq).where(Event.seq > Webhook.cursor).exists()
_ANY_BEHIND = select(Webhook.id).where(Webhook.disabled_at.is_(None), _HAS_EVENTS).limit(1)
_ANY_LEASED = select(Webhook.id).where(Webhook.lease_holder.is_not(None)).limit(1)

DELIVERY_LEASE_SECONDS = 60  # more than the longest delivery takes
JITTER = 0.25  # so much longer a pause may be, for many webhooks that failed at once
GIVE_UP = timedelta(days=5)
DELIVERIES_KEPT = 100
TEST = "webhook.test"
SECRET_PREFIX = "whsec_"  # noqa: S105 # no secret: it says what a string is
MESSAGES = uuid.UUID("2f1d1ac6-8a2c-4b0e-9a55-6d0c5a4b1f3e")  # the namespace of their ids


class Attempt(NamedTuple):
    """How an attempt went: without an error it succeeded."""

    seconds: float
    status: int | None
    error: str | None
    retry_after: str | None = None


# --- Messages ---


def body_of(event: dict[str, Any]) -> bytes:
    """Return the message about an event."""
    message = {"type": event["type"], "timestamp": event["at"], "data": event}
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


def signed(secret: str, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """Return the headers that Standard Webhooks want of a message that is sent at this time."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    timestamp = str(int(at.timestamp()))
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, "sha256")
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def _id_of(webhook: AnyRow, seq: int) -> str:
    """Return the id of a message: the same for each attempt, and another in each service."""
    return f"evt_{uuid.uuid5(MESSAGES, f'{webhook.id} {webhook.created_at.isoformat()} {seq}')}"


def attempt(webhook: AnyRow, message_id: str, body: bytes, stopping: Flag) -> Attempt:
    """Send a message. Raises Stopped."""
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"pkgd/{VERSION}",
        **signed(webhook.secret, message_id, utcnow(), body),
    }
    private = current_app.config["WEBHOOK_PRIVATE"]
    # Imported with the first message, since most services send none: it takes 1 MiB, for httpcore.
    posting = importlib.import_module("webhooks.posting")
    began = time.monotonic()
    try:
        answer: Answer = posting.post(webhook.url, body, headers, private, stopping)
    except NotDelivered as error:
        return Attempt(time.monotonic() - began, error.status, str(error))
    seconds = time.monotonic() - began
    return Attempt(seconds, answer.status, _fault(answer), answer.retry_after)


def _fault(answer: Answer) -> str | None:
    """Return why an answer is no success; None where it is one."""
    if answer.status in range(200, 300):
        return None
    if answer.status in range(300, 400):
        return f"HTTP {answer.status}: a redirect, which is not followed"
    return f"HTTP {answer.status}: {answer.text}".removesuffix(": ")


# --- The webhook that is next ---


def is_any_behind() -> bool:
    """Tell whether any enabled webhook has events to be told of, at once or later."""
    with reading() as connection:
        return connection.scalar(_ANY_BEHIND) is not None


def deliver_next(holder: str, stopping: Flag) -> bool:
    """Send the next event to a webhook that is due; tell whether there was one."""
    webhook = _claim(holder)
    if webhook is None:
        return False
    event = _next_event(webhook)
    if event is None:
        return True

    message_id, body = _id_of(webhook, event.seq), body_of(event_log.shown(event))
    try:
        ended = attempt(webhook, message_id, body, stopping)
    except Stopped:
        _write(webhook)
        db.session.commit()
        return False
    _record(webhook, event, ended)
    return True


def _claim(holder: str) -> AnyRow | None:
    """Take a webhook that is due by one statement; None where none is."""
    first = _first_due()
    # Mostly there is none: a read doesn't take SQLite's write lock.
    found = db.session.scalar(first)
    this = Webhook.id == first.with_for_update(skip_locked=True).scalar_subquery()
    lease = {"lease_holder": holder, "lease_until": soon(DELIVERY_LEASE_SECONDS)}
    taking = update(Webhook).where(this).values(lease).returning(*columns(Webhook))
    taken = found and db.session.execute(taking, execution_options=NO_SYNC).one_or_none()
    db.session.commit()
    return taken or None


def _first_due() -> Select[int]:
    """Select the webhook that has waited longest of those that have events to be told of."""
    now = utcnow()
    # A clock that was set back must hold up neither a webhook that works nor one whose sender died.
    is_free = or_(
        Webhook.lease_until.is_(None),
        Webhook.lease_until < now,
        Webhook.lease_until > now + timedelta(seconds=DELIVERY_LEASE_SECONDS),
    )
    is_time = or_(Webhook.failures == 0, Webhook.next_at <= now)
    return (
        select(Webhook.id)
        .where(Webhook.disabled_at.is_(None), is_time, is_free, _HAS_EVENTS)
        .order_by(Webhook.next_at, Webhook.id)
        .limit(1)
    )


def _next_event(webhook: AnyRow) -> AnyRow | None:
    """Return the first event that a webhook wants and has not got.

    Return None where there is none; the others are then passed over, and the lease is given up.
    """
    # Read first: an event that is written after this may be one that it wants.
    last = db.session.scalar(select(func.max(Event.seq)))
    wanted = select(*columns(Event)).where(Event.seq > webhook.cursor).order_by(Event.seq)
    if webhook.types:
        wanted = wanted.where(Event.type.in_(event_log.selected(webhook.types)))
    event = db.session.execute(wanted.limit(1)).one_or_none()
    if event is None:
        _write(webhook, cursor=max(last or 0, webhook.cursor), next_at=utcnow())
    db.session.commit()
    return event


# --- What came of it ---


def _record(webhook: AnyRow, event: AnyRow, ended: Attempt) -> None:
    """Write down how a delivery went, and when or whether there will be another."""
    at = utcnow()
    if ended.error is None:
        done = {"cursor": event.seq, "failures": 0, "failing_since": None, "next_at": at}
        is_ours = _write(webhook, **done)
    else:
        is_ours = _record_failure(webhook, ended, at)
    if is_ours:
        note(webhook.id, event.type, ended, seq=event.seq, number=webhook.failures + 1)
        _count(Outcome.FAILED if ended.error else Outcome.SUCCEEDED)
    db.session.commit()


def _record_failure(webhook: AnyRow, ended: Attempt, at: datetime) -> bool:
    """Have a delivery tried again, or disable the webhook; tell whether it was still ours."""
    since = webhook.failing_since or at
    failures = webhook.failures + 1
    failed = {"failures": failures, "failing_since": since}
    reason = _reason_to_disable(ended, at - since)
    if reason:
        failed |= {"disabled_at": at, "disabled_reason": reason}
        what = reason
    else:
        pause = _pause(failures, ended.retry_after)
        failed |= {"next_at": at + timedelta(seconds=pause)}
        what = f"tried again in {pause:.0f} s"
    is_ours = _write(webhook, **failed)
    if is_ours:
        first, _, _ = str(ended.error).partition("\n")
        log.warning("webhook %d: delivery failed: %s; %s", webhook.id, first, what)
    if is_ours and reason:
        told = {"url": event_log.site(webhook.url), "reason": reason}
        event_log.add(EventType.WEBHOOK_DISABLED, subject(webhook), told)
    return is_ours


def _reason_to_disable(ended: Attempt, failing: timedelta) -> str | None:
    if ended.status == HTTPStatus.GONE:
        return "the receiver answered 410: it wants no more"
    if failing >= GIVE_UP:
        return f"all deliveries have failed for {GIVE_UP.days} days"
    return None


def _pause(failures: int, retry_after: str | None) -> float:
    """Return how many seconds to wait after so many failures, or longer if the receiver says so."""
    base = current_app.config["WEBHOOK_RETRY_SECONDS"]
    longest = DAY / (1 + JITTER)
    # 2**17 times the shortest pause is more than a day.
    pause: float = min(base * 2 ** min(failures - 1, 17), longest)
    jittered = pause * random.uniform(1, 1 + JITTER)  # noqa: S311 # no secret
    return max(jittered, min(_seconds(retry_after), DAY))


def _seconds(retry_after: str | None) -> float:
    """Return what a header Retry-After says, a number or a date; 0 for neither."""
    if retry_after is None:
        return 0
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        date = parse_date(retry_after)
    except OverflowError:  # a year or a time zone of twenty digits
        date = None
    return (date - utcnow()).total_seconds() if date else 0


def _write(webhook: AnyRow, **values: Any) -> bool:
    """Write to a webhook and give up its lease, without a commit; False where that is not ours."""
    fence = Webhook.lease_holder == webhook.lease_holder, Webhook.lease_until == webhook.lease_until
    freed = {"lease_holder": None, "lease_until": None}
    ours = update(Webhook).where(Webhook.id == webhook.id, *fence).values(freed | values)
    written = db.session.execute(ours.returning(Webhook.id), execution_options=NO_SYNC).all()
    if not written:
        log.info("webhook %d was changed meanwhile", webhook.id)
    return bool(written)


def note(
    webhook_id: int, kind: str, ended: Attempt, *, seq: int | None = None, number: int = 1
) -> AnyRow:
    """Keep how an attempt went, without a commit, and return it; old ones are deleted."""
    new = insert(Delivery).values(
        webhook_id=webhook_id,
        event_seq=seq,
        type=kind,
        attempt=number,
        seconds=ended.seconds,
        status=ended.status,
        error=ended.error,
        succeeded=ended.error is None,
    )
    row = db.session.execute(new.returning(*columns(Delivery))).one()
    mine = Delivery.webhook_id == webhook_id
    kept = select(Delivery.id).where(mine).order_by(Delivery.id.desc())
    oldest = kept.offset(DELIVERIES_KEPT).limit(1).scalar_subquery()
    old = delete(Delivery).where(mine, Delivery.id <= oldest)
    db.session.execute(old, execution_options=NO_SYNC)
    return row


def _count(outcome: Outcome) -> None:
    new = upsert(DeliveryTotal).values(outcome=outcome.value, deliveries=1)
    added = new.on_conflict_do_update(
        index_elements=["outcome"], set_={"deliveries": DeliveryTotal.deliveries + 1}
    )
    last_writes.add(last_writes.Place.COUNT, ("webhooks", outcome.value), added)


def subject(webhook: Any) -> dict[str, Any]:
    """Return a webhook as what an event is about."""
    return event_log.subject("webhook", webhook.id, urlsplit(webhook.url).hostname)


# --- Leases of the dead ---


def is_any_leased() -> bool:
    """Tell whether something is being sent to any webhook."""
    with reading() as connection:
        return connection.scalar(_ANY_LEASED) is not None


def holders() -> Sequence[str]:
    """Return who holds the webhooks to which something is being sent."""
    held = select(Webhook.lease_holder).where(Webhook.lease_holder.is_not(None)).distinct()
    return [holder for holder in db.session.scalars(held) if holder is not None]


def reap(dead: Collection[str]) -> int:
    """Take back the webhooks that dead senders hold; return how many they were."""
    if not dead:
        return 0
    freed = {"lease_holder": None, "lease_until": None}
    taken = update(Webhook).where(Webhook.lease_holder.in_(dead)).values(freed)
    webhooks = db.session.execute(taken.returning(Webhook.id), execution_options=NO_SYNC).all()
    db.session.commit()
    return len(webhooks)
