"""The manifest, a TOML file of the packages that a profile is to hold, and its lock beside it.

The lock has for each package what was chosen, and what it became: version, catalog with its hash,
derivation, store path. It is JSON, and the same for the same content.
"""

import json
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from pkgctl import files
from pkgctl.arguments import NAME, PROFILE_NAME, PackageSpec
from pkgctl.client import JsonObject
from pkgctl.errors import CommandError, ExitCode

STDIN = "-"
FORMAT = 1
READABLE = 0o666  # less what the umask takes
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
EXAMPLE = 'such as hello = "2.12.1", nodejs = "^20" or jq = "latest"'
KEYS = {"profile", "packages"}


@dataclass(frozen=True)
class Manifest:
    """What a manifest says: versions or ranges by name, and for which profile, if it does."""

    title: str
    packages: dict[str, str]
    profile: str | None = None

    @classmethod
    def load(cls, file: str) -> Self:
        """Read a manifest, of the standard input for `-`. Raises CommandError."""
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
    """Return packages and profile of a manifest, which may hold anything."""
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


# --- The lock ---


@dataclass(frozen=True)
class Origin:
    """The catalog that a package comes from; one without a hash can come to hold other packages."""

    name: str
    source: str | None
    sha256: str | None
    revision: str | None


@dataclass(frozen=True)
class Locked:
    """What a line of the manifest has come to."""

    wanted: str
    version: str
    store_path: str
    spelled: str | None = None
    attr: str | None = None
    drv_path: str | None = None
    catalog: Origin | None = None

    def document(self) -> JsonObject:
        """Return it as JSON, which says whether the catalog can change."""
        told = asdict(self)
        if self.catalog is not None:
            told["catalog"]["mutable"] = self.catalog.sha256 is None
        return told


@dataclass
class Lock:
    """The lock of a manifest: what each name has come to, and the text of the file, if it is."""

    path: Path
    packages: dict[str, Locked] = field(default_factory=dict)
    written: str | None = None

    @classmethod
    def load(cls, file: str) -> Self:
        """Read the lock of a manifest; one that doesn't exist has no packages."""
        path = Path(f"{file}.lock")
        try:
            text = path.read_text(encoding="utf-8")
            content = json.loads(text)
        except FileNotFoundError:
            return cls(path)
        except OSError as error:
            raise _unreadable(path, f"it can't be read: {error.strerror}") from None
        except (ValueError, RecursionError):
            raise _unreadable(path, "it is no JSON") from None
        return cls(path, _locked(path, content), text)

    def text(self) -> str:
        """Return the text of the file."""
        packages = {name: one.document() for name, one in self.packages.items()}
        document = {"format": FORMAT, "packages": packages}
        return json.dumps(document, indent=2, sort_keys=True) + "\n"

    def save(self) -> bool:
        """Replace the file unless it has this content; return whether it did."""
        text = self.text()
        if text == self.written:
            return False
        try:
            files.replace(self.path, text, READABLE)
        except OSError as error:
            message = f"{self.path} can't be written: {error.strerror}"
            raise CommandError(message, ExitCode.REFUSED) from None
        return True


def _locked(path: Path, content: Any) -> dict[str, Locked]:
    """Return the packages of a lock, which may hold anything."""
    packages = content.get("packages") if isinstance(content, dict) else None
    if not isinstance(packages, dict):
        raise _unreadable(path, "it has no packages")
    if content.get("format") != FORMAT:
        raise _unreadable(path, f"its format is {content.get('format')!r}, and not {FORMAT}")
    return {name: _entry(path, name, one) for name, one in packages.items()}


def _entry(path: Path, name: str, one: Any) -> Locked:
    facts = dict(one) if isinstance(one, dict) else {}
    origin = facts.pop("catalog", None)
    try:
        catalog = None if origin is None else Origin(**_texts(origin, "mutable"))
        return Locked(**_texts(facts), catalog=catalog)
    except TypeError as error:
        reason = str(error).partition("() ")[2] or error
        raise _unreadable(path, f"packages.{name}: {reason}") from None


def _texts(facts: Any, *others: str) -> Any:
    """Return an object without its `others`, all texts or null; else raise TypeError."""
    if not isinstance(facts, dict):
        raise TypeError("catalog is no object")
    texts = {key: value for key, value in facts.items() if key not in others}
    for key, value in texts.items():
        if not isinstance(value, str | None):
            raise TypeError(f"{key} is no text")
    return texts


def _unreadable(path: Path, reason: str) -> CommandError:
    hint = f"remove it; pkgctl apply {path.with_suffix('')} writes it anew"
    return CommandError(f"{path}: {reason}", ExitCode.USAGE, hint)


def locked(wanted: str, package: JsonObject, catalogs: Mapping[str, JsonObject]) -> Locked:
    """Return what a line has come to, by the documents of its package and of all catalogs."""
    facts = {key: package.get(key) for key in ("spelled", "attr", "drv_path")}
    name, sha256 = package.get("catalog"), package.get("catalog_sha256")
    catalog = catalogs.get(name or "", {})
    is_same = catalog.get("sha256") == sha256  # a pin may have been updated since
    source, revision = (catalog.get("source"), catalog.get("revision")) if is_same else (None, None)
    origin = Origin(name, source, sha256, revision) if name else None
    return Locked(wanted, package["version"], package["store_path"], catalog=origin, **facts)
