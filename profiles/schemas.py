"""What goes in and out of profiles, in JSON."""

from marshmallow import fields, validate

from errors import EXAMPLE_TASK
from fields import (
    MAX_ID,
    MAX_IDS,
    MAX_WAIT_SECONDS,
    STORE_PATH_RULE,
    Choice,
    MachineName,
    OutputSchema,
    Page,
    ProfileName,
    QueryInteger,
    Seconds,
    Strict,
    Timestamp,
    TrueOrFalse,
    always,
    described,
    nullable,
)
from machines.schemas import MachineCountsSchema, OfferedSchema, RolloutSchema
from profiles.models import DEFAULT, Reason
from schemas import (
    DONE,
    PROFILE_PATH,
    STORE_PATH,
    PackageInSchema,
    PackageReferenceSchema,
    StatusSchema,
)


class ProfileQuerySchema(Strict):
    """Which profile is meant."""

    profile = ProfileName(load_default=DEFAULT, **described("The profile.", DEFAULT))


class ApplyQuerySchema(Strict):
    """How to apply."""

    dry_run = TrueOrFalse(**described("Only tell what would change.", False))


class SetPackageSchema(PackageInSchema):
    """A package that a profile is to hold."""

    store_path = fields.String(
        validate=validate.Regexp(
            STORE_PATH_RULE.replace("$", r"\Z"),
            error="Must be a store path, such as /nix/store/…-hello-2.12.1.",
        ),
        **described(
            "The store path that it must have: the apply fails as a whole where it has another.",
            STORE_PATH,
            pattern=STORE_PATH_RULE,
        ),
    )


class PackageSetSchema(Strict):
    """The packages that a profile is to hold."""

    packages = fields.List(
        fields.Nested(SetPackageSchema),
        validate=validate.Length(max=MAX_IDS),
        **always("Exactly these."),
    )


class ProfileWaitSchema(Strict):
    """For which machine to show a profile, and how long to wait for a change of it."""

    machine = MachineName(
        load_default=None, **described("Show what is offered to this machine.", "web-1")
    )
    wait = Seconds(
        load_default=0.0,
        validate=validate.Range(0, MAX_WAIT_SECONDS),
        **described("Answer when it has changed, or after this many seconds.", 0.5),
    )


class GateSchema(Strict):
    """What must be so for a promotion."""

    require = fields.String(
        load_default=None,
        validate=validate.OneOf(["current"]),
        **described("`current`: that the machines of the source hold what is promoted.", "current"),
    )


class PromotionQuerySchema(GateSchema):
    """What must be so for a promotion, and whether only to tell."""

    dry_run = TrueOrFalse(**described("Only tell whether it would be done.", False))


class PromotionSchema(Strict):
    """Which profile to take the generation of."""

    source = ProfileName(data_key="from", **always("Its name.", "staging"))


class ProfileSchema(OutputSchema):
    """A named set of packages that is active, with generations."""

    name = fields.String(**always("Its name.", DEFAULT))
    path = fields.String(**always("Where it is; programs are in its `bin`.", "/srv/pkgd/profile"))
    generation = fields.Integer(**nullable("The number of its active generation.", 3))
    store_path = fields.String(**nullable("The store path of that.", PROFILE_PATH))
    published = fields.Boolean(
        **nullable("Whether the binary cache has that; null where there is no cache.", True)
    )
    packages = fields.List(fields.Nested(PackageReferenceSchema), **always("What it holds."))
    changed_at = Timestamp(**always("When it changed last.", DONE))
    task_id = fields.UUID(**nullable("The apply that waits or runs, if there is one.", None))
    offered = fields.Nested(
        OfferedSchema,
        **nullable("What machines are to hold, by the rollout; null for: what they hold."),
    )
    rollout = fields.Nested(
        RolloutSchema, **always("Which share is offered the newest generation.")
    )
    machines = fields.Nested(
        MachineCountsSchema,
        **nullable("How many machines follow it, by state; null where `machine` is asked for."),
    )


class ActivationSchema(ProfileQuerySchema):
    """How to activate, and where."""

    dry_run = TrueOrFalse(**described("Only tell what would change.", False))


class ReplacementSchema(OutputSchema):
    """One version that takes another's place."""

    name = fields.String(**always("The name of both.", "hello"))
    old = fields.String(**always("The version that goes.", "2.10.0"))
    new = fields.String(**always("The version that comes.", "2.12.1"))


class PlanSchema(StatusSchema):
    """A package's status and, of a dry run, what an activation would change."""

    added = fields.List(fields.Nested(PackageReferenceSchema), **described("What would come."))
    removed = fields.List(fields.Nested(PackageReferenceSchema), **described("What would go."))
    replaced = fields.List(
        fields.Nested(ReplacementSchema), **described("What would change its version.")
    )
    closure_size_change = fields.Integer(
        **described("How much larger the closure would be, in bytes.", 4096)
    )


class PlannedPackageSchema(OutputSchema):
    """A package, in short, be it registered or not."""

    id = fields.Integer(**nullable("Its id; null where it is not registered.", 1))
    name = fields.String(**always("The name.", "hello"))
    version = fields.String(**always("The version.", "2.12.1"))


class AppliedSchema(OutputSchema):
    """The task of an apply or, of a dry run, what it would change."""

    task_id = fields.UUID(
        **nullable("The task; null where nothing is to do, or would be done.", EXAMPLE_TASK)
    )
    added = fields.List(fields.Nested(PlannedPackageSchema), **described("What would come."))
    removed = fields.List(fields.Nested(PackageReferenceSchema), **described("What would go."))
    replaced = fields.List(
        fields.Nested(ReplacementSchema), **described("What would change its version.")
    )
    to_download = fields.List(
        fields.Nested(PlannedPackageSchema), **described("What would be downloaded first.")
    )
    closure_size_change = fields.Integer(
        **described("How much larger the closure would be without that, in bytes.", 4096)
    )


class ChangeSchema(OutputSchema):
    """A switch of a profile to a generation: when, why, and the token that asked for it."""

    at = Timestamp(**always("When it was.", DONE))
    reason = Choice(Reason, **always("Why it was.", "activate"))
    by = fields.String(**nullable("The name of the token that asked.", "robot"))


class GenerationPackageSchema(PackageReferenceSchema):
    """A package as a generation holds it."""

    store_path = fields.String(**always("Where it is.", STORE_PATH))


class GenerationSchema(OutputSchema):
    """A numbered version of a profile, and the changes that led to it, newest first."""

    number = fields.Integer(
        **always("Its number, which Nix gives out again once the generation is deleted.", 3)
    )
    active = fields.Boolean(**always("Whether the profile is this one.", True))
    created_at = Timestamp(**always("When it was made.", DONE))
    packages = fields.List(fields.Nested(GenerationPackageSchema), **always("What it holds."))
    changes = fields.List(
        fields.Nested(ChangeSchema), **always("The switches to it, newest first.")
    )


class GenerationQuerySchema(Page, ProfileQuerySchema):
    """Which generations to list."""

    after = QueryInteger(
        validate=validate.Range(0, MAX_ID), **described("The number of the last one before.", 100)
    )
