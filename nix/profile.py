"""Profiles: what a profile holds, and its generations."""

import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nix.errors import Collision, NixError, ProfileRefused
from nix.store import Store, call, text

ACTIVATE = Path(__file__).resolve().parent / "activate.nix"
GENERATION_LINK = re.compile(r".*-\d+-link")
GENERATION_LINE = re.compile(r"(\d+) +(\S+ \S+)(?: +(\(current\)))?")
COLLISION_MESSAGE = re.compile(
    r"'(/[^'\n]+)' and (?:(?:non-)?directory )?'(/[^'\n]+)'"
    r"|conflict for the following files:\s+(/.+)\n\s*(/.+)"
)
# What nix-env fails with because of the packages. What else it fails with can pass.
REFUSAL_MESSAGE = re.compile(
    r"builder for '[^'\n]+' failed|path '[^'\n]+' (?:is not valid|does not exist)"
)
# Newer versions of Nix put the path of a file that can't be read in brackets.
QUOTED_PATH = re.compile(r"['\[](/[^'\]\n]+)['\]]")


@dataclass(frozen=True)
class ProfilePackage:
    """A package for a profile: the store paths of its outputs, the main one first."""

    name: str
    version: str
    paths: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class ProfileGeneration:
    """A numbered version of a profile."""

    number: int
    created: datetime
    current: bool


def set_profile(
    store: Store, profile: Path, packages: Iterable[ProfilePackage], *, tmp: Path
) -> int:
    """Make the profile hold exactly these packages, in one step; return its generation's number.

    Temporary files are written in `tmp`.

    Raises Collision or another ProfileRefused, which leave the profile as it was.
    """
    wanted = list(packages)
    for folder in (tmp, profile.parent):
        folder.mkdir(parents=True, exist_ok=True)

    with tempfile.NamedTemporaryFile("w", dir=tmp, suffix=".json") as file:
        json.dump([asdict(package) for package in wanted], file)
        file.flush()
        done = call(store.with_tmp(tmp), _activation(profile, Path(file.name).resolve()))

    try:
        text(done)
    except NixError as error:
        raise _refusal(error, wanted) from None
    return _number(profile.readlink())


def check_activatable(store: Store, package: ProfilePackage) -> None:
    """Raise ProfileRefused for a package of which a profile would hold nothing of the store."""
    path = Path(package.paths[0])
    target = path.resolve()
    if not target.exists():
        problem = "is a link to nothing" if path.is_symlink() else "does not exist"
    elif not target.is_relative_to(store.directory.resolve()):
        problem = "is a link out of the store"
    elif not target.is_dir():
        problem = "is a single file, and a profile holds folders such as bin"
    else:
        return
    raise ProfileRefused(f"{package}: {path} {problem}")


def _activation(profile: Path, packages: Path) -> list[str]:
    return [
        "nix-env",
        *("--profile", str(profile)),
        *("--file", str(ACTIVATE)),
        *("--argstr", "packages", str(packages)),
        *("--set", "--attr", ""),
    ]


def _refusal(error: NixError, packages: Sequence[ProfilePackage]) -> NixError:
    """Return the error as a refusal, with the packages, if they are the reason for it."""
    message = str(error)
    if type(error) is not NixError or not REFUSAL_MESSAGE.search(message):
        return error
    if match := COLLISION_MESSAGE.search(message):
        first, second = (path.strip() for path in match.groups() if path)
        return _collision(first, second, packages)

    reason = message.partition("\nerror: builder for ")[0]
    owners = (_owner(path, packages) for path in QUOTED_PATH.findall(reason))
    named = next((str(package) for package, _ in owners if package), "the profile")
    return ProfileRefused(f"{named}: {reason}")


def _collision(first: str, second: str, packages: Sequence[ProfilePackage]) -> Collision:
    """Return the collision of two files, the second of which may be in the unfinished profile."""
    owner, file = _owner(first, packages)
    other, _ = _owner(second, packages)
    if owner and not other:
        other = next((p for p in packages if p != owner and _has(p, file)), None)
    return Collision(str(owner or first), str(other or second), file)


def _owner(path: str, packages: Iterable[ProfilePackage]) -> tuple[ProfilePackage | None, str]:
    """Return the package that a file belongs to, if one does, and the file's path inside it."""
    owners = (
        (package, path.removeprefix(f"{own}/"))
        for package in packages
        for own in package.paths
        if path.startswith(f"{own}/")
    )
    return next(owners, (None, path))


def _has(package: ProfilePackage, file: str) -> bool:
    return any(Path(own, file).exists() for own in package.paths)


def current_generation(profile: Path) -> int | None:
    """Return the number of the generation that the profile is; None when there is no profile."""
    if not profile.is_symlink() or not GENERATION_LINK.fullmatch(profile.readlink().name):
        return None
    return _number(profile.readlink())


def _number(link: Path) -> int:
    """Return the number in the name of a generation's link, PROFILE-NUMBER-link."""
    return int(link.name.split("-")[-2])


def generation_link(profile: Path, number: int) -> Path:
    """Return the link that Nix keeps for a generation of the profile."""
    return profile.with_name(f"{profile.name}-{number}-link")


def installed(store: Store, profile: Path) -> list[tuple[str, str]]:
    """Return the name and the main store path of each package in a profile or a generation."""
    written = _nix_env(store, profile, "--query", "--json", "--out-path")
    try:
        elements = json.loads(written).values()
        return [(one["name"], _main_path(one["outputs"])) for one in elements if one["outputs"]]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise NixError(f"nix-env's list of the profile can't be read: {written!r:.100}") from None


def _main_path(outputs: dict[str, Any]) -> str:
    # A package that was installed by hand may have no output `out`.
    path: str = outputs.get("out") or next(iter(outputs.values()))
    return path


def generations(store: Store, profile: Path) -> list[ProfileGeneration]:
    """Return the profile's generations, oldest first."""
    if not profile.parent.exists():
        return []

    lines = _nix_env(store, profile, "--list-generations")
    return [
        ProfileGeneration(
            number=int(number),
            created=datetime.fromisoformat(created).replace(tzinfo=UTC),
            current=bool(current),
        )
        for number, created, current in GENERATION_LINE.findall(lines)
    ]


def switch_generation(store: Store, profile: Path, number: int) -> None:
    """Make the profile what it was in that generation, in one step."""
    _nix_env(store, profile, "--switch-generation", str(number))


def delete_generations(store: Store, profile: Path, numbers: Iterable[int]) -> None:
    """Delete these generations. Raises NixError if the current one is among them."""
    if given := [str(number) for number in numbers]:
        _nix_env(store, profile, "--delete-generations", *given)


def _nix_env(store: Store, profile: Path, *arguments: str) -> str:
    return text(call(store, ["nix-env", "--profile", str(profile), *arguments]))
