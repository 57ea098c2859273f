"""What goes in and out, in JSON.

What each field means, and an example of it, is said beside it: the API document is made of that.
"""

from marshmallow import fields, validate

import nix
from errors import EXAMPLE_TASK
from fields import (
    MAX_ID,
    MAX_IDS,
    MAX_LIFE_SECONDS,
    MAX_NAME_LENGTH,
    MAX_OFFSET,
    MAX_WAIT_SECONDS,
    MIN_NAME_LENGTH,
    NAME_LENGTH,
    NAME_PATTERN,
    NAME_RULE,
    PLAIN_TEXT,
    PLAIN_TEXT_RULE,
    VERSION_RULE,
    Choice,
    JoinedNames,
    JsonInteger,
    NestedColumns,
    OutputSchema,
    Page,
    ProfileName,
    QueryInteger,
    Seconds,
    Strict,
    TaskCursor,
    Timestamp,
    TrueOrFalse,
    always,
    described,
    name_length,
    nullable,
    semantic_version,
    unique,
)
from models import PackageStatus, Scope, TaskKind, TaskStatus
from task_ends import error_codes

# What several examples share.
DERIVATION = "/nix/store/8jm0wsmmhzgrvkkrcwqzmiihpgy6b3vj-hello-2.12.1.drv"
STORE_PATH = "/nix/store/b5qvdl8xw7n3q5v1rlkz0fpyq1a3n6hz-hello-2.12.1"
PROFILE_PATH = "/nix/store/y9h1dyv5mlk0w7p1bq9mrkwz0bfnk0cw-profile"
BEGUN, DONE = "2024-05-05T09:30:00.000Z", "2024-05-05T09:30:04.250Z"
ERROR_CODES = "\n".join(f"- `{code}`: {meaning}" for code, meaning in error_codes().items())
REASONS = ", ".join(f"`{reason}`" for reason in nix.REFUSALS) + "."
OF_REFUSED = nullable("Of `refused`: " + REASONS, None)


class ProblemSchema(OutputSchema):
    """What went wrong: a problem document (RFC 9457)."""

    type = fields.String(
        **always(
            "What kind of problem it is, for programs; `about:blank` when the status says it all.",
            "urn:pkgd:problem:no-such-package",
        )
    )
    title = fields.String(**always("The status, in words.", "Not Found"))
    status = fields.Integer(**always("The status of the answer.", 404))
    detail = fields.String(
        **always("What is wrong, and what to do about it.", "there is no package 7")
    )
    instance = fields.String(**always("The id of the request, as in X-Request-ID.", EXAMPLE_TASK))
    errors = fields.Dict(
        keys=fields.String(),
        values=fields.List(fields.String()),
        **described(
            "What is wrong with each field or query parameter; `body` for the body as a whole.",
            {"version": ["Not a semantic version such as 1.25.3 (see semver.org)."]},
        ),
    )
    near = fields.List(
        fields.String(), **described("Names that there are and that are like this one.", ["hello"])
    )


class MessageSchema(OutputSchema):
    """A greeting."""

    message = fields.String(**always("The greeting.", "Welcome to Package API"))


class VersionSchema(OutputSchema):
    """Which pkgd this is."""

    version = fields.String(**always("The version of the server.", "1.0.0"))
    build = fields.String(**always("The day it was made, as YYYYMMDD.", "20240505"))
    profile = fields.String(
        **always("Where the profile is, on the server's machine.", "/var/lib/pkgd/profile")
    )


class HealthSchema(OutputSchema):
    """The result of a health check."""

    status = fields.String(**always("`alive` or `ready`.", "ready"))
    checks = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        **always("What each check found.", {"database": "ok", "workers": "ok"}),
    )


class EmptySchema(OutputSchema):
    """Nothing to say."""


class TaskErrorSchema(OutputSchema):
    """Why a task failed."""

    code = fields.String(
        attribute="error_code",
        **always("The cause, for programs.\n\n" + ERROR_CODES, "version_unavailable"),
    )
    message = fields.String(
        attribute="error_message",
        **always(
            "What happened, with the last lines of the build log where there is one.",
            "no catalog has hello 9.9.9; to be had: 2.12.1, 2.10.0",
        ),
    )
    reason = fields.String(attribute="error_reason", **OF_REFUSED)
    hint = fields.String(
        attribute="error_hint",
        **always("What to do about it.", "register one of the versions there are"),
    )


class LatestTaskSchema(OutputSchema):
    """A package's latest task."""

    id = fields.UUID(attribute="task_id", **always("Its id.", EXAMPLE_TASK))
    status = Choice(TaskStatus, attribute="task_status", **always("Where it stands.", "succeeded"))
    error = NestedColumns(
        TaskErrorSchema, key="error_code", **nullable("Why it failed, if it did.", None)
    )


class PackageInSchema(Strict):
    """A package to register."""

    name = fields.String(
        validate=[
            name_length,
            validate.Regexp(
                NAME_PATTERN, error="Must begin with a letter or _, and hold A-Za-z0-9_+.- only."
            ),
        ],
        **always(
            "The name in the catalogs; a dot descends into a nested set.",
            "hello",
            pattern=NAME_RULE,
            minLength=MIN_NAME_LENGTH,
            maxLength=NAME_LENGTH,
        ),
    )
    version = fields.String(
        validate=[validate.Length(max=nix.VERSION_LENGTH), semantic_version],
        **always(
            "A semantic version (semver.org); 2.10.0 stands for a catalog's 2.10, too.",
            "2.12.1",
            pattern=VERSION_RULE,
        ),
    )


class PackageSchema(OutputSchema):
    """A registered package."""

    id = fields.Integer(**always("Its id.", 1))
    name = fields.String(**always("Its name.", "hello"))
    version = fields.String(**always("Its version.", "2.12.1"))
    spelled = fields.String(**nullable("The version as its catalog spells it.", "2.12.1"))
    status = Choice(PackageStatus, **always("How far it has come.", "downloaded"))
    created_at = Timestamp(**always("When it was registered.", BEGUN))
    updated_at = Timestamp(**always("When its status changed last.", DONE))
    catalog = fields.String(**nullable("The catalog where it was found.", "<nixpkgs>"))
    catalog_sha256 = fields.String(
        **nullable("The hash of that catalog where it was a pin, in Nix's base 32.", None)
    )
    attr = fields.String(**nullable("The attribute it is under there.", "hello"))
    drv_path = fields.String(**nullable("Its derivation.", DERIVATION))
    store_path = fields.String(**nullable("Where it is, once it is downloaded.", STORE_PATH))
    closure_size = fields.Integer(
        **nullable("The size of it and all that it needs to run, in bytes.", 33_554_432)
    )
    profiles = JoinedNames(**always("The profiles that hold it.", ["default"]))
    task = NestedColumns(
        LatestTaskSchema, key="task_id", **nullable("Its latest task, if there was any.")
    )


class PackageQuerySchema(Page):
    """Which packages to list."""

    name = fields.String(
        validate=[validate.Length(max=MAX_NAME_LENGTH), PLAIN_TEXT],
        **described("Only packages of this name.", "hello", pattern=PLAIN_TEXT_RULE),
    )
    status = Choice(PackageStatus, **described("Only packages of this status.", "downloaded"))
    profile = ProfileName(**described("Only packages that this profile holds.", "default"))
    after = QueryInteger(
        validate=validate.Range(0, MAX_ID), **described("The id of the last package before.", 0)
    )


class DownloadSchema(OutputSchema):
    """What became of a request to download."""

    status = Choice(PackageStatus, **always("The package's status.", "created"))
    task_id = fields.UUID(
        **nullable(
            "The task that does it or did it; null when that one is forgotten.", EXAMPLE_TASK
        )
    )


class StatusSchema(OutputSchema):
    """A package's status."""

    status = Choice(PackageStatus, **always("The package's status.", "downloaded"))


class PackageIdsSchema(Strict):
    """Packages, by their ids."""

    ids = fields.List(
        JsonInteger(strict=True, validate=validate.Range(0, MAX_ID)),
        validate=[validate.Length(1, MAX_IDS), unique],
        **always("Their ids.", [1, 2], uniqueItems=True),
    )


class PackageReferenceSchema(OutputSchema):
    """A package, in short."""

    id = fields.Integer(**always("Its id.", 1))
    name = fields.String(**always("Its name.", "hello"))
    version = fields.String(**always("Its version.", "2.12.1"))


class ProgressSchema(OutputSchema):
    """How far a task is: what is done, of what is expected, and the phase.

    A download counts derivations and paths, an indexing attributes, a verification versions.
    """

    done = fields.Integer(**always("How many are done.", 2))
    expected = fields.Integer(**always("How many there are to do.", 3))
    phase = fields.String(
        **nullable(
            "`resolving`, `fetching`, `building`, `rooting`, `publishing`, `indexing`, "
            "`verifying` or `applying`.",
            "building",
        )
    )


class TaskSchema(OutputSchema):
    """A download, an indexing or its verification, an apply to a profile, or a publishing."""

    id = fields.UUID(**always("Its id.", EXAMPLE_TASK))
    kind = Choice(TaskKind, **always("What it does.", "download"))
    package_id = fields.Integer(**nullable("The id of the package, of a download.", 1))
    catalog = fields.String(**nullable("The catalog, of an indexing or a verification.", None))
    profile = fields.String(**nullable("The profile, of an apply or a publishing.", None))
    status = Choice(TaskStatus, **always("Where it stands.", "running"))
    request_id = fields.String(
        **nullable("The X-Request-ID of the request that asked for it.", "nightly-17")
    )
    attempt = fields.Integer(**always("How often it was begun.", 1))
    waiting = fields.String(**nullable("Why it isn't begun, if something holds it up.", None))
    progress = NestedColumns(ProgressSchema, **always("How far it is."))
    error = NestedColumns(
        TaskErrorSchema, key="error_code", **nullable("Why it failed, if it did.", None)
    )
    created_at = Timestamp(**always("When it was asked for.", BEGUN))
    started_at = Timestamp(**nullable("When its latest attempt began.", BEGUN))
    finished_at = Timestamp(**nullable("When it ended.", None))


class TaskQuerySchema(Page):
    """Which tasks to list."""

    status = Choice(TaskStatus, **described("Only tasks of this status.", "failed"))
    kind = Choice(TaskKind, **described("Only tasks of this kind.", "apply"))
    profile = ProfileName(**described("Only tasks of this profile.", "staging"))
    package_id = QueryInteger(
        validate=validate.Range(0, MAX_ID), **described("Only tasks of this package.", 1)
    )
    after = TaskCursor(
        **described(
            "The id of the last task before, or the number in a Link.", EXAMPLE_TASK, type="string"
        )
    )


class WaitSchema(Strict):
    """How long to wait for a task's end."""

    wait = Seconds(
        load_default=0.0,
        validate=validate.Range(0, MAX_WAIT_SECONDS),
        **described("Answer when it has ended, or after this many seconds.", 0.5),
    )


class LogQuerySchema(Strict):
    """Which part of a task's log to send."""

    attempt = QueryInteger(
        validate=validate.Range(1, MAX_ID),
        **described("Which attempt's; the latest one's by default.", 1),
    )
    offset = QueryInteger(
        load_default=0, validate=validate.Range(0, MAX_OFFSET), **described("From this byte on.", 0)
    )
    follow = TrueOrFalse(**described("Go on until the attempt has ended.", False))


class TokenQuerySchema(Page):
    """Which tokens to list."""

    after = QueryInteger(
        validate=validate.Range(0, MAX_ID), **described("The id of the last token before.", 0)
    )


class RevocationSchema(Strict):
    """How to revoke."""

    force = TrueOrFalse(**described("Revoke the last live token of scope admin, too.", False))


class TokenInSchema(Strict):
    """A token to mint."""

    name = fields.String(
        load_default=None,
        allow_none=True,
        validate=[validate.Length(1, 100), PLAIN_TEXT],
        **described("What it is for.", "robot", pattern=PLAIN_TEXT_RULE),
    )
    scope = Choice(
        Scope,
        load_default=None,
        allow_none=True,
        **described("What it may do; the minting token's own scope by default.", "operate"),
    )
    expires_in = JsonInteger(
        load_default=None,
        allow_none=True,
        strict=True,
        validate=validate.Range(1, MAX_LIFE_SECONDS),
        **described("How long it lives, in seconds; by default TOKEN_DAYS at most.", 3600),
    )


class TokenSchema(OutputSchema):
    """A token, its secret masked."""

    id = fields.Integer(**always("Its id.", 2))
    name = fields.String(**nullable("What it is for.", "robot"))
    scope = Choice(Scope, **always("What it may do.", "operate"))
    token = fields.String(**always("Its secret, masked.", "pkgd_********"))
    created_at = Timestamp(**always("When it was minted.", BEGUN))
    expires_at = Timestamp(**always("When it expires.", "2024-05-05T10:30:00.000Z"))
    last_used_at = Timestamp(**nullable("When it was used, to the minute.", None))
    current = fields.Boolean(**always("Whether this request came with it.", False))


class MintedTokenSchema(TokenSchema):
    """A new token, with its secret."""

    token = fields.String(
        **always("Its secret: shown here, and never again.", "pkgd_8V1qk0b4W3nB5xq2eYt7mZc9pLr6sJd")
    )
