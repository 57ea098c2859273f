"""The kinds of arguments: packages, tasks, times; each completes itself in a shell."""

import re
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import click
from click.shell_completion import CompletionItem

from pkgctl import completion

MAX_ID = 2**31 - 1
MAX_ID_DIGITS = len(str(MAX_ID))
LATEST = "latest"  # as a version: the newest that may be had
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_+.-]*", re.ASCII)
PROFILE_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
EXACT = re.compile(r"\d+\.\d+\.\d+([-+].*)?", re.ASCII)
TASK_DIGITS = re.compile(r"[0-9a-fA-F]{4,32}")
WHOLE = 32  # digits of a task's id
DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd]?)", re.ASCII)
UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}

Items = list[CompletionItem[Any]]


@dataclass(frozen=True)
class PackageSpec:
    """A name and a version."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class TaskDigits:
    """What may be the first digits of a task's id, or a package; the server knows which."""

    text: str

    def __str__(self) -> str:
        return self.text


PackageRef = int | str | PackageSpec  # by id, by name alone, or by both
TaskRef = UUID | TaskDigits | PackageRef


class PackageSpecType(click.ParamType[Any]):
    """NAME@VERSION, as a PackageSpec."""

    name = "NAME@VERSION"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Convert an argument."""
        name, _, version = value.partition("@")
        if name and version:
            return PackageSpec(name, version)
        hint = f"; pkgctl versions {value} tells the versions" if value.isidentifier() else ""
        return self.fail(f"{value!r} is not NAME@VERSION, such as hello@2.12.1{hint}", param, ctx)

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> Items:
        """Complete the name of a package in the catalogs, then its version."""
        return completion.offered(ctx, incomplete)


class WantedType(PackageSpecType):
    """NAME, NAME@latest, NAME@VERSION or NAME@RANGE, as a PackageSpec."""

    name = "NAME[@VERSION|@RANGE]"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Convert an argument."""
        name, at, version = value.partition("@")
        if not name or (at and not version):
            what = "NAME or NAME@VERSION, such as hello@2.12.1 or 'hello@^2.10'"
            return self.fail(f"{value!r} is not {what}", param, ctx)
        return PackageSpec(name, version or LATEST)


class PackageType(PackageSpecType):
    """The id of a package, NAME or NAME@VERSION, as a PackageRef."""

    name = "NAME|NAME@VERSION|ID"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Convert an argument."""
        is_number = value.isascii() and value.isdigit() and len(value) <= MAX_ID_DIGITS
        if is_number and int(value) <= MAX_ID:
            return int(value)
        if "@" in value:
            return super().convert(value, param, ctx)
        if NAME.fullmatch(value):
            return value
        return self.fail(f"{value!r} is no id, NAME or NAME@VERSION", param, ctx)

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> Items:
        """Complete the name of a registered package, then its version."""
        return completion.registered(ctx, incomplete)


class TaskType(PackageType):
    """The id of a task or its first digits, or a package for its latest task, as a TaskRef."""

    name = "TASK|PACKAGE"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Convert an argument."""
        digits = value.replace("-", "")
        if TASK_DIGITS.fullmatch(digits):
            return UUID(digits) if len(digits) == WHOLE else TaskDigits(value)
        return super().convert(value, param, ctx)

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> Items:
        """Complete the id of a recent task, or a registered package."""
        return completion.recent_tasks(ctx, incomplete) + completion.registered(ctx, incomplete)


class ProfileType(click.ParamType[str]):
    """The name of a profile."""

    name = "PROFILE"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Convert an argument."""
        if PROFILE_NAME.fullmatch(value):
            return str(value)
        return self.fail(f"{value!r} is no name of a profile, such as staging", param, ctx)

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> Items:
        """Complete the name of a profile."""
        return completion.profiles(ctx, incomplete)


class NumberType(click.ParamType[int]):
    """The number of a token or of a generation; `hint` says what lists these."""

    name = "NUMBER"

    def __init__(self, hint: str) -> None:
        self._hint = hint

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Convert an argument."""
        if value.isascii() and value.isdigit() and len(value) <= MAX_ID_DIGITS:
            return int(value)
        return self.fail(f"{value!r} is no number; {self._hint}", param, ctx)


class DurationType(click.ParamType[float]):
    """A number of seconds, or a number with a unit: 90, 15m, 12h, 30d."""

    name = "TIME"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Convert an argument to seconds."""
        match = DURATION.fullmatch(str(value))
        if match is None:
            return self.fail(f"{value!r} isn't a time, such as 90, 15m, 12h or 30d", param, ctx)
        return float(match[1]) * UNIT_SECONDS[match[2]]
