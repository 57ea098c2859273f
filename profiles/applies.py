"""Applies: making a profile hold exactly a set of packages, in one generation or not at all.

A request registers what is missing, and queues the downloads and the apply. The apply waits in the
queue, without a worker, until none of its packages is being downloaded.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Executable, Select, exists, func, select, tuple_
from sqlalchemy.orm import aliased

import nix
import registration
import task_queue
from attempts import Attempt, Cancelled, Failed, Outdated
from errors import Busy, CheckFailed, InvalidInput, LockMismatch
from models import (
    LIVE,
    AnyRow,
    Package,
    PackageStatus,
    Task,
    TaskStatus,
    db,
)
from profiles import activation, history, plans
from profiles.activation import Watch
from profiles.history import PACKAGES, History
from profiles.models import AppliedPackage, Apply
from task_ends import TaskError
from task_queue import SUPERSEDED
from task_subjects import WantedSet

TURN_SECONDS = 0.5  # between the looks at whether the task is to be stopped
NamedVersion = tuple[str, str]
Versions = Mapping[NamedVersion, str | None]  # each with the store path that it must have, if any
Check = Callable[[History | None], bool]


# --- Requests ---


def versions(packages: Iterable[Mapping[str, str]]) -> Versions:
    """Return the versions that a request names. Raises InvalidInput for two of a name."""
    wanted: dict[NamedVersion, str | None] = {}
    for package in packages:
        one, path = (package["name"], package["version"]), package.get("store_path")
        if wanted.get(one) and path not in (None, wanted[one]):
            message = f"{' '.join(one)} can't be both {wanted[one]} and {path}."
            raise InvalidInput(errors={"packages": [message]})
        wanted[one] = path or wanted.get(one)
    _refuse_doubles(wanted)
    return wanted


def accept(
    name: str,
    wanted: Versions,
    check: Check,
    *,
    by: str | None,
    request_id: str | None,
) -> UUID | None:
    """Queue an apply of a set to a profile, made where there is none; return its task's id.

    `check` is called with the profile, None where there was none, when no other request can change
    it; it tells whether the set is meant for this state of the profile alone. Return None where
    nothing is to do, and the id of an apply that is about to do the same. Raises InvalidInput for
    a name that no profile can have, or LockMismatch for a package that has another store path.
    """
    profile, is_new = activation.add(name)
    is_for_this_state = check(None if is_new else profile)
    ids = _registered(wanted)
    _refuse_mismatch(wanted)
    if not is_new and _is_so(profile, ids):
        db.session.rollback()
        return None

    waits = task_queue.add_downloads(ids, request_id)
    task_id = None if is_for_this_state else _same(profile, ids)
    if task_id is None:
        revision = profile.count_change()
        more = {"by": by, "revision": revision if is_for_this_state else None}
        task_id = task_queue.add_apply(profile.id, ids, request_id, waits=waits, **more)
    db.session.commit()
    return task_id


def plan(name: str, wanted: Versions, check: Check) -> dict[str, Any]:
    """Return what an apply would change, without doing it.

    `to_download` are the versions that would be downloaded first; only the others are looked at for
    collisions, and count in `closure_size_change`, which is in bytes. Raises InvalidInput,
    LockMismatch or nix.ProfileRefused.
    """
    activation.check_name(name)
    profile = history.of(name)
    check(profile)
    _refuse_mismatch(wanted)
    before = profile.active() if profile else []
    found = list(db.session.execute(PACKAGES.where(_is_one_of(wanted))))
    there = [package for package in found if package.status != PackageStatus.CREATED]
    plans.check_new(profile, there)
    plans.try_out(there)

    ids = {(package.name, package.version): package.id for package in found}
    held, missing = {(one.name, one.version) for one in before}, {*wanted} - {*_named(there)}
    versions = dict(wanted.keys())
    removed = [one for one in before if (one.name, one.version) not in wanted]
    return {
        "added": [_told(one, ids) for one in sorted({*wanted} - held)],
        "removed": removed,
        "replaced": [
            {"name": old.name, "old": old.version, "new": versions[old.name]}
            for old in removed
            if old.name in versions
        ],
        "to_download": [_told(one, ids) for one in sorted(missing)],
        "closure_size_change": plans.closure_size(there) - plans.closure_size(before),
    }


def with_package(state: AnyRow, name: str, version: str) -> Versions:
    """Return the set of a profile with another package, in place of another version of its name.

    `state` is the profile by its record. Where an apply waits or runs, it is the set of that, which
    the next apply takes the place of.
    """
    held: Versions = {(one["name"], one["version"]): None for one in state.packages or []}
    if state.apply is not None:
        coming = select(Package.name, Package.version, AppliedPackage.store_path)
        coming = coming.join(AppliedPackage).where(AppliedPackage.task_seq == state.apply)
        held = {(one.name, one.version): one.store_path for one in db.session.execute(coming)}
    others = {named: path for named, path in held.items() if named[0] != name}
    return others | {(name, version): held.get((name, version))}


def is_wanted() -> ColumnElement[bool]:
    """Select the packages that an apply which waits or runs has in its set."""
    mine = AppliedPackage.package_id == Package.id, AppliedPackage.task_seq == Task.seq
    return exists().where(*mine, Task.status.in_(LIVE))


def _refuse_doubles(wanted: Iterable[NamedVersion]) -> None:
    versions: dict[str, str] = {}
    for name, version in wanted:
        other = versions.setdefault(name, version)
        if other != version:
            message = f"A profile holds one version of a name, not {name} {other} and {version}."
            raise InvalidInput(errors={"packages": [message]})


def _refuse_mismatch(wanted: Versions) -> None:
    """Raise LockMismatch where a package that is downloaded has another path than it must have."""
    exact = {one: path for one, path in wanted.items() if path}
    if not exact:
        return
    found = select(Package.name, Package.version, Package.store_path).where(_is_one_of(exact))
    there = db.session.execute(found.where(Package.status != PackageStatus.CREATED))
    lines = [_mismatch(one, exact[one.name, one.version]) for one in there]
    if told := "\n".join(filter(None, lines)):
        raise LockMismatch(detail=told)


def _mismatch(package: AnyRow, wanted: str | None) -> str:
    """Return in a line which store path a package has instead of the wanted one; "" if none."""
    if wanted in (None, package.store_path):
        return ""
    return f"{package.name} {package.version} is {package.store_path} here, not {wanted}"


def _named(packages: Sequence[AnyRow]) -> Iterator[NamedVersion]:
    return ((package.name, package.version) for package in packages)


def _told(named: NamedVersion, ids: dict[NamedVersion, int]) -> dict[str, Any]:
    """Return a version as it is shown, without an id where it is not registered."""
    name, version = named
    return {"id": ids.get(named), "name": name, "version": version}


def _is_one_of(wanted: Collection[NamedVersion]) -> ColumnElement[bool]:
    return tuple_(Package.name, Package.version).in_(wanted)


def _registered(wanted: Versions) -> dict[int, str | None]:
    """Return packages, registered where they aren't yet, that none can forget now.

    They are ids, each with the store path that it must have.
    """
    # In the order of ids, as others lock several; a weak lock, which holds up no download's end.
    named = select(Package.id, Package.name, Package.version)
    kept = named.where(_is_one_of(wanted)).order_by(Package.id)
    kept = kept.with_for_update(read=True, key_share=True)
    found: list[AnyRow] = []
    while len(found) < len(wanted):  # again where one was forgotten between the two statements
        registration.add(sorted(wanted))
        found = list(db.session.execute(kept))
    return {package.id: wanted[package.name, package.version] for package in found}


def _is_so(profile: History, ids: Collection[int]) -> bool:
    """Tell whether the profile holds exactly these packages, and no apply is going to change it."""
    now = profile.current()
    is_true = now is not None and not profile.is_behind(now[0])
    return (
        is_true
        and {package.id for package in profile.active()} == set(ids)
        and not activation.is_applying(profile)
    )


def _same(profile: History, ids: Mapping[int, str | None]) -> UUID | None:
    """Return the task that is about to apply exactly these packages, whatever changes meanwhile."""
    newest = _newest(profile).where(Task.status.in_(LIVE), Apply.revision.is_(None))
    task = db.session.execute(newest).one_or_none()
    if task is None:
        return None
    packages = select(AppliedPackage.package_id, AppliedPackage.store_path)
    accepted = db.session.execute(packages.where(AppliedPackage.task_seq == task.seq))
    return task.id if {one.package_id: one.store_path for one in accepted} == ids else None


def _newest(profile: History) -> Select[int, UUID]:
    """Select the newest apply of a profile."""
    other = aliased(Apply)
    newest = select(func.max(other.task_seq)).where(other.profile_id == profile.id)
    return select(Task.seq, Task.id).join(Apply).where(Task.seq == newest.scalar_subquery())


# --- The task ---


def apply(attempt: Attempt, subject: WantedSet) -> Sequence[Executable]:
    """Make the profile hold the set.

    Raises Outdated where a newer set was given, Failed, or nix.ProfileRefused.
    """
    profile = History(subject.profile_id, subject.profile, history.place(subject.profile))
    attempt.say(f"attempt {attempt.lease.attempt}: applying a set to {profile.title}")
    with _turn(attempt, profile):
        packages = _packages(subject)
        _check(profile, subject, packages)
        try:
            watch = Watch(attempt.beat, partial(_confirm, attempt))
            activation.hold(profile, packages, subject.by, watch)
        except CheckFailed as error:
            raise Failed(TaskError("check_failed", str(error), error.hint)) from None
        except nix.NixError as error:
            if type(error) is nix.NixError:  # which is no package's fault
                raise nix.NixUnavailable(str(error)) from None
            raise
        number = profile.current_number()
        attempt.say(f"generation {number} of {len(packages)} packages is active")
    return []


@contextmanager
def _turn(attempt: Attempt, profile: History) -> Iterator[None]:
    """Wait until no other change goes on."""
    with ExitStack() as within:
        while True:
            try:
                within.enter_context(activation.change(profile, seconds=TURN_SECONDS))
                break
            except Busy:
                attempt.beat()
        attempt.check()
        yield


def _confirm(attempt: Attempt) -> None:
    """Have the record of the change count only while this worker has the task."""
    if attempt.stage():
        raise Cancelled


def _check(profile: History, subject: WantedSet, packages: list[AnyRow]) -> None:
    """Raise Outdated or Failed where the profile is no longer to hold the set."""
    newest = db.session.execute(_newest(profile)).one()
    if newest.seq != subject.seq:
        raise Outdated(SUPERSEDED)
    is_other = subject.revision not in (None, profile.revision())
    # An earlier attempt may have been killed between the change and its end.
    is_done = {one.id for one in profile.active()} == {one.id for one in packages}
    if is_other and not is_done:
        message = f"{profile.title} has changed since the request that named its ETag"
        hint = "look at the profile again, and decide anew"
        raise Failed(TaskError("profile_changed", message, hint))


def _packages(subject: WantedSet) -> list[AnyRow]:
    """Return the packages of the set. Raises Failed unless all are downloaded, and as wanted."""
    mine = PACKAGES.join(AppliedPackage).where(AppliedPackage.task_seq == subject.seq)
    mine = mine.add_columns(Package.store_path, AppliedPackage.store_path.label("wanted_path"))
    packages = list(db.session.execute(mine.order_by(Package.id)))
    missing = [package for package in packages if package.status == PackageStatus.CREATED]
    if missing:
        lines = "\n".join(_reason(package) for package in missing)
        message = f"{len(missing)} of {len(packages)} packages could not be had:\n{lines}"
        hint = "correct the set, and apply it again: what is downloaded stays so"
        raise Failed(TaskError("download_failed", message, hint))
    mismatches = [_mismatch(package, package.wanted_path) for package in packages]
    if told := "\n".join(filter(None, mismatches)):
        hint = "have the store at the same place and the same catalogs, or forget the package here"
        raise Failed(TaskError("lock_mismatch", told, hint))
    return packages


def _reason(package: AnyRow) -> str:
    """Return in a line why a package is not downloaded."""
    tasks = select(Task.status, Task.error_code, Task.error_message)
    newest = tasks.where(Task.package_id == package.id).order_by(Task.seq.desc()).limit(1)
    task = db.session.execute(newest).one_or_none()
    title = f"{package.name} {package.version}"
    if task is None or task.status == TaskStatus.SUCCEEDED:
        return f"{title}: it is gone from the store"
    if not task.error_code:
        return f"{title}: its download was {task.status}"
    first, _, _ = task.error_message.partition("\n")
    return f"{title}: {task.error_code}: {first}"
