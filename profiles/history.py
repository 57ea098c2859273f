"""The record of a profile: its generations, what each holds, and which was active when.

Nix gives out the number of a generation again once its link is gone: after `nix-env
--delete-generations`, or when a profile is begun anew. So a record is true of the generation of its
number only while that generation's link leads to the recorded store path. A record that is not is
renewed from what the link leads to, before anything is done with it.

Nothing here commits.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from flask import current_app
from sqlalchemy import Select, delete, select, update

import nix
import registration
import services
import task_queue
from fields import PROFILE_NAME, PROFILE_NAME_ERROR
from machines import events as machine_events
from machines.models import Machine
from models import AnyRow, Package, PackageStatus, Task, db, utcnow
from nix import trees
from profiles import events as profile_events
from profiles.models import DEFAULT, Apply, Change, Generation, Membership, Profile, Reason
from schemas import PackageInSchema

NAMES = PackageInSchema()
GENERATION_NAME = re.compile("-[0-9]+-link$")


@dataclass(frozen=True)
class Found:
    """What a generation holds by its link: packages, and in words what can't be one.

    `is_broken` tells that the store has lost a part of it.
    """

    number: int
    store_path: str
    packages: list[nix.ProfilePackage]
    others: list[str]
    is_broken: bool


@dataclass(frozen=True)
class History:
    """A profile: where it is, and what is recorded of it."""

    id: int
    name: str
    path: Path

    @property
    def title(self) -> str:
        """What sentences call the profile."""
        return "the profile" if self.name == DEFAULT else f"the profile {self.name}"

    def label(self, number: int) -> str:
        """Return a generation's number, with the name of a profile other than `default`."""
        return str(number) if self.name == DEFAULT else f"{number} of {self.name}"

    # --- What there is ---

    def links(self) -> dict[int, str]:
        """Return the number and the store path of each generation that exists."""
        return nix.generations(self.path)

    def current_number(self) -> int | None:
        """Return the number of the generation that the profile leads to; its link may be gone."""
        return nix.current_generation(self.path)

    def current(self) -> tuple[int, str] | None:
        """Return number and store path of the active generation; None where there is none."""
        number = self.current_number()
        path = self.store_path(number) if number is not None else None
        return (number, path) if number is not None and path else None

    def link(self, number: int) -> Path:
        """Return the link that Nix keeps for a generation."""
        return nix.generation_link(self.path, number)

    def store_path(self, number: int) -> str | None:
        """Return where the link of a generation leads to; None where it is gone."""
        link = self.link(number)
        return str(link.readlink()) if link.is_symlink() else None

    def look(self, number: int) -> Found:
        """Return what a generation holds by its link; the store path is "" where that is gone."""
        path = self.store_path(number) or ""
        if not self.link(number).exists():
            return Found(number, path, [], ["what is gone from the store"], is_broken=True)

        store = services.get(nix.Store)
        try:
            elements = nix.installed(store, self.link(number))
        except nix.NixError as error:
            if type(error) is not nix.NixError:
                raise
            return Found(number, path, [], [f"what can't be read: {error}"], is_broken=False)

        every = {path for _, paths in elements for path in paths}
        valid = nix.valid_paths(store, every)
        packages, others = [], []
        for name, paths in elements:
            package = _package(name, paths) if valid.issuperset(paths) else None
            if package:
                packages.append(package)
            else:
                others.append(name)
        return Found(number, path, packages, others, is_broken=valid != every)

    # --- The record ---

    def active(self) -> list[AnyRow]:
        """Return the packages that the profile holds by its record, oldest first."""
        mine = PACKAGES.join(Membership).where(
            Membership.profile_id == self.id, Package.status == PackageStatus.ACTIVATED
        )
        return list(db.session.execute(mine.order_by(Package.id)).all())

    def _members(self) -> list[AnyRow]:
        """Return the packages that the profile holds by its record, also those that are lost."""
        mine = PACKAGES.join(Membership).where(Membership.profile_id == self.id)
        return list(db.session.execute(mine).all())

    def record_of(self, number: int) -> Generation | None:
        """Return the record of a generation; None where there is none that is true of it."""
        path = self.store_path(number)
        record = db.session.scalar(self._records().where(Generation.number == number))
        return record if record and path and record.store_path == path else None

    def untrue(self) -> list[int]:
        """Return the ids of the records that are true of no generation."""
        existing = self.links()
        rows = db.session.scalars(self._records())
        return [row.id for row in rows if not is_true(row, existing)]

    def unrecorded(self) -> list[int]:
        """Return the generations that have no true record."""
        recorded = {row.number: row.store_path for row in db.session.scalars(self._records())}
        return [number for number, path in self.links().items() if recorded.get(number) != path]

    def is_behind(self, number: int) -> bool:
        """Tell whether the last recorded change was to something else than this active one."""
        record = self.record_of(number)
        return record is None or record.id != self._last_recorded()

    def active_before(self) -> int | None:
        """Return the last generation but the current one that was active and still exists."""
        latest_first = (
            select(Generation.number, Generation.store_path)
            .join(Change, Change.generation_id == Generation.id)
            .where(Generation.profile_id == self.id)
            .order_by(Change.id.desc())
        )
        existing, now = self.links(), self.current_number()
        for row in db.session.execute(latest_first):
            if row.number != now and is_true(row, existing):
                return int(row.number)
        return None

    def note(self, number: int, packages: Collection[Any], reason: Reason, by: str | None) -> None:
        """Record that the profile has become this generation, which holds these packages."""
        held = sorted(map(entry, packages), key=itemgetter("id"))
        before = self._members()
        record = self.record_of(number) or self._begin(number, self.store_path(number))
        record.packages = held
        db.session.flush()
        db.session.add(Change(generation_id=record.id, reason=reason, by=by))
        self.touch()  # first, so that the row of the profile is locked first, as by an apply
        Membership.replace(self.id, [one["id"] for one in held])
        now = (number, record.store_path)
        profile_events.tell_change(self, reason, now, before, packages)
        if current_app.config["CACHE"] and record.published_at is None:
            task_queue.add_publishing(self.id)

    def forget(self, numbers: Iterable[int]) -> None:
        """Delete the records of generations."""
        mine = Generation.profile_id == self.id
        db.session.execute(delete(Generation).where(mine, Generation.number.in_(numbers)))

    def lock(self) -> bool:
        """Lock the row of the profile until the commit; return False when it is gone.

        Whoever accepts an apply has it locked. Under SQLite it is the whole database.
        """
        mine = update(Profile).where(Profile.id == self.id).values(revision=Profile.revision)
        return db.session.scalar(mine.returning(Profile.id)) is not None

    def empty(self) -> None:
        """Delete what is recorded of the profile's generations, and of what it holds."""
        profile_events.tell_change(self, profile_events.EMPTIED, None, self._members(), [])
        db.session.execute(delete(Generation).where(Generation.profile_id == self.id))
        self.touch()
        Membership.replace(self.id, [])

    def remove(self) -> None:
        """Delete the profile, which is empty, with the tasks of its applies and its machines."""
        applies = select(Apply.task_seq).where(Apply.profile_id == self.id)
        db.session.execute(delete(Task).where(Task.seq.in_(applies)))
        machine_events.remove(Machine.profile_id == self.id)
        db.session.execute(delete(Profile).where(Profile.id == self.id))
        profile_events.tell_removal(self)

    def touch(self) -> None:
        """Note that the profile has changed now."""
        self.count_change(changed_at=utcnow())

    def count_change(self, **more: Any) -> int:
        """Give the profile its next revision, and return that; `more` are other values to write."""
        mine = update(Profile).where(Profile.id == self.id)
        changed = mine.values(revision=Profile.revision + 1, **more)
        return db.session.scalars(changed.returning(Profile.revision)).one()

    def revision(self) -> int:
        """Return the number of changes of the profile, and of applies that were accepted."""
        return db.session.scalars(select(Profile.revision).where(Profile.id == self.id)).one()

    def _records(self) -> Select[Generation]:
        return select(Generation).where(Generation.profile_id == self.id)

    def _begin(self, number: int, path: str | None) -> Generation:
        """Add the record of a generation, in place of one of another generation of that number."""
        self.forget([number])
        record = Generation(profile_id=self.id, number=number, store_path=path, packages=[])
        db.session.add(record)
        return record

    def _last_recorded(self) -> int | None:
        changes = select(Change.generation_id).join(Generation)
        mine = changes.where(Generation.profile_id == self.id)
        return db.session.scalar(mine.order_by(Change.id.desc()).limit(1))

    # --- Following the profile ---

    def forget_gone(self) -> Iterator[str]:
        """Delete the records of generations that no longer exist."""
        recorded = {row.number for row in db.session.scalars(self._records())}
        gone = sorted(recorded - self.links().keys())
        if gone:
            self.forget(gone)
            yield f"generations {', '.join(map(str, gone))} of {self.title} are gone"

    def renew(self, found: Found) -> tuple[Generation, list[str]]:
        """Record what a generation without a true record holds; return that, and what to tell."""
        old = db.session.scalar(self._records().where(Generation.number == found.number))
        if old and old.store_path is None and (found.is_broken or _holds(found, old)):
            old.store_path = found.store_path  # of an earlier version, which did not record it
            return old, []

        label = self.label(found.number)
        said, entries = [], []
        for package in found.packages:
            row, is_new = _registered(package)
            entries.append(entry(row) | {"store_paths": list(package.paths)})
            if is_new:
                said.append(
                    f"{package} is registered again: generation {self.label(found.number)} holds it"
                )
        record = self._begin(found.number, found.store_path)
        record.packages = entries
        db.session.flush()

        more = f", and of {', '.join(found.others)}" if found.others else ""
        holds = f"of {len(entries)} packages{more}"
        made = f"generation {label} was made by somebody else, {holds}"
        return record, [made, *said]

    def follow(self) -> list[str]:
        """Make the packages of the profile exactly those that it holds by its true record.

        Return a sentence about each correction.
        """
        said = []
        now = self.current()
        record = self.record_of(now[0]) if now else None
        held = _adopt_record(record) if record else []
        if record and record.id != self._last_recorded():
            db.session.add(Change(generation_id=record.id, reason=Reason.FOUND))
            said.append(f"{self.title} was switched to generation {record.number} by somebody else")

        members, before = self._members(), {row.id: row for row in self.active()}
        now_in = {package.id: package for package in held}
        come = [one for one in held if one.id not in before]
        gone = [row for row in before.values() if row.id not in now_in]
        said += [f"{one.name} {one.version} is in {self.title}" for one in come]
        said += [f"{row.name} {row.version} is not in {self.title}" for row in gone]
        if said:
            self.touch()
        if said or {row.id for row in members} != now_in.keys():
            profile_events.tell_change(self, Reason.FOUND, now, members, held)
        Membership.replace(self.id, now_in)
        return said


def of(name: str) -> History | None:
    """Return the history of a profile; None when there is none of this name."""
    if not PROFILE_NAME.fullmatch(name):
        return None  # PostgreSQL would refuse to look for some
    profile_id = db.session.scalar(select(Profile.id).where(Profile.name == name))
    return None if profile_id is None else History(profile_id, name, place(name))


def every() -> list[History]:
    """Return the histories of all profiles, `default` first."""
    rows = db.session.execute(select(Profile.id, Profile.name).order_by(Profile.id))
    return [History(row.id, row.name, place(row.name)) for row in rows]


def place(name: str) -> Path:
    """Return the path of a profile."""
    if name == DEFAULT:
        default: Path = current_app.config["PROFILE"]
        return default
    return _folder() / name


def _folder() -> Path:
    folder: Path = current_app.config["DATA_DIR"] / "profiles"
    return folder


def name_fault(name: str) -> str | None:
    """Return why no profile can have this name."""
    if not PROFILE_NAME.fullmatch(name):
        return PROFILE_NAME_ERROR
    if GENERATION_NAME.search(name):
        return "Must not end as the link of a generation does: -NUMBER-link."
    if name != DEFAULT and _is_same(place(name), current_app.config["PROFILE"]):
        return "PROFILE, which `default` has, is at the path that this name stands for."
    return None


def _is_same(one: Path, other: Path) -> bool:
    """Tell whether two paths of links, not what these lead to, are the same."""
    return one.name == other.name and one.parent.resolve() == other.parent.resolve()


def unregistered() -> list[str]:
    """Return the names of profiles that are in their folder, and not in the database."""
    known = set(db.session.scalars(select(Profile.name)))
    return sorted(
        path.name
        for path in trees.listed(_folder())
        if path.name not in known
        and not name_fault(path.name)
        and path.is_symlink()
        and nix.generations(path)
    )


PACKAGES = select(Package.id, Package.name, Package.version, Package.status, Package.store_paths)


def entry(package: AnyRow | Package) -> dict[str, Any]:
    """Return what a generation's record holds of a package."""
    return {
        "id": package.id,
        "name": package.name,
        "version": package.version,
        "store_paths": package.store_paths,
    }


def is_true(record: AnyRow | Generation, existing: dict[int, str]) -> bool:
    """Tell whether a record is true of one of the existing generations."""
    path = existing.get(record.number)
    return path is not None and record.store_path in (path, None)


# --- Packages that are found in a profile ---


def _package(name: str, paths: tuple[str, ...]) -> nix.ProfilePackage | None:
    """Return the package that is in a profile under this name, registered or not.

    None for a name that can't be that of a package, with its version.
    """
    here = select(Package.name, Package.version).where(Package.store_path == paths[0])
    rows = db.session.execute(here.order_by(Package.status, Package.id)).all()  # active ones first
    # Several packages can have one store path: the name tells which of them it is.
    named = [row for row in rows if f"{row.name}-{row.version}" == name]
    found = next(iter([*named, *rows]), None) or _split(name)
    return nix.ProfilePackage(*found, paths) if found else None


def _split(title: str) -> tuple[str, str] | None:
    """Return the name and the version in NAME-VERSION."""
    words = title.split("-")
    for count in range(1, len(words)):
        name, version = "-".join(words[:count]), "-".join(words[count:])
        if not NAMES.validate({"name": name, "version": version}):
            return name, version
    return None


def _holds(found: Found, record: Generation) -> bool:
    """Tell whether what was found has all that the record has."""
    paths = {package.paths for package in found.packages}
    return all(tuple(one["store_paths"]) in paths for one in record.packages)


def held_by(record: Generation) -> list[nix.ProfilePackage]:
    """Return the packages that a generation holds by its record."""
    return [
        nix.ProfilePackage(one["name"], one["version"], tuple(one["store_paths"]))
        for one in record.packages
    ]


def lost(packages: Iterable[nix.ProfilePackage]) -> list[nix.ProfilePackage]:
    """Return which of the packages are gone from the store."""
    packages = list(packages)
    paths = [path for package in packages for path in package.paths]
    valid = nix.valid_paths(services.get(nix.Store), paths)
    return [package for package in packages if not valid.issuperset(package.paths)]


def adopt(packages: Iterable[nix.ProfilePackage]) -> list[Package]:
    """Return packages that the store has as registered, and downloaded with these store paths."""
    return [_adopt(package) for package in packages]


def _adopt_record(record: Generation) -> list[Package]:
    """Return what is left of a generation's packages, registered and downloaded again."""
    packages = held_by(record)
    gone = lost(packages)
    held = adopt(package for package in packages if package not in gone)
    record.packages = [entry(package) for package in held]
    return held


def _adopt(package: nix.ProfilePackage) -> Package:
    row, _ = _registered(package)
    paths = list(package.paths)
    if row.store_paths != paths:
        _download(row, paths)
    return row


def _registered(package: nix.ProfilePackage) -> tuple[Package, bool]:
    """Return the package in the database, and whether it was not there; it is downloaded then."""
    is_new = bool(registration.add([(package.name, package.version)]))
    is_same = Package.name == package.name, Package.version == package.version
    row = db.session.scalars(select(Package).where(*is_same)).one()
    if is_new:
        _download(row, list(package.paths))
    return row, is_new


def _download(package: Package, store_paths: list[str]) -> None:
    size = nix.closure_size(services.get(nix.Store), store_paths)
    package.set_downloaded(store_paths, size)
