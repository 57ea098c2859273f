"""What goes in and out of the events, in JSON."""

from typing import Any

from marshmallow import ValidationError, fields, validate, validates_schema

from errors import EXAMPLE_TASK
from event_log import EventType
from fields import (
    MAX_OFFSET,
    MAX_WAIT_SECONDS,
    OutputSchema,
    Page,
    QueryInteger,
    Seconds,
    TrueOrFalse,
    always,
    described,
    nullable,
)
from schemas import BEGUN

GROUPS = sorted({f"{kind.partition('.')[0]}.*" for kind in EventType})
# What the data of each type of event holds.
PACKAGES = "each as `id`, `name`, `version`"
TASK = (
    "`kind`, `package` (`id`, `name`, `version`), `profile` and `catalog` (null but for the one "
    "that it is about), `attempt`, `error` (`code`, `message`, `hint`; null without one)"
)
MACHINE = "`profile`; `generation`, `store_path` and `error` as it reported them last"
CATALOG = "`url` without a query, `sha256`, `revision`"
WEBHOOK = "`url` without a path"
DATA = {
    EventType.PACKAGE_REGISTERED: "`version`",
    EventType.PACKAGE_REMOVED: "`version`",
    EventType.TASK_QUEUED: TASK,
    EventType.TASK_SUCCEEDED: TASK,
    EventType.TASK_FAILED: TASK,
    EventType.TASK_CANCELLED: TASK,
    EventType.PROFILE_CHANGED: (
        "`generation` and `store_path` (null while it is deleted), `reason` (as of a change, or "
        f"`delete`), `added` and `removed` (packages, {PACKAGES})"
    ),
    EventType.PROFILE_ROLLOUT: "`percent` of its machines that get its newest generation",
    EventType.PROFILE_REMOVED: "nothing",
    EventType.TOKEN_MINTED: "`scope`, `expires_at`",
    EventType.TOKEN_REVOKED: "`scope`",
    EventType.CATALOG_ADDED: CATALOG,
    EventType.CATALOG_UPDATED: CATALOG,
    EventType.CATALOG_REMOVED: CATALOG,
    EventType.MACHINE_FAILED: MACHINE,
    EventType.MACHINE_SILENT: MACHINE,
    EventType.MACHINE_REMOVED: MACHINE,
    EventType.WEBHOOK_ADDED: WEBHOOK,
    EventType.WEBHOOK_REMOVED: WEBHOOK,
    EventType.WEBHOOK_DISABLED: f"{WEBHOOK}, `reason`",
    EventType.WEBHOOK_ENABLED: WEBHOOK,
}


class ActorSchema(OutputSchema):
    """Who made a change."""

    kind = fields.String(
        validate=validate.OneOf(["token", "host", "service"]),
        **always(
            "A `token`; a command on the `host`, or a request for the first token; or the "
            "`service` by itself.",
            "token",
        ),
    )
    id = fields.Integer(**nullable("The id of the token.", 3))
    name = fields.String(**nullable("The name of the token, or the user of the host.", "ci"))


class SubjectSchema(OutputSchema):
    """What an event is about; it may be gone by now."""

    kind = fields.String(
        validate=validate.OneOf(
            ["package", "task", "profile", "token", "catalog", "machine", "webhook"]
        ),
        **always("What it is.", "package"),
    )
    id = fields.Raw(
        **always("Its id: a number, of a task a UUID.", 7, type=["integer", "string", "null"])
    )
    name = fields.String(
        **nullable("Its name; of a task, what it is about.", "hello"),
    )


class EventSchema(OutputSchema):
    """Something that happened."""

    seq = fields.Integer(**always("Its number: events are committed in the order of these.", 17))
    at = fields.String(**always("When it happened.", BEGUN, format="date-time"))
    type = fields.Enum(
        EventType, by_value=fields.String, **always("What happened.", "package.registered")
    )
    by = fields.Nested(ActorSchema, **always("Who did it, or asked for it."))
    origin = fields.String(
        data_key="from",
        **nullable("The address that the request came from, or the host.", "10.0.0.7"),
    )
    subject = fields.Nested(SubjectSchema, **always("What it is about."))
    data = fields.Dict(
        keys=fields.String(),
        **always(
            "More, by the type of the event:\n\n"
            + "\n".join(f"- `{kind}`: {what}" for kind, what in DATA.items()),
            {"version": "2.12.1"},
        ),
    )
    request_id = fields.String(
        **nullable("The X-Request-ID of the request that asked for it.", EXAMPLE_TASK)
    )


class EventQuerySchema(Page):
    """Which events to list."""

    after = QueryInteger(
        validate=validate.Range(0, MAX_OFFSET),
        **described("The `seq` of the last event before; with `newest_first`, older ones.", 16),
    )
    types = fields.List(
        fields.String(validate=validate.OneOf([*GROUPS, *EventType])),
        data_key="type",
        **described("Only events of this type, or group; it may be repeated.", ["task.*"]),
    )
    newest_first = TrueOrFalse(**described("Begin with the newest.", False))
    wait = Seconds(
        load_default=0.0,
        validate=validate.Range(0, MAX_WAIT_SECONDS),
        **described("Answer when there is one, or after this many seconds.", 0.5),
    )

    @validates_schema
    def check_wait(self, data: dict[str, Any], **_: Any) -> None:
        """Refuse to wait for what is older than an event: there will never be more."""
        if data["wait"] and data["newest_first"]:
            raise ValidationError("Not with newest_first.", "wait")
