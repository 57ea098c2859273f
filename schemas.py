"""What goes in and out, in JSON: the only place where input is validated."""

from datetime import UTC, datetime
from typing import Any

import semver
from marshmallow import RAISE, Schema, ValidationError, fields, validate

from models import PackageStatus, Reason, Scope, TaskStatus

NAME_PATTERN = r"[A-Za-z_][A-Za-z0-9_+.-]*\Z"
VERSION_LENGTH = 64
PLAIN_TEXT = "[^\\x00-\\x1f\\x7f\\ud800-\\udfff]*\\Z"
MAX_ID = 2**31 - 1
MAX_OFFSET = 2**53 - 1
MAX_LIFE_SECONDS = 10 * 365 * 86_400
MAX_WAIT_SECONDS = 30


def semantic_version(value: str) -> None:
    """Raise ValidationError unless the value is a Semantic Version 2.0.0 (semver.org)."""
    if not semver.Version.is_valid(value):
        raise ValidationError("Not a semantic version such as 1.25.3 (see semver.org).")


class Timestamp(fields.AwareDateTime):
    """A time as RFC 3339 has it, in UTC, with milliseconds and Z."""

    def _serialize(
        self, value: datetime | None, attr: str | None, obj: Any, **kwargs: Any
    ) -> str | None:
        if value is None:
            return None
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Number(fields.Integer):
    """A whole number in a URL: plain decimal digits, nothing else that Python would read as one."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if not (value.isascii() and value.isdigit()):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class Columns(fields.Nested):
    """An object made of columns of the same row; null when the column `key` is."""

    def __init__(self, nested: type[Schema], *, key: str | None = None, **kwargs: Any) -> None:
        super().__init__(nested, **kwargs)
        self.key = key

    def get_value(self, obj: Any, attr: str, accessor: Any = None, default: Any = None) -> Any:
        """Hand the whole row to the nested schema."""
        there = self.key is None or getattr(obj, self.key) is not None
        return obj if there else None


class Strict(Schema):
    """Input in which an unknown field is an error."""

    class Meta:
        """Marshmallow's options."""

        unknown = RAISE


class Page(Strict):
    """Which page of a list is asked for."""

    limit = Number(load_default=100, validate=validate.Range(1, 1000))


class MessageSchema(Schema):
    """A greeting."""

    message = fields.String(required=True)


class VersionSchema(Schema):
    """Which pkgd this is."""

    version = fields.String(required=True)
    build = fields.String(required=True)


class HealthSchema(Schema):
    """What was looked at, and that it is as it should be."""

    status = fields.String(required=True)
    checks = fields.Dict(keys=fields.String(), values=fields.String(), required=True)


class EmptySchema(Schema):
    """Nothing to say."""


class TaskErrorSchema(Schema):
    """Why a task failed."""

    code = fields.String(attribute="error_code", required=True)
    message = fields.String(attribute="error_message", required=True)
    hint = fields.String(attribute="error_hint", required=True)


class LatestTaskSchema(Schema):
    """A package's latest task."""

    id = fields.UUID(attribute="task_id", required=True)
    status = fields.Enum(TaskStatus, by_value=True, attribute="task_status", required=True)
    error = Columns(TaskErrorSchema, key="error_code", required=True, allow_none=True)


class PackageInSchema(Strict):
    """A package to register."""

    name = fields.String(
        required=True,
        validate=[
            validate.Length(2, 50),
            validate.Regexp(
                NAME_PATTERN, error="Must begin with a letter or _, and hold A-Za-z0-9_+.- only."
            ),
        ],
    )
    version = fields.String(
        required=True, validate=[validate.Length(max=VERSION_LENGTH), semantic_version]
    )


class PackageSchema(Schema):
    """A registered package."""

    id = fields.Integer(required=True)
    name = fields.String(required=True)
    version = fields.String(required=True)
    status = fields.Enum(PackageStatus, by_value=True, required=True)
    created_at = Timestamp(required=True)
    updated_at = Timestamp(required=True)
    catalog = fields.String(required=True, allow_none=True)
    attr = fields.String(required=True, allow_none=True)
    drv_path = fields.String(required=True, allow_none=True)
    store_path = fields.String(required=True, allow_none=True)
    closure_size = fields.Integer(required=True, allow_none=True)
    task = Columns(LatestTaskSchema, key="task_id", required=True, allow_none=True)


class PackageQuerySchema(Page):
    """Which packages to list."""

    name = fields.String()
    status = fields.Enum(PackageStatus, by_value=True)
    after = Number(validate=validate.Range(0, MAX_ID))


class DownloadSchema(Schema):
    """What became of a request to download."""

    status = fields.Enum(PackageStatus, by_value=True, required=True)
    task_id = fields.UUID(required=True, allow_none=True)


class StatusSchema(Schema):
    """A package's status."""

    status = fields.Enum(PackageStatus, by_value=True, required=True)


class ActivationSchema(Strict):
    """How to activate."""

    dry_run = fields.Boolean(load_default=False, truthy={"true"}, falsy={"false"})


class PackageReferenceSchema(Schema):
    """A package, in short."""

    id = fields.Integer(required=True)
    name = fields.String(required=True)
    version = fields.String(required=True)


class ReplacementSchema(Schema):
    """One version that takes another's place."""

    name = fields.String(required=True)
    old = fields.String(required=True)
    new = fields.String(required=True)


class PlanSchema(StatusSchema):
    """What an activation would change; the change of the closure's size is in bytes."""

    added = fields.List(fields.Nested(PackageReferenceSchema), required=True)
    removed = fields.List(fields.Nested(PackageReferenceSchema), required=True)
    replaced = fields.List(fields.Nested(ReplacementSchema), required=True)
    closure_size_change = fields.Integer(required=True)


class ChangeSchema(Schema):
    """A switch of the profile to a generation: when, why, and the token that asked for it."""

    at = Timestamp(required=True)
    reason = fields.Enum(Reason, by_value=True, required=True)
    by = fields.String(required=True, allow_none=True)


class GenerationPackageSchema(PackageReferenceSchema):
    """A package as a generation holds it."""

    store_path = fields.String(required=True)


class GenerationSchema(Schema):
    """A numbered version of the profile, and the changes that led to it, newest first."""

    number = fields.Integer(required=True)
    active = fields.Boolean(required=True)
    created_at = Timestamp(required=True)
    packages = fields.List(fields.Nested(GenerationPackageSchema), required=True)
    changes = fields.List(fields.Nested(ChangeSchema), required=True)


class GenerationQuerySchema(Page):
    """Which generations to list."""

    after = Number(validate=validate.Range(0, MAX_ID))


class OfferSchema(Schema):
    """A version that a catalog has, and under which attribute."""

    version = fields.String(required=True)
    catalog = fields.String(required=True)
    attr = fields.String(required=True)


class CatalogFailureSchema(Schema):
    """A catalog that could not be asked, with Nix's own message."""

    catalog = fields.String(required=True)
    code = fields.String(required=True)
    message = fields.String(required=True)


class CatalogSchema(Schema):
    """Which versions of a name there are, newest first, and which catalogs could not be asked."""

    name = fields.String(required=True)
    versions = fields.List(fields.Nested(OfferSchema), required=True)
    failures = fields.List(fields.Nested(CatalogFailureSchema), required=True)


class ProgressSchema(Schema):
    """How far a task is: derivations and paths done, of those expected, and the phase."""

    done = fields.Integer(required=True)
    expected = fields.Integer(required=True)
    phase = fields.String(required=True, allow_none=True)


class TaskSchema(Schema):
    """A requested download."""

    id = fields.UUID(required=True)
    package_id = fields.Integer(required=True)
    status = fields.Enum(TaskStatus, by_value=True, required=True)
    request_id = fields.String(required=True, allow_none=True)
    attempt = fields.Integer(required=True)
    waiting = fields.String(required=True, allow_none=True)
    progress = Columns(ProgressSchema, required=True)
    error = Columns(TaskErrorSchema, key="error_code", required=True, allow_none=True)
    created_at = Timestamp(required=True)
    started_at = Timestamp(required=True, allow_none=True)
    finished_at = Timestamp(required=True, allow_none=True)


class TaskQuerySchema(Page):
    """Which tasks to list."""

    status = fields.Enum(TaskStatus, by_value=True)
    package_id = Number(validate=validate.Range(0, MAX_ID))
    after = fields.UUID()


class WaitSchema(Strict):
    """How long to wait for a task's end."""

    wait = fields.Float(load_default=0.0, validate=validate.Range(0, MAX_WAIT_SECONDS))


class LogQuerySchema(Strict):
    """Which part of a task's log to send."""

    attempt = Number(validate=validate.Range(1, MAX_ID))
    offset = Number(load_default=0, validate=validate.Range(0, MAX_OFFSET))
    follow = fields.Boolean(load_default=False, truthy={"true"}, falsy={"false"})


class TokenQuerySchema(Page):
    """Which tokens to list."""

    after = Number(validate=validate.Range(0, MAX_ID))


class TokenInSchema(Strict):
    """A token to mint."""

    name = fields.String(
        load_default=None,
        allow_none=True,
        validate=[
            validate.Length(1, 100),
            validate.Regexp(PLAIN_TEXT, error="Must hold no control characters."),
        ],
    )
    scope = fields.Enum(Scope, by_value=True, load_default=None, allow_none=True)
    expires_in = fields.Integer(
        load_default=None,
        allow_none=True,
        strict=True,
        validate=validate.Range(1, MAX_LIFE_SECONDS),
    )


class TokenSchema(Schema):
    """A token, its secret masked."""

    id = fields.Integer(required=True)
    name = fields.String(required=True, allow_none=True)
    scope = fields.Enum(Scope, by_value=True, required=True)
    token = fields.String(required=True)
    created_at = Timestamp(required=True)
    expires_at = Timestamp(required=True)
    last_used_at = Timestamp(required=True, allow_none=True)
    current = fields.Boolean(required=True)
