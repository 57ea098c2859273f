"""Profiles: what a profile holds, and its generations."""

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nix import trees
from nix.errors import Collision, NixError, ProfileRefused, ProfileReplaced
from nix.store import Store, call, make_passable, text

ACTIVATE = Path(__file__).resolve().parent / "activate.nix"
# Nix counts from 1 and writes no leading zeros: other numbers are of links made by hand.
GENERATION_LINK = re.compile(r"(.+)-(0|[1-9][0-9]{0,8})-link")
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


def set_profile(
    store: Store,
    profile: Path,
    packages: Iterable[ProfilePackage],
    *,
    tmp: Path,
    beat: Callable[[], None] = lambda: None,
) -> int:
    """Make the profile hold exactly these packages, in one step; return its generation's number.

    Temporary files are written in `tmp`. `beat` is called meanwhile, and ends it by raising.

    Raises Collision or another ProfileRefused, which leave the profile as it was.
    """
    wanted = list(packages)
    _make_folder(profile.parent)
    tmp.mkdir(parents=True, exist_ok=True)

    with tempfile.NamedTemporaryFile("w", dir=tmp, suffix=".json") as file:
        json.dump([asdict(package) for package in wanted], file)
        file.flush()
        activation = _activation(profile, Path(file.name).resolve())
        done = call(store.with_tmp(tmp), activation, beat=beat)

    try:
        text(done)
    except NixError as error:
        raise _refusal(error, wanted) from None
    return int(profile.readlink().name.split("-")[-2])


def set_store_path(store: Store, profile: Path, path: str) -> int:
    """Make the profile lead to a store path, in one step; return its generation's number."""
    _make_folder(profile.parent)
    _nix_env(store, profile, "--set", path)
    return int(profile.readlink().name.split("-")[-2])


def _make_folder(folder: Path) -> None:
    try:
        make_passable(folder)
    except OSError as error:
        raise NixError(f"the profile's folder can't be made: {error}") from None


def check_activatable(store: Store, package: ProfilePackage) -> None:
    """Raise ProfileRefused for a package of which a profile would hold nothing of the store."""
    path = Path(package.paths[0])
    if path.is_dir() and not path.is_symlink():
        return  # as nearly all are: to resolve a path takes much longer
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


def leads_to(profile: Path) -> Path | None:
    """Return where the profile's link leads to; None when there is no profile.

    Raises ProfileReplaced where something else is in its place.
    """
    try:
        return profile.readlink()
    except FileNotFoundError:
        return None
    except OSError as error:
        what = "a folder" if profile.is_dir() else "a file" if profile.is_file() else str(error)
        problem = f"should be a link to a generation, but is {what}: move it away"
        raise ProfileReplaced(f"{profile} {problem}") from None


def relink(profile: Path, target: Path | None) -> None:
    """Make the profile a link to `target`, in one step, or remove it where that is None."""
    if target is None:
        profile.unlink(missing_ok=True)
        return
    new = profile.with_name(f"{profile.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.rename(profile)


def current_generation(profile: Path) -> int | None:
    """Return the number of the generation that the profile leads to, whose link may be gone.

    None when there is no profile, or when it leads elsewhere.
    """
    if not profile.is_symlink():
        return None
    # Nix writes the name alone, but a link made by hand may have the whole path.
    target = profile.parent / profile.readlink()
    is_beside = target.parent.resolve() == profile.parent.resolve()
    return _number(profile, target.name) if is_beside else None


def _number(profile: Path, name: str) -> int | None:
    """Return the number in the name of a generation's link, PROFILE-NUMBER-link."""
    match = GENERATION_LINK.fullmatch(name)
    return int(match[2]) if match and match[1] == profile.name else None


def generation_link(profile: Path, number: int) -> Path:
    """Return the link that Nix keeps for a generation of the profile."""
    return profile.with_name(f"{profile.name}-{number}-link")


def generations(profile: Path) -> dict[int, str]:
    """Return the number of each of the profile's generations, and where its link leads to."""
    links = trees.listed(profile.parent)
    numbered = ((_number(profile, link.name), link) for link in links if link.is_symlink())
    found = ((number, str(link.readlink())) for number, link in numbered if number is not None)
    return dict(sorted(found))


def installed(store: Store, profile: Path) -> list[tuple[str, tuple[str, ...]]]:
    """Return the name and the store paths, the main one first, of all in a profile or generation.

    A name has its version after a hyphen.
    """
    written = _nix_env(store, profile, "--query", "--json", "--out-path")
    try:
        elements = json.loads(written).values()
        return [(one["name"], _paths(one["outputs"])) for one in elements if one["outputs"]]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise NixError(f"nix-env's list of the profile can't be read: {written!r:.100}") from None


def _paths(outputs: dict[str, str]) -> tuple[str, ...]:
    """Return the paths of `out`, `out1`, `out2` and so on, or of outputs that have other names."""
    names = sorted(outputs, key=lambda name: (name != "out", len(name), name))
    return tuple(outputs[name] for name in names)


def switch_generation(store: Store, profile: Path, number: int) -> None:
    """Make the profile what it was in that generation, in one step."""
    _nix_env(store, profile, "--switch-generation", str(number))


def delete_generations(store: Store, profile: Path, numbers: Iterable[int]) -> None:
    """Delete these generations. Raises NixError if the current one is among them."""
    if given := [str(number) for number in numbers]:
        _nix_env(store, profile, "--delete-generations", *given)


def _nix_env(store: Store, profile: Path, *arguments: str) -> str:
    return text(call(store, ["nix-env", "--profile", str(profile), *arguments]))
