"""What goes in and out of profiles, in JSON."""

from marshmallow import fields, validate

from fields import (
    MAX_ID,
    Choice,
    OutputSchema,
    Page,
    ProfileName,
    QueryInteger,
    Strict,
    Timestamp,
    TrueOrFalse,
    always,
    described,
    nullable,
)
from profile_models import DEFAULT, Reason
from schemas import DONE, STORE_PATH, PackageReferenceSchema, StatusSchema


class ProfileQuerySchema(Strict):
    """Which profile is meant."""

    profile = ProfileName(load_default=DEFAULT, **described("The profile.", DEFAULT))


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
