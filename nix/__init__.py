"""Nix: one function per thing it is asked to do, on top of its classic commands.

Arguments are trusted: whoever calls has checked them. A user's text goes into --argstr alone.
"""

import json
import os
import re
import stat
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path

from nix.closure import closure_size
from nix.evaluate import (
    EvaluationFailed,
    NameUnknown,
    Offer,
    Offers,
    Resolution,
    VersionUnavailable,
    offers,
    resolve,
)
from nix.internal_json import BuildFailed, DiskFull, HashMismatch, Journal, Progress, Tick, ignore
from nix.process import NixCrashed, NixError, NixMissing, TimedOut, run, scratch, sweep
from nix.store import CALL_SECONDS, Store, call, check, machine_store, private_store, text

__all__ = [
    "BuildFailed",
    "Collision",
    "DiskFull",
    "EvaluationFailed",
    "Generation",
    "HashMismatch",
    "NameUnknown",
    "NixCrashed",
    "NixError",
    "NixMissing",
    "Offer",
    "Offers",
    "ProfilePackage",
    "Progress",
    "Resolution",
    "Store",
    "Tick",
    "TimedOut",
    "VersionUnavailable",
    "check",
    "closure_size",
    "collect_garbage",
    "default_catalogs",
    "delete_generations",
    "garbage",
    "generations",
    "installed",
    "machine_store",
    "offers",
    "private_store",
    "realise",
    "resolve",
    "set_profile",
    "switch_generation",
    "valid_paths",
    "version",
]

HERE = Path(__file__).resolve().parent
ACTIVATE = HERE / "activate.nix"
BUNDLED_CATALOG = HERE.parent / "catalog"

COLLECT_SECONDS = 3600
MARGIN_SECONDS = 5
PATHS_A_CALL = 1000

STORE_NAME = r"[0-9a-df-np-sv-z]{32}-[\w+.?=-]+"
REPAIRING = Progress(0, 1, "building")
GENERATION = re.compile(r"(\d+) +(\S+ \S+)(?: +(\(current\)))?")
COLLISION = re.compile(
    r"'(/[^'\n]+)' and (?:non-directory )?'(/[^'\n]+)'"
    r"|conflict for the following files:\s+(/.+)\n\s*(/.+)"
)


class Collision(NixError):
    """Two packages hold the same file, so that a profile can't hold both."""

    hint = "deactivate one of the two first"

    def __init__(self, first: str, second: str, file: str) -> None:
        """Name the two packages, and the file as the profile would have it."""
        super().__init__(f"{first} and {second} both have the file {file}")
        self.first, self.second, self.file = first, second, file


@dataclass(frozen=True)
class ProfilePackage:
    """A package that a profile is to hold: the store paths of its outputs, the main one first."""

    name: str
    version: str
    paths: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Generation:
    """A numbered version of a profile."""

    number: int
    created: datetime
    current: bool


def version(store: Store) -> str:
    """Return Nix's version."""
    return text(call(store, ["nix-store", "--version"])).split()[-1]


def default_catalogs(store: Store) -> tuple[str, ...]:
    """Return <nixpkgs> if Nix finds one, else the bundled demonstration catalog."""
    found = call(store, ["nix-instantiate", "--find-file", "nixpkgs"])
    return (str(BUNDLED_CATALOG),) if found.code else ("<nixpkgs>",)


def realise(
    store: Store,
    drv_path: str,
    output: str,
    root: Path,
    *,
    tmp: Path,
    build_seconds: int,
    silence_seconds: int,
    builders: str = "",
    tick: Tick = ignore,
) -> str:
    """Build or fetch an output of a derivation, with `root` as its GC root; return its store path.

    `tmp` is a directory of this run's own: whatever still works in it afterwards is ended. `tick`
    is called with what is new in the log and with the progress, as `heard` in process.run.
    Raises BuildFailed, HashMismatch, DiskFull, TimedOut.
    """
    journal = Journal()

    def heard(lines: list[bytes]) -> None:
        tick(journal.read(lines), journal.progress)

    root.parent.mkdir(parents=True, exist_ok=True)
    done = None
    with scratch(tmp) as place:
        try:
            # Nix is to be the first to see a limit passed: its message says in which derivation.
            done = run(
                _build(drv_path, output, root, build_seconds, silence_seconds, builders),
                environ=store.with_tmp(place).environ,
                seconds=build_seconds + MARGIN_SECONDS,
                silence_seconds=silence_seconds + MARGIN_SECONDS,
                heard=heard,
            )
        except TimedOut as error:
            raise TimedOut(journal.quote(str(error))) from None
        finally:
            # what was ended may have begun a build that the journal has not heard of
            if journal.has_built or done is None:
                sweep(place)
    if done.code:
        raise journal.failure(done.code)

    path = done.stdout.decode().strip()
    restore(store, path, seconds=build_seconds, tick=tick)
    if output != "out":
        _move_root(store, path, root.with_name(f"{root.name}-{output}"), root)
    tick(b"", replace(journal.progress, phase="rooting"))
    return path


def _build(
    drv_path: str,
    output: str,
    root: Path,
    build_seconds: int,
    silence_seconds: int,
    builders: str,
) -> list[str]:
    argv = [
        "nix-build",
        f"{drv_path}!{output}",
        *("--out-link", str(root)),
        *("--log-format", "internal-json"),
        *("--timeout", str(build_seconds)),
        *("--max-silent-time", str(silence_seconds)),
        *("--option", "log-lines", "0"),
    ]
    return [*argv, "--builders", builders] if builders else argv


def catalog_path(store: Store, catalog: str) -> Path:
    """Return where a catalog is: for a <name>, where Nix finds it; it may be missing."""
    if not catalog.startswith("<"):
        return Path(catalog)
    found = call(store, ["nix-instantiate", "--find-file", catalog.strip("<>")])
    return Path("/nonexistent") if found.code else Path(text(found).strip())


def add_root(store: Store, path: str, root: Path) -> None:
    """Keep a valid store path alive by a link at `root`."""
    root.parent.mkdir(parents=True, exist_ok=True)
    text(call(store, ["nix-store", "--realise", path, "--add-root", str(root)]))


def _move_root(store: Store, path: str, made: Path, root: Path) -> None:
    """Make `root` the GC root of a path; nix-build added the output's name to the one it made."""
    add_root(store, path, root)
    made.unlink()


def valid_paths(store: Store, paths: Iterable[str]) -> set[str]:
    """Return those of the store paths that the store has on record, and the disk holds."""
    return {path for path in _registered(store, paths) if os.path.lexists(path)}


def restore(store: Store, path: str, *, seconds: int = CALL_SECONDS, tick: Tick = ignore) -> None:
    """Build again a path that the store has on record, but that is gone from the disk."""
    if not os.path.lexists(path) and _registered(store, [path]):
        argv = ["nix-store", "--repair-path", path]
        text(call(store, argv, seconds=seconds, beat=lambda: tick(b"", REPAIRING)), BuildFailed)


def _registered(store: Store, paths: Iterable[str]) -> set[str]:
    folder = store.environ.get("NIX_STORE_DIR", "/nix/store")
    own = {path for path in paths if re.fullmatch(f"{re.escape(folder)}/{STORE_NAME}", path)}
    return own - set(_of_many(store, ["nix-store", "--check-validity", "--print-invalid"], own))


def _of_many(store: Store, argv: Sequence[str], paths: Iterable[str]) -> Iterator[str]:
    """Yield the words that a program answers about `paths`, which may be too many for one call."""
    rest = iter(paths)
    while batch := list(islice(rest, PATHS_A_CALL)):
        yield from text(call(store, [*argv, *batch])).split()


def set_profile(
    store: Store, profile: Path, packages: Iterable[ProfilePackage], *, tmp: Path
) -> None:
    """Make the profile hold exactly these packages, in one step; `tmp` is a folder for files.

    Raises Collision, and the profile is as it was.
    """
    wanted = list(packages)
    for folder in (tmp, profile.parent):
        folder.mkdir(parents=True, exist_ok=True)

    with tempfile.NamedTemporaryFile("w", dir=tmp, suffix=".json") as file:
        json.dump([asdict(package) for package in wanted], file)
        file.flush()
        argv = [
            "nix-env",
            *("--profile", str(profile)),
            *("--file", str(ACTIVATE)),
            *("--argstr", "packages", str(Path(file.name).resolve())),
            *("--set", "--attr", ""),
        ]
        done = call(store.with_tmp(tmp), argv)

    try:
        text(done)
    except NixError as error:
        raise _collision(str(error), wanted) or error from None


def _collision(message: str, packages: Iterable[ProfilePackage]) -> Collision | None:
    match = COLLISION.search(message)
    if match is None:
        return None

    one, other = filter(None, match.groups())
    owners = [_owner(path.strip(), packages) for path in (one, other)]
    return Collision(owners[0][0], owners[1][0], owners[0][1])


def _owner(path: str, packages: Iterable[ProfilePackage]) -> tuple[str, str]:
    """Return which package a path belongs to, and the path inside of it."""
    owners = (
        (str(package), path.removeprefix(f"{own}/"))
        for package in packages
        for own in package.paths
        if path.startswith(f"{own}/")
    )
    return next(owners, (path, path))


def installed(store: Store, profile: Path) -> list[tuple[str, str]]:
    """Return the name and the main store path of what a profile, or a generation's link, holds."""
    argv = ["nix-env", "--profile", str(profile), "--query", "--json", "--out-path"]
    elements = json.loads(text(call(store, argv))).values()

    # Who changed the profile by hand may have put in what has no output of that name.
    return [
        (element["name"], element["outputs"].get("out") or next(iter(element["outputs"].values())))
        for element in elements
    ]


def generations(store: Store, profile: Path) -> list[Generation]:
    """Return the profile's generations, oldest first."""
    if not profile.parent.exists():
        return []
    argv = ["nix-env", "--profile", str(profile), "--list-generations"]
    return [
        Generation(int(number), datetime.fromisoformat(created).replace(tzinfo=UTC), bool(current))
        for number, created, current in GENERATION.findall(text(call(store, argv)))
    ]


def switch_generation(store: Store, profile: Path, number: int) -> None:
    """Make the profile what it was in that generation, in one step."""
    argv = ["nix-env", "--profile", str(profile), "--switch-generation", str(number)]
    text(call(store, argv))


def delete_generations(store: Store, profile: Path, numbers: Iterable[int]) -> None:
    """Forget these generations; the current one can't be."""
    given = [str(number) for number in numbers]
    if given:
        text(call(store, ["nix-env", "--profile", str(profile), "--delete-generations", *given]))


def garbage(store: Store, without: Collection[Path] = ()) -> int:
    """Return how many bytes collect_garbage would free if these GC roots were gone."""
    dead = set(_dead(store))
    if without:
        everything = dead | set(_collector(store, "--print-live"))
        dead = everything - _live(store, {str(link) for link in without})
    return _bytes_of(dead)


def _live(store: Store, without: Collection[str]) -> set[str]:
    """Return what the collector keeps when some of the roots are gone.

    That is the closure of the other roots and, with it, the derivations it was built from
    (keep-derivations, Nix's default).
    """
    lines = (line.partition(" -> ") for line in _collector(store, "--print-roots"))
    kept = valid_paths(store, {path for link, _, path in lines if path and link not in without})
    live = _closure(store, kept)
    derivers = set(_of_many(store, ["nix-store", "--query", "--deriver"], live))
    return live | _closure(store, valid_paths(store, derivers - {"unknown-deriver"}))


def _closure(store: Store, paths: Iterable[str]) -> set[str]:
    return set(_of_many(store, ["nix-store", "--query", "--requisites"], paths))


def collect_garbage(store: Store) -> int:
    """Delete every store path that no GC root reaches; return how many bytes that freed."""
    dead = _dead(store)
    before = _bytes_of(dead)
    text(call(store, ["nix-store", "--gc"], seconds=COLLECT_SECONDS))
    return before - _bytes_of(dead)


def _dead(store: Store) -> list[str]:
    return _collector(store, "--print-dead")


def _collector(store: Store, what: str) -> list[str]:
    return text(call(store, ["nix-store", "--gc", what], seconds=COLLECT_SECONDS)).splitlines()


def _bytes_of(paths: Iterable[str]) -> int:
    """Return what removing the paths frees, in bytes of files."""
    links: Counter[tuple[int, int]] = Counter()
    files: dict[tuple[int, int], os.stat_result] = {}
    for file in chain.from_iterable(map(_tree, paths)):
        with suppress(FileNotFoundError):
            status = os.lstat(file)
            if not stat.S_ISDIR(status.st_mode):
                files[status.st_dev, status.st_ino] = status
                links[status.st_dev, status.st_ino] += 1

    # An optimised store has one more link to each file, which the collector removes when it is
    # the last one.
    freed = (file for key, file in files.items() if file.st_nlink - links[key] <= 1)
    return sum(file.st_size for file in freed)


def _tree(path: str) -> Iterator[str]:
    yield path
    for top, folders, files in os.walk(path):
        yield from (os.path.join(top, name) for name in (*folders, *files))
