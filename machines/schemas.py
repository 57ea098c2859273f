"""What goes in and out of machines and rollouts, in JSON."""

from typing import Any

from marshmallow import fields, validate

import nix
from fields import (
    CONTROLS,
    MACHINE_NAME_RULE,
    MAX_ID,
    Choice,
    JsonInteger,
    MachineName,
    NestedColumns,
    OutputSchema,
    Page,
    ProfileName,
    Strict,
    Timestamp,
    always,
    described,
    nullable,
)
from machines.models import MachineState, ReportedState
from profiles.models import DEFAULT
from schemas import DONE, PROFILE_PATH

MAX_ERROR_LENGTH = 2000
MAX_PATH_LENGTH = 1024
STORE_PATH = validate.Regexp(
    rf"/[^{CONTROLS}\ud800-\udfff]*\Z", error="Must begin with / and hold no control characters."
)
STORE_PATH_RULE = f"^/[^{CONTROLS}]*$"


class PlainText(fields.String):
    """A text of somebody else's, kept without escape sequences and control characters."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        return nix.plain(super()._deserialize(value, attr, data, **kwargs)).strip()


class MachineQuerySchema(Page):
    """Which machines to list."""

    after = MachineName(**described("The name of the last machine before.", "web-1"))
    profile = ProfileName(**described("Only those that follow this profile.", DEFAULT))
    state = Choice(MachineState, **described("Only those in this state.", "failed"))


class ReportSchema(Strict):
    """What a machine holds, and how it came to that."""

    profile = ProfileName(**always("The profile that it follows.", DEFAULT))
    generation = JsonInteger(
        load_default=None,
        allow_none=True,
        strict=True,
        validate=validate.Range(0, MAX_ID),
        **described("The number of the generation that it holds; null for none.", 3),
    )
    store_path = fields.String(
        load_default=None,
        allow_none=True,
        validate=[validate.Length(1, MAX_PATH_LENGTH), STORE_PATH],
        **described(
            "The store path of that, by which it is known.", PROFILE_PATH, pattern=STORE_PATH_RULE
        ),
    )
    state = Choice(
        ReportedState, **always("`failed` where it could not take what it is offered.", "current")
    )
    error = PlainText(
        load_default=None,
        allow_none=True,
        validate=validate.Length(max=MAX_ERROR_LENGTH),
        **described("Why it could not.", "exit code 1: no answer"),
    )


class OfferedSchema(OutputSchema):
    """A generation that machines are to hold; the binary cache has it."""

    generation = fields.Integer(**always("Its number.", 3))
    store_path = fields.String(**always("Its store path.", PROFILE_PATH))


class OfferedColumnsSchema(OfferedSchema):
    """A generation that a machine is to hold; the binary cache has it."""

    generation = fields.Integer(attribute="offered_number", **always("Its number.", 3))
    store_path = fields.String(attribute="offered_path", **always("Its store path.", PROFILE_PATH))


class MachineSchema(OutputSchema):
    """A machine that follows a profile."""

    name = fields.String(**always("Its name.", "web-1", pattern=MACHINE_NAME_RULE))
    profile = fields.String(**always("The profile that it follows.", DEFAULT))
    generation = fields.Integer(**nullable("The number of the generation that it holds.", 3))
    store_path = fields.String(**nullable("The store path of that.", PROFILE_PATH))
    state = Choice(
        MachineState,
        **always(
            "`current`: it holds what it is offered; `behind`: it is offered something else;"
            " `failed`: it could not take that; `silent`: it was not heard of for"
            " MACHINE_SILENT_SECONDS.",
            "current",
        ),
    )
    error = fields.String(**nullable("Why it failed, in its own words.", None))
    seen_at = Timestamp(**always("When it reported last.", DONE))
    offered = NestedColumns(
        OfferedColumnsSchema,
        key="offered_path",
        **nullable("What it is to hold; null for: what it holds."),
    )


class MachineCountsSchema(OutputSchema):
    """How many machines are in each state."""

    current = fields.Integer(**always("Hold what they are offered.", 97))
    behind = fields.Integer(**always("Are offered something else.", 1))
    failed = fields.Integer(**always("Could not take it.", 1))
    silent = fields.Integer(**always("Were not heard of lately.", 1))


class PercentSchema(Strict):
    """How many of the machines the newest generation is offered to."""

    percent = JsonInteger(
        strict=True,
        validate=validate.Range(1, 100),
        **always("The share; 100 ends the rollout.", 10),
    )


class RolloutSchema(OutputSchema):
    """How many of the machines the newest published generation is offered to."""

    percent = fields.Integer(**always("The share of the machines; 100 without a rollout.", 100))
    rest = fields.Nested(
        OfferedSchema,
        **nullable("What the others are offered; null for all the same, or for what they hold."),
    )
