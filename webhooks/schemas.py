"""What goes in and out of webhooks, in JSON."""

import base64
import re
from enum import StrEnum
from urllib.parse import urlsplit

from flask import current_app
from marshmallow import ValidationError, fields, validate

from event_log import EventType
from event_schemas import GROUPS
from fields import (
    MAX_ID,
    Choice,
    OutputSchema,
    Page,
    QueryInteger,
    Strict,
    Timestamp,
    always,
    described,
    nullable,
    unique,
)
from schemas import BEGUN, DONE
from webhooks.addresses import is_refused_literal, not_allowed
from webhooks.deliveries import SECRET_PREFIX
from webhooks.models import WebhookState

MAX_URL_LENGTH = 2048
SECRET_BYTES = range(24, 65)
URL = re.compile(r"https?://[!-~]+", re.IGNORECASE)
HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+", re.ASCII)
TYPES = [*EventType, *GROUPS]
URL_RULE = "^https?://[!-~]+$"
SECRET_RULE = f"^{SECRET_PREFIX}[A-Za-z0-9+/]{{32,88}}={{0,2}}$"
EXAMPLE_URL = "https://hooks.example/pkgd"  # a name that nobody can have
EXAMPLE_SECRET = f"{SECRET_PREFIX}C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


class From(StrEnum):
    """From which event on a webhook is told again."""

    NOW = "now"


def receiver_url(value: str) -> None:
    """Raise ValidationError unless something may be posted to the URL."""
    try:
        parts = urlsplit(value)
        is_whole = URL.fullmatch(value) and HOST.fullmatch(parts.hostname or "") and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole:
        raise ValidationError("Not a URL of http or https in ASCII, with a host.")
    if "@" in parts.netloc or "#" in value:
        raise ValidationError("Must hold no login and no fragment.")
    refused = is_refused_literal(value, current_app.config["WEBHOOK_PRIVATE"])
    if refused:
        raise ValidationError(f"{not_allowed(refused)}.")


def signing_secret(value: str) -> None:
    """Raise ValidationError unless the value is a secret of Standard Webhooks."""
    try:
        key = base64.b64decode(value.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        key = b""
    if not value.startswith(SECRET_PREFIX) or len(key) not in SECRET_BYTES:
        raise ValidationError(f"Must be {SECRET_PREFIX} and the base64 of 24 to 64 random bytes.")


class WebhookQuerySchema(Page):
    """Which webhooks to list."""

    after = QueryInteger(
        validate=validate.Range(0, MAX_ID), **described("The id of the last one before.", 1)
    )


class WebhookInSchema(Strict):
    """A webhook to add."""

    url = fields.String(
        validate=[validate.Length(max=MAX_URL_LENGTH), receiver_url],
        **always("Where events are posted to.", EXAMPLE_URL, pattern=URL_RULE),
    )
    types = fields.List(
        fields.String(validate=validate.OneOf(TYPES)),
        load_default=list,
        validate=[validate.Length(max=len(TYPES)), unique],
        **described(
            "Of which types of events it is told, or of which groups; none: of all.",
            ["task.failed", "machine.*"],
        ),
    )
    secret = fields.String(
        load_default=None,
        allow_none=True,
        validate=signing_secret,
        **described(
            "What signs the messages; one is made by default.", EXAMPLE_SECRET, pattern=SECRET_RULE
        ),
    )


class EnableSchema(Strict):
    """Where to go on."""

    start = Choice(
        From,
        data_key="from",
        load_default=None,
        allow_none=True,
        **described("`now`: skip the events until now. By default, send those it missed.", "now"),
    )


class DeliverySchema(OutputSchema):
    """An attempt to tell a webhook of an event."""

    at = Timestamp(**always("When it ended.", DONE))
    type = fields.String(**always("The event's type; `webhook.test` for a test.", "task.failed"))
    seq = fields.Integer(
        attribute="event_seq", **nullable("The event's number; null for a test.", 17)
    )
    attempt = fields.Integer(**always("Which attempt for this event it was.", 1))
    succeeded = fields.Boolean(**always("Whether the receiver answered by a status of 2xx.", True))
    status = fields.Integer(**nullable("The status of the answer; null where none came.", 204))
    error = fields.String(
        **nullable("Why it failed, with the beginning of the answer as plain text.", None)
    )
    seconds = fields.Float(**always("How long it took.", 0.2))


class WebhookSchema(OutputSchema):
    """A URL that is told of events."""

    id = fields.Integer(**always("Its id.", 1))
    url = fields.String(
        **always("Where events are posted to; in lists without its query.", EXAMPLE_URL)
    )
    types = fields.List(
        fields.String(),
        **always("Of which events and groups it is told; none: of all.", ["task.failed"]),
    )
    state = Choice(
        WebhookState,
        **always(
            "`failing`: the last delivery failed, and is tried again at `next_at`; `disabled`:"
            " nothing is sent until it is enabled.",
            "active",
        ),
    )
    created_at = Timestamp(**always("When it was added.", BEGUN))
    delivered_seq = fields.Integer(
        attribute="cursor", **always("The last event that it has got or doesn't want.", 17)
    )
    failures = fields.Integer(**always("Failed attempts since the last success.", 0))
    failing_since = Timestamp(**nullable("When the first of these was.", None))
    next_at = Timestamp(**nullable("While it fails: when the next attempt is due.", None))
    disabled_at = Timestamp(**nullable("When it was disabled.", None))
    disabled_reason = fields.String(**nullable("Why it was disabled.", None))


class AddedWebhookSchema(WebhookSchema):
    """A new webhook, with its secret."""

    secret = fields.String(
        **always("What signs its messages: shown here, and never again.", EXAMPLE_SECRET)
    )


class WholeWebhookSchema(WebhookSchema):
    """A webhook, with what was sent to it lately."""

    deliveries = fields.List(
        fields.Nested(DeliverySchema), **always("The last attempts, newest first; 100 at most.")
    )
