"""The lock file of a manifest, beside it: what was chosen for each package, and what that became.

That is the version, the catalog with its hash, the derivation and the store path. The file is JSON,
and the same for the same content.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from pkgctl import files
from pkgctl.client import JsonObject
from pkgctl.errors import CommandError, ExitCode

FORMAT = 1
READABLE = 0o666  # less what the umask takes


@dataclass(frozen=True)
class Origin:
    """The catalog that a package comes from; one without a hash may change."""

    name: str
    source: str | None
    sha256: str | None
    revision: str | None


@dataclass(frozen=True)
class Locked:
    """What was chosen for a line of the manifest."""

    wanted: str
    version: str
    store_path: str
    spelled: str | None = None
    attr: str | None = None
    drv_path: str | None = None
    catalog: Origin | None = None

    def document(self) -> JsonObject:
        """Return it as JSON, with whether the catalog may change."""
        document = asdict(self)
        if self.catalog is not None:
            document["catalog"]["mutable"] = self.catalog.sha256 is None
        return document


@dataclass
class Lock:
    """The lock of a manifest: what was chosen for each name; the file's text, None without one."""

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
        """Write the file unless it has this text already; return whether it was written."""
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
    """Return the packages of a lock file, whose content may be anything. Raises CommandError."""
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
    """Return an object without its `others`. Raises TypeError for a value but a text or null."""
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
    """Return what was chosen for a line, by the documents of its package and of all catalogs."""
    facts = {key: package.get(key) for key in ("spelled", "attr", "drv_path")}
    name, sha256 = package.get("catalog"), package.get("catalog_sha256")
    catalog = catalogs.get(name or "", {})
    is_same = catalog.get("sha256") == sha256  # a pin may have been updated since
    source, revision = (catalog.get("source"), catalog.get("revision")) if is_same else (None, None)
    origin = Origin(name, source, sha256, revision) if name else None
    return Locked(wanted, package["version"], package["store_path"], catalog=origin, **facts)
