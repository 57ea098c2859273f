"""What goes in and out of the routes of catalogs, in JSON."""

from marshmallow import fields, validate

from catalogs.models import IMPOSSIBLE, IndexStatus
from errors import EXAMPLE_TASK
from fields import (
    CONTROLS,
    MAX_NAME_LENGTH,
    MAX_RANGE_LENGTH,
    PLAIN_TEXT,
    PLAIN_TEXT_RULE,
    Choice,
    OutputSchema,
    Page,
    Strict,
    Timestamp,
    always,
    described,
    nullable,
)
from schemas import BEGUN, DONE, OF_REFUSED, REASONS, ProgressSchema

HASH = "0cn87r16aqcfv09g9n4nh7wklqiigrrgriqwqgiaib8ac2r7g146"


class OfferSchema(OutputSchema):
    """A version that a catalog has, and under which attribute."""

    version = fields.String(**always("The semantic version.", "2.12.1"))
    spelled = fields.String(**always("How the catalog spells it.", "2.12.1"))
    prerelease = fields.Boolean(**always("Whether its words make it a pre-release.", False))
    available = fields.Boolean(**always("Whether a download gets it.", True))
    reason = fields.String(
        **nullable(
            "Why not: `shadowed` by another spelling; found by a verification or a download,"
            f" `{IMPOSSIBLE}`; else {REASONS}",
            None,
        )
    )
    message = fields.String(
        **nullable("What a download would say of that, where it was found so.", None)
    )
    catalog = fields.String(**always("The catalog that has it.", "<nixpkgs>"))
    attr = fields.String(**always("Its attribute there.", "hello"))
    description = fields.String(
        **nullable("What it is, where that is known.", "A program that greets")
    )
    pinned_at = Timestamp(**nullable("The date of its catalog, if that is a pin.", DONE))


class CatalogFailureSchema(OutputSchema):
    """A catalog that could not be asked, and why."""

    catalog = fields.String(**always("The catalog.", "/srv/catalogs/ours"))
    code = fields.String(**always("The cause: a code of a task's error.", "evaluation_failed"))
    reason = fields.String(**OF_REFUSED)
    message = fields.String(**always("What is wrong.", "undefined variable 'hello'"))


class SearchQuerySchema(Page):
    """What to search the catalogs for."""

    search = fields.String(
        required=True,
        validate=[
            validate.Length(1, MAX_NAME_LENGTH),
            PLAIN_TEXT,
            validate.Predicate("strip", error="Must hold a word."),
        ],
        **described(
            "A name, a part of one, or words of a description.",
            "hel",
            pattern=rf"^[^{CONTROLS}]*[^{CONTROLS}\s][^{CONTROLS}]*$",
        ),
    )
    after = fields.String(
        validate=[validate.Length(1, MAX_NAME_LENGTH), PLAIN_TEXT],
        **described("The name of the last one before.", "hello", pattern=PLAIN_TEXT_RULE),
    )


class HitSchema(OutputSchema):
    """A name in the catalogs that fits a search."""

    name = fields.String(**always("The name.", "hello"))
    version = fields.String(
        **nullable("The newest version that may be had, a release where there is one.", "2.12.1")
    )
    description = fields.String(
        **nullable("What it is, where that is known.", "A program that greets")
    )


class CatalogQuerySchema(Strict):
    """Which versions of a name to show."""

    version = fields.String(
        validate=[validate.Length(1, MAX_RANGE_LENGTH), PLAIN_TEXT],
        **described(
            "Only an exact version, also as a catalog spells it, or only those in a range.",
            "^2.10",
            pattern=PLAIN_TEXT_RULE,
        ),
    )


class KnownCatalogSchema(OutputSchema):
    """A catalog: where it comes from, how it is, and how far it is indexed."""

    name = fields.String(**always("Its name.", "nixos-24.05"))
    source = fields.String(
        **always(
            "The URL of a catalog that was added, else what CATALOGS has.",
            "https://example.org/nixos-24.05.tar.gz",
        )
    )
    sha256 = fields.String(**nullable("The hash of one that was added, in Nix's base 32.", HASH))
    revision = fields.String(**nullable("The revision that its tarball names.", "0" * 40))
    dated_at = Timestamp(**nullable("The time that its tarball has.", BEGUN))
    added_at = Timestamp(**nullable("When it was added or updated.", DONE))
    nix = fields.String(**nullable("The oldest Nix that it says it wants.", "2.18"))
    state = fields.String(**always("`ok`, `not looked at yet`, or what fails.", "ok"))
    index = Choice(
        IndexStatus,
        **always(
            "Its index: `current`, made of its present state; `in_progress`, queued or being made;"
            " `failed` or `cancelled`; `stale`, about to be made again; `none`. Until one is"
            " current, searches use an older one where there is one.",
            "current",
        ),
    )
    index_task_id = fields.UUID(
        **nullable("The latest task that indexes it in its present state.", EXAMPLE_TASK)
    )
    index_progress = fields.Nested(
        ProgressSchema, **nullable("How far that task is, while it is queued or running.", None)
    )
    index_error = fields.String(**nullable("Why that task failed, if it did.", None))
    packages = fields.Integer(
        **nullable("How many versions the index holds that searches use.", 24_660)
    )
    indexed_at = Timestamp(**nullable("When that index was finished.", DONE))
    verification = Choice(
        IndexStatus,
        **always(
            "Whether it is verified what that index offers: `current`, it is; `in_progress`;"
            " `failed` or `cancelled`; `none`.",
            "current",
        ),
    )
    verification_task_id = fields.UUID(
        **nullable("The latest task that verifies it.", EXAMPLE_TASK)
    )
    verified = fields.Integer(
        **nullable("Of how many versions in it a derivation was looked for.", 24_402)
    )
    verified_at = Timestamp(**nullable("When that was finished.", DONE))


class CatalogSchema(OutputSchema):
    """Which versions of a name there are, newest first, and which catalogs could not be asked."""

    name = fields.String(**always("The name.", "hello"))
    versions = fields.List(fields.Nested(OfferSchema), **always("Newest first."))
    failures = fields.List(fields.Nested(CatalogFailureSchema), **always("Which could not.", []))
