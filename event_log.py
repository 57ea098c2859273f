"""The record of what happened: each change and its event are one transaction.

`add` is called where the change is made, and the event is written before the commit. The events are
numbered in the order of their commits: whoever has read up to a number misses none with a smaller
one. An event names what it is about, so that it stays readable when that is removed.
"""

import os
import pwd
import socket
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

import click
from flask import g, has_request_context, request
from sqlalchemy import JSON, BigInteger, Index, Integer, String, func, insert, select
from sqlalchemy.orm import Mapped, mapped_column

import last_writes
from fields import rfc3339
from models import AnyRow, Model, UtcDateTime, db, utcnow

# The key of PostgreSQL's advisory lock that whoever writes an event holds until the commit: a
# sequence alone numbers rows in the order of their INSERTs, so that a reader could miss one.
LOCK = select(func.pg_advisory_xact_lock(0x706B6764))  # "pkgd"
FROM_LENGTH = 64


class EventType(StrEnum):
    """What happened."""

    PACKAGE_REGISTERED = "package.registered"
    PACKAGE_REMOVED = "package.removed"
    TASK_QUEUED = "task.queued"
    TASK_SUCCEEDED = "task.succeeded"
    TASK_FAILED = "task.failed"
    TASK_CANCELLED = "task.cancelled"
    PROFILE_CHANGED = "profile.changed"
    PROFILE_ROLLOUT = "profile.rollout"
    PROFILE_REMOVED = "profile.removed"
    TOKEN_MINTED = "token.minted"  # noqa: S105 # no secret
    TOKEN_REVOKED = "token.revoked"  # noqa: S105 # no secret
    CATALOG_ADDED = "catalog.added"
    CATALOG_UPDATED = "catalog.updated"
    CATALOG_REMOVED = "catalog.removed"
    MACHINE_FAILED = "machine.failed"
    MACHINE_SILENT = "machine.silent"
    MACHINE_REMOVED = "machine.removed"
    WEBHOOK_ADDED = "webhook.added"
    WEBHOOK_REMOVED = "webhook.removed"
    WEBHOOK_DISABLED = "webhook.disabled"
    WEBHOOK_ENABLED = "webhook.enabled"


def selected(types: Iterable[str]) -> list[EventType]:
    """Return the types that names, and groups such as `task.*`, stand for."""
    names = tuple(types)
    groups = tuple(name.removesuffix("*") for name in names if name.endswith(".*"))
    return [kind for kind in EventType if kind in names or kind.startswith(groups)]


class Event(Model):
    """A change: when, what, by whom, from where, to what."""

    __tablename__ = "events"
    __table_args__ = (
        Index("events_by_type", "type", "seq"),
        {"sqlite_autoincrement": True},  # a number is never given out again
    )

    seq: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    type: Mapped[str] = mapped_column(String(32))
    by: Mapped[dict[str, Any]] = mapped_column(JSON)
    origin: Mapped[str | None] = mapped_column(String(FROM_LENGTH))
    subject: Mapped[dict[str, Any]] = mapped_column(JSON)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    request_id: Mapped[str | None] = mapped_column(String(64))


NEW = insert(Event)

# Who changes something, as an event and a task keep it: {"kind", "id", "name", "from"}.
# `kind` is token, host (a command of the operator) or service (pkgd by itself).
Actor = dict[str, Any]


def actor() -> Actor:
    """Return who makes the change that this code is about to make, and from where."""
    if has_request_context():
        caller = g.get("caller")
        address = (request.remote_addr or "local")[:FROM_LENGTH]  # none through a Unix socket
        if caller is None:  # who mints the first token
            return {"kind": "host", "id": None, "name": None, "from": address}
        return {"kind": "token", "id": caller.id, "name": caller.name, "from": address}
    if click.get_current_context(silent=True) is not None:
        return {"kind": "host", "id": None, "name": _user(), "from": _host()}
    asked_by: Actor | None = g.get("asked_by")
    return asked_by or service()


def service() -> Actor:
    """Return pkgd, as who makes a change that nobody asked for."""
    return {"kind": "service", "id": None, "name": None, "from": _host()}


def act_for(by: Actor | None, request_id: str | None) -> None:
    """Have the changes of this application context told as made by who asked for them."""
    g.asked_by, g.asked_in = by, request_id


def add(
    kind: EventType,
    subject: dict[str, Any],
    data: dict[str, Any] | None = None,
    *,
    by: Actor | None = None,
    request_id: str | None = None,
) -> None:
    """Have an event written with the changes of this transaction, after its first statement.

    `subject` is what it is about: {"kind", "id", "name"}, with None where there is no id or name.
    `by` and `request_id` are those of the request, command or task that is being served, by
    default.
    """
    who = dict(by or actor())
    if request_id is None:
        request_id = g.get("request_id") or g.get("asked_in")
    row = {
        "at": utcnow(),
        "type": kind.value,
        "origin": who.pop("from"),
        "by": who,
        "subject": subject,
        "data": data or {},
        "request_id": request_id,
    }
    if db.engine.dialect.name == "postgresql":
        last_writes.add(last_writes.Place.EVENT, ("first",), LOCK)
    last_writes.add(last_writes.Place.EVENT, ("then",), NEW, row)


def shown(event: AnyRow) -> dict[str, Any]:
    """Return the JSON form of an event."""
    return {
        "seq": event.seq,
        "at": rfc3339(event.at),
        "type": event.type,
        "by": event.by,
        "from": event.origin,
        "subject": event.subject,
        "data": event.data,
        "request_id": event.request_id,
    }


def subject(kind: str, id_: object, name: str | None) -> dict[str, Any]:
    """Return what an event is about; a UUID becomes a string."""
    return {"kind": kind, "id": id_ if isinstance(id_, int | None) else str(id_), "name": name}


def bare_url(url: str) -> str:
    """Return a URL without what may be secret: a login, the query, the fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def site(url: str) -> str:
    """Return what a URL leads to, without its path, in which some services have a secret."""
    return bare_url(urljoin(url, "/")).removesuffix("/")


@cache
def _host() -> str:
    return socket.gethostname()[:FROM_LENGTH]


def _user() -> str:
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # as in a container that runs under any id
        user = str(os.getuid())
    return os.environ.get("SUDO_USER", user)
