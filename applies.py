"""Applies: making a profile hold exactly a set of packages, in one generation or not at all.

A request registers what is missing, queues the downloads and the apply. The apply waits in the
queue, without a worker, until none of its packages is being downloaded.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import Executable, func, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

import history
import profiles
import task_queue
from attempts import Attempt, Failed, Outdated
from errors import Busy, CheckFailed, InvalidInput
from history import PACKAGES, History
from models import LIVE, AnyRow, Package, PackageStatus, Task, db
from profile_models import AppliedPackage, Apply, Profile
from task_queue import TaskError, WantedSet

TURN_SECONDS = 0.5  # between the looks at whether the task is to be stopped
NamedVersion = tuple[str, str]


# --- Requests ---


def accept(
    name: str,
    wanted: Sequence[NamedVersion],
    check: Callable[[History | None], bool],
    *,
    by: str | None,
    request_id: str | None,
) -> UUID | None:
    """Queue an apply of a set to a profile, made where there is none; return its task's id.

    `check` is called with the profile, None where there was none, when no other request can change
    it; it tells whether the set is meant for this state of the profile alone. Return None where
    nothing is to do. Raises InvalidInput for two versions of a name or a name that no profile can
    have.
    """
    _refuse_doubles(wanted)
    profile, is_new = _lock(name)
    is_for_this_state = check(None if is_new else profile)
    ids = _registered(wanted)
    if not is_new and _is_so(profile, ids):
        db.session.commit()
        return None

    task_queue.add_downloads(ids, request_id)
    changed = update(Profile).where(Profile.id == profile.id).returning(Profile.revision)
    now = db.session.scalar(changed.values(revision=Profile.revision + 1))
    revision = now if is_for_this_state else None
    task_id = task_queue.add_apply(profile.id, ids, request_id, by=by, revision=revision)
    db.session.commit()
    return task_id


def plan(name: str, wanted: Sequence[NamedVersion]) -> dict[str, Any]:
    """Return what an apply would change, without doing it: as profiles.difference does.

    `to_download` are the versions that would be downloaded first; only the others are looked at for
    collisions and size. Raises InvalidInput or nix.ProfileRefused.
    """
    _refuse_doubles(wanted)
    profile = history.of(name)
    is_one = tuple_(Package.name, Package.version).in_(wanted)
    rows = list(db.session.execute(PACKAGES.where(is_one))) if wanted else []
    there = [row for row in rows if row.status != PackageStatus.CREATED]
    missing = sorted(set(wanted) - {(row.name, row.version) for row in there})
    told = profiles.difference(profile.active() if profile else [], there)
    return {**told, "to_download": [{"name": one, "version": two} for one, two in missing]}


def needs(package_id: int) -> bool:
    """Tell whether an apply that waits or runs has the package in its set."""
    mine = select(Task.seq).join(Apply).join(AppliedPackage)
    live = mine.where(AppliedPackage.package_id == package_id, Task.status.in_(LIVE))
    return db.session.scalar(live.limit(1)) is not None


def _refuse_doubles(wanted: Sequence[NamedVersion]) -> None:
    versions: dict[str, str] = {}
    for name, version in wanted:
        other = versions.setdefault(name, version)
        if other != version:
            message = f"A profile holds one version of a name, not {name} {other} and {version}."
            raise InvalidInput(errors={"packages": [message]})


def _lock(name: str) -> tuple[History, bool]:
    """Return a profile, whose row is locked until the commit, and whether it is new."""
    profile, is_new = profiles.add(name)
    db.session.execute(select(Profile.id).where(Profile.id == profile.id).with_for_update())
    return profile, is_new


def _registered(wanted: Sequence[NamedVersion]) -> list[int]:
    """Return the ids of packages, registered where they aren't yet, whose rows are locked."""
    if not wanted:
        return []
    dialect = postgresql if db.engine.dialect.name == "postgresql" else sqlite
    rows = [{"name": name, "version": version} for name, version in sorted(set(wanted))]
    new = dialect.insert(Package).values(rows)
    # An update of nothing, so that rows that are there are locked and returned.
    locked = new.on_conflict_do_update(
        index_elements=[Package.name, Package.version], set_={"name": new.excluded.name}
    )
    return list(db.session.scalars(locked.returning(Package.id)))


def _is_so(profile: History, ids: Sequence[int]) -> bool:
    """Tell whether the profile holds exactly these packages, and no apply is going to change it."""
    now = profile.current()
    is_true = now is not None and not profile.is_behind(now[0])
    return (
        is_true
        and {package.id for package in profile.active()} == set(ids)
        and not profiles.is_applying(profile)
    )


# --- The task ---


def apply(attempt: Attempt, subject: WantedSet) -> Sequence[Executable]:
    """Make the profile hold the set.

    Raises Outdated where a newer set was given, Failed, or nix.ProfileRefused.
    """
    attempt.say(f"applying {subject.size} packages to the profile {subject.profile}")
    with _turn(attempt, subject) as profile:
        packages = _packages(subject)
        try:
            profiles.hold(profile, packages, subject.by)
        except CheckFailed as error:
            raise Failed(TaskError("check_failed", str(error), error.hint)) from None
        now = profile.current()
        attempt.say(f"generation {now[0] if now else '?'} holds exactly these")
    return []


@contextmanager
def _turn(attempt: Attempt, subject: WantedSet) -> Iterator[History]:
    """Wait until no other change goes on; check that the set is still wanted."""
    with ExitStack() as within:
        while True:
            profile = history.of(subject.profile)
            if profile is None:
                raise Outdated("the profile is gone")
            try:
                within.enter_context(profiles.change(profile, seconds=TURN_SECONDS))
                break
            except Busy:
                attempt.tick(b"", attempt.progress)
        _check(profile, subject)
        yield profile


def _check(profile: History, subject: WantedSet) -> None:
    newest = select(func.max(Apply.task_seq)).where(Apply.profile_id == profile.id)
    if db.session.scalar(newest) != subject.seq:
        raise Outdated("a newer set was given to the profile")
    revision = db.session.scalar(select(Profile.revision).where(Profile.id == profile.id))
    if subject.revision not in (None, revision):
        message = f"{profile.title} has changed since the request that named its ETag"
        hint = "look at the profile again, and decide anew"
        raise Failed(TaskError("profile_changed", message, hint))


def _packages(subject: WantedSet) -> list[AnyRow]:
    """Return the packages of the set. Raises Failed unless all are downloaded."""
    mine = PACKAGES.join(AppliedPackage).where(AppliedPackage.task_seq == subject.seq)
    packages = list(db.session.execute(mine.order_by(Package.id)))
    missing = [package for package in packages if package.status == PackageStatus.CREATED]
    lines = [_reason(package) for package in missing]
    if gone := subject.size - len(packages):
        lines.append(f"{gone} packages were forgotten meanwhile")
    if lines:
        message = "the profile is what it was: " + "\n".join(lines)
        hint = "correct the set, and apply it again: what is downloaded stays so"
        raise Failed(TaskError("download_failed", message, hint))
    return packages


def _reason(package: AnyRow) -> str:
    """Return in a line why a package is not downloaded."""
    tasks = select(Task.status, Task.error_code, Task.error_message)
    newest = tasks.where(Task.package_id == package.id).order_by(Task.seq.desc()).limit(1)
    task = db.session.execute(newest).one_or_none()
    title = f"{package.name} {package.version}"
    if task is None or not task.error_code:
        return f"{title}: its download was {task.status if task else 'forgotten'}"
    first, _, _ = task.error_message.partition("\n")
    return f"{title}: {task.error_code}: {first}"
