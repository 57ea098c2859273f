"""The manifest: a TOML file of the packages that a profile is to hold."""

import json
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pkgctl.arguments import NAME, PROFILE_NAME, PackageSpec
from pkgctl.client import JsonObject
from pkgctl.errors import CommandError, ExitCode

STDIN = "-"
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
EXAMPLE = 'such as hello = "2.12.1", nodejs = "^20" or jq = "latest"'
KEYS = {"profile", "packages"}


@dataclass(frozen=True)
class Manifest:
    """A manifest: a version or a range for each name, and the profile that it is for, if any."""

    title: str
    packages: dict[str, str]
    profile: str | None = None

    @classmethod
    def load(cls, file: str) -> Self:
        """Read a manifest, for `-` from the standard input. Raises CommandError."""
        title = "the standard input" if file == STDIN else file
        text = _decoded(title, _read(file))
        try:
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise _wrong(title, f"it isn't TOML: {error}", EXAMPLE) from None
        except RecursionError:
            raise _wrong(title, "it is nested too deeply", EXAMPLE) from None
        except ValueError:
            raise _wrong(title, "it has a number that is too long", EXAMPLE) from None
        return cls(title, *_checked(title, content))

    def specs(self) -> list[PackageSpec]:
        """Return what is wanted, in the order of the file."""
        return [PackageSpec(name, wanted) for name, wanted in self.packages.items()]


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
    except FileNotFoundError:
        raise _wrong(
            file,
            "there is no such file",
            f"a manifest has a line [packages], and below it lines {EXAMPLE}",
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise _wrong(file, f"it can't be read: {reason}") from None


def _decoded(title: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise _wrong(title, f"line {line} is no text in UTF-8") from None


def _checked(title: str, content: JsonObject) -> tuple[dict[str, str], str | None]:
    """Return the packages and the profile of a manifest, whose content may be anything."""
    if unknown := sorted(content.keys() - KEYS):
        hint = f"at the top there are profile and [packages]; under that, {EXAMPLE}"
        raise _wrong(title, f"{', '.join(unknown)}: no such key", hint)
    packages, profile = content.get("packages"), content.get("profile")
    if not isinstance(packages, dict):
        raise _wrong(title, "it has no table [packages]", f"under that come the names, {EXAMPLE}")
    is_name = isinstance(profile, str) and PROFILE_NAME.fullmatch(profile)
    if profile is not None and not is_name:
        raise _wrong(title, f"profile is {profile!r}", 'a name, such as profile = "staging"')
    for name, wanted in packages.items():
        _check(title, name, wanted)
    return packages, profile


def _check(title: str, name: str, wanted: object) -> None:
    """Raise CommandError for a line that names no package and version."""
    if isinstance(wanted, dict):
        inner = next(iter(wanted), "requests")
        what = f"packages.{name} is a table"
        raise _wrong(title, what, f'a name with a dot is quoted: "{name}.{inner}" = "latest"')
    if not NAME.fullmatch(name):
        raise _wrong(title, f"packages: {name!r} is no name of a package", EXAMPLE)
    if not isinstance(wanted, str) or not wanted.strip():
        given = json.dumps(wanted, default=str)
        raise _wrong(
            title, f"packages.{name} is {given}, not a version or range in quotes", EXAMPLE
        )


def _wrong(title: str, what: str, hint: str = "") -> CommandError:
    return CommandError(f"{title}: {what}", ExitCode.USAGE, hint)


def manifest_text(packages: Mapping[str, str], profile: str | None) -> str:
    """Return a manifest as text."""
    lines = [f"profile = {json.dumps(profile)}", ""] if profile else []
    lines += ["[packages]"]
    lines += [f"{_key(name)} = {json.dumps(packages[name])}" for name in sorted(packages)]
    return "\n".join([*lines, ""])


def _key(name: str) -> str:
    return name if BARE_KEY.fullmatch(name) else json.dumps(name)
