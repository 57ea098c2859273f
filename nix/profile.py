"""Profiles: what a profile holds, and its generations."""

import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nix.errors import Collision, NixError
from nix.store import Store, call, text

ACTIVATE = Path(__file__).resolve().parent / "activate.nix"
GENERATION_LINK = re.compile(r".*-\d+-link")
GENERATION_LINE = re.compile(r"(\d+) +(\S+ \S+)(?: +(\(current\)))?")
COLLISION_MESSAGE = re.compile(
    r"'(/[^'\n]+)' and (?:non-directory )?'(/[^'\n]+)'"
    r"|conflict for the following files:\s+(/.+)\n\s*(/.+)"
)


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

    Raises Collision, which leaves the profile as it was.
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
        raise _collision(str(error), wanted) or error from None
    return _number(profile.readlink())


def _activation(profile: Path, packages: Path) -> list[str]:
    return [
        "nix-env",
        *("--profile", str(profile)),
        *("--file", str(ACTIVATE)),
        *("--argstr", "packages", str(packages)),
        *("--set", "--attr", ""),
    ]


def _collision(message: str, packages: Sequence[ProfilePackage]) -> Collision | None:
    """Return the collision that Nix's message reports, if it reports one."""
    match = COLLISION_MESSAGE.search(message)
    if match is None:
        return None

    first, second = (path.strip() for path in match.groups() if path)
    owner, file = _owner(first, packages)
    other_owner, _ = _owner(second, packages)
    return Collision(owner, other_owner, file)


def _owner(path: str, packages: Iterable[ProfilePackage]) -> tuple[str, str]:
    """Return the package that a file belongs to, and the file's path inside it."""
    owners = (
        (str(package), path.removeprefix(f"{own}/"))
        for package in packages
        for own in package.paths
        if path.startswith(f"{own}/")
    )
    return next(owners, (path, path))


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
    elements = json.loads(_nix_env(store, profile, "--query", "--json", "--out-path"))
    return [(element["name"], _main_path(element["outputs"])) for element in elements.values()]


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
