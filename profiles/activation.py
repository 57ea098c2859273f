"""Profiles: what is active. One caller at a time changes one, atomically.

Every change takes the lock, has the record follow the profile, runs Nix and then the operator's
check, and writes the record. Where one of these fails, the profile is made what it was. After a
crash in between, the next change or reconciliation makes the record follow the profile.
"""

import logging
import shlex
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from flask import current_app
from sqlalchemy import select

import gc_roots
import nix
import services
import task_queue
from errors import (
    Busy,
    CheckFailed,
    InvalidInput,
    NoSuchGeneration,
    NoSuchProfile,
    NothingToPromote,
    ProfileKept,
)
from file_lock import try_lock
from models import LIVE, AnyRow, Package, Task, db, upsert
from profiles import history, plans
from profiles.history import History
from profiles.models import DEFAULT, Apply, Generation, Profile, Reason

log = logging.getLogger("pkgd.profiles")

CHECK_SECONDS = 60
LOCK_SECONDS = 30  # how long a request waits for its turn to change the profile
LOCK_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Watch:
    """What a change calls, which an exception from it ends and undoes.

    `beat` is called again and again while a program runs, and `confirm` in the transaction that
    records the change, before its commit.
    """

    beat: Callable[[], None] = lambda: None
    confirm: Callable[[], None] = lambda: None


NOBODY = Watch()

# Called with the profile before anything changes, by whoever has the lock of all changes: it raises
# where the profile is not as the caller has seen it.
Check = Callable[[History], object]


def as_it_is(_profile: History) -> None:
    """Let a change begin, whatever the profile is."""


def find(name: str) -> History:
    """Return a profile. Raises NoSuchProfile."""
    profile = history.of(name)
    if profile is None:
        raise NoSuchProfile(name=name)
    return profile


def check_name(name: str) -> None:
    """Raise InvalidInput for a name that no profile can have."""
    if fault := history.name_fault(name):
        raise InvalidInput(errors={"name": [fault]})


def add(name: str) -> tuple[History, bool]:
    """Return the profile of this name, made where there is none, and whether that is so.

    Its row is locked until the commit, before which a new one is to be touched. Raises InvalidInput
    for a name that no profile can have.
    """
    check_name(name)
    new = upsert(Profile).values(name=name, revision=0)
    as_it_is = new.on_conflict_do_update(
        index_elements=[Profile.name], set_={"revision": Profile.revision}
    )
    row = db.session.execute(as_it_is.returning(Profile.id, Profile.revision)).one()
    return History(row.id, name, history.place(name)), row.revision == 0


def register(names: Iterable[str]) -> None:
    """Add profiles that are in their folder alone, so that reconciliation can look at them."""
    for name in names:
        profile, _ = add(name)
        profile.touch()
    db.session.commit()


def activate(
    profile: History, package_ids: Sequence[int], by: str | None, check: Check = as_it_is
) -> None:
    """Put packages in a profile in one generation, in place of other versions of their names.

    Raises NoSuchPackage, NotDownloaded, InvalidInput for two versions of one name, CheckFailed,
    Busy, nix.ProfileReplaced, or nix.ProfileRefused, such as nix.Collision when another active
    package has the same file; the profile is then what it was.
    """
    plans.wanted_packages(package_ids)  # what can't be activated waits for no turn
    with change(profile):
        check(profile)
        wanted, others = plans.after_activation(profile, package_ids)
        after = [*wanted, *others]
        before = {package.id for package in profile.active()}
        is_replacement = not before <= {one.id for one in after}
        _set(profile, after, Reason.REPLACE if is_replacement else Reason.ACTIVATE, by)


def deactivate(profile: History, package_id: int, by: str | None, check: Check = as_it_is) -> None:
    """Take a package out of a profile; do nothing where it isn't in it. Raises CheckFailed."""
    with change(profile):
        check(profile)
        before = profile.active()
        after = [package for package in before if package.id != package_id]
        if len(after) < len(before):
            _set(profile, after, Reason.DEACTIVATE, by)


def hold(profile: History, packages: list[AnyRow], by: str | None, watch: Watch) -> None:
    """Make a profile hold exactly these packages, within a `change`.

    Raises CheckFailed, nix.ProfileReplaced or nix.ProfileRefused.
    """
    plans.check_new(profile, packages)
    _set(profile, packages, Reason.APPLY, by, watch)


def promote(
    name: str, source: History, check: Callable[[History | None], object], by: str | None
) -> None:
    """Make a profile the active generation of another one: the very store path, in one switch.

    It is made where there is none of this name. `check` is called with the profile, None where
    there was none, before anything changes. Raises InvalidInput for a name that no profile can
    have, NothingToPromote, CheckFailed, Busy, nix.ProfileReplaced or nix.ProfileRefused.
    """
    check_name(name)
    with change(source), ExitStack() as on_exception:
        now = promotable(name, source)
        profile, is_new = add(name)
        check(None if is_new else profile)
        if is_new:
            profile.touch()
            on_exception.callback(_remove, profile)
        db.session.commit()
        _follow(profile)
        _take_over(profile, source, *now, by)
        on_exception.pop_all()


def promotable(name: str, source: History) -> tuple[int, str]:
    """Return number and store path of the generation that a promotion gives to a profile.

    Raises InvalidInput where it is the source itself, or NothingToPromote.
    """
    if name == source.name:
        raise InvalidInput(errors={"from": ["It is the profile itself."]})
    now = source.current()
    if now is None or not source.link(now[0]).exists():
        raise NothingToPromote(name=source.name)
    return now


def delete(profile: History, check: Check) -> None:
    """Forget a profile, and delete its generations; `check` is called before anything changes.

    Raises ProfileKept, NoSuchProfile, Busy or nix.ProfileReplaced.
    """
    if profile.name == DEFAULT:
        raise ProfileKept(name=DEFAULT, why="it always exists")
    with locked():
        if not profile.lock():
            raise NoSuchProfile(name=profile.name)
        check(profile)
        if is_applying(profile):
            raise ProfileKept(name=profile.name, why="a set is being applied to it")
        nix.leads_to(profile.path)
        # A crash from here on leaves a whole profile or an empty one, which reconciliation follows.
        profile.empty()
        db.session.commit()
        nix.relink(profile.path, None)
        for number in profile.links():
            profile.link(number).unlink()
        _remove(profile)


def _remove(profile: History) -> None:
    """Remove a profile without a generation, unless a set has been given to it meanwhile."""
    db.session.rollback()
    profile.lock()
    if profile.current() is None and not is_applying(profile):
        profile.remove()
    db.session.commit()


def is_applying(profile: History) -> bool:
    """Tell whether an apply to the profile waits or runs."""
    mine = select(Task.seq).join(Apply).where(Apply.profile_id == profile.id)
    return db.session.scalar(mine.where(Task.status.in_(LIVE)).limit(1)) is not None


def switch(profile: History, number: int, by: str | None, check: Check = as_it_is) -> None:
    """Make a profile what it was in a generation. Raises NoSuchGeneration, CheckFailed.

    Applies that were accepted before, and have not ended, are cancelled; so they are by `rollback`
    and `promote`.
    """
    with change(profile):
        check(profile)
        _switch(profile, number, Reason.SWITCH, by)


def rollback(profile: History, by: str | None, check: Check = as_it_is) -> int:
    """Switch a profile to the generation that was active before; return its number."""
    with change(profile):
        check(profile)
        number = profile.active_before()
        if number is None:
            raise NoSuchGeneration(detail="no other generation was active before")
        _switch(profile, number, Reason.ROLLBACK, by)
        return number


@contextmanager
def locked(seconds: float | None = None) -> Iterator[None]:
    """Let one caller at a time, of all processes, change what is in the profile or the store.

    Raises Busy after waiting for `seconds`, which are LOCK_SECONDS by default.
    """
    deadline = time.monotonic() + (LOCK_SECONDS if seconds is None else seconds)
    # Nix itself locks profile.lock, which therefore can't be this file.
    path: Path = current_app.config["DATA_DIR"] / "changes.lock"
    with path.open("ab") as file:
        while not try_lock(file.fileno()):
            if time.monotonic() >= deadline:
                raise Busy(what="another change of the profile or the store is going on")
            time.sleep(LOCK_POLL_SECONDS)
        yield


def ensure_rooted(package_id: int, store_paths: list[str], known: Collection[str]) -> bool:
    """Give a package's store paths their GC roots; return True when one was missing.

    `known` are the roots that Nix knows.
    """
    data_dir = current_app.config["DATA_DIR"]
    if gc_roots.are_complete(data_dir, package_id, store_paths, known):
        return False

    gc_roots.remove(data_dir, package_id)
    for number, store_path in enumerate(store_paths):
        link = gc_roots.link(data_dir, package_id, number)
        nix.add_root(services.get(nix.Store), store_path, link)
    return True


@contextmanager
def change(profile: History, seconds: float | None = None) -> Iterator[None]:
    """Take the lock, and have the record follow what somebody else has made of the profile.

    Raises Busy as `locked` does, and nix.ProfileReplaced where nothing can follow.
    """
    with locked(seconds):
        _follow(profile)
        yield


def _follow(profile: History) -> None:
    """Have the record follow what somebody else has made of the profile."""
    nix.leads_to(profile.path)
    now = profile.current()
    if now and profile.is_behind(now[0]):
        _record(profile, now[0])
        _tell(profile.follow())
        db.session.commit()
        known = nix.known_roots(services.get(nix.Store))
        for package in profile.active():
            ensure_rooted(package.id, package.store_paths, known)


def _record(profile: History, number: int) -> Generation:
    """Return the record of a generation, renewed where it is missing or of another generation."""
    record = profile.record_of(number)
    if record is None:
        record, sentences = profile.renew(profile.look(number))
        _tell(sentences)
        db.session.commit()
    return record


def _tell(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        log.warning("the profile: %s", sentence)


def _set(
    profile: History,
    packages: list[AnyRow],
    reason: Reason,
    by: str | None,
    watch: Watch = NOBODY,
) -> None:
    """Make the profile hold these packages; write the record if that or the profile differs."""
    before = profile.current()
    wanted = {package.id for package in packages}
    is_recorded = {package.id for package in profile.active()} == wanted
    with _all_or_nothing(profile):
        number = plans.build(profile.path, plans.in_order(packages), watch.beat)
        changed = profile.current() != before
        if changed:
            _check(profile, number, watch)
        if changed or not is_recorded:
            profile.note(number, packages, reason, by)
            watch.confirm()
            db.session.commit()


def _switch(profile: History, number: int, reason: Reason, by: str | None) -> None:
    if not profile.link(number).exists():
        raise NoSuchGeneration(number=number)
    record = _record(profile, number)
    if number == profile.current_number():
        _supersede(profile)
        return

    packages = _take_up(profile, record)
    with _all_or_nothing(profile):
        nix.switch_generation(services.get(nix.Store), profile.path, number)
        _check(profile, number)
        profile.note(number, packages, reason, by)
        _supersede(profile)


def _take_over(
    profile: History, source: History, number: int, store_path: str, by: str | None
) -> None:
    """Make the profile this generation of another one."""
    now = profile.current()
    if now and now[1] == store_path:
        _supersede(profile)
        return
    packages = _take_up(source, _record(source, number))
    with _all_or_nothing(profile):
        made = nix.set_store_path(services.get(nix.Store), profile.path, store_path)
        _check(profile, made)
        profile.note(made, packages, Reason.PROMOTE, by)
        _supersede(profile)


def _supersede(profile: History) -> None:
    """Commit a switch, which also counts for the applies that were accepted before it."""
    profile.lock()  # first, as by an apply
    task_queue.supersede(profile.id)
    db.session.commit()


def _take_up(profile: History, record: Generation) -> list[Package]:
    """Return a generation's packages, registered and rooted again where they no longer are."""
    held = history.held_by(record)
    if gone := history.lost(held):
        names = ", ".join(map(str, gone))
        generation = f"generation {profile.label(record.number)}"
        raise nix.ProfileRefused(f"{generation}: the store no longer has {names}")
    packages = history.adopt(held)
    db.session.commit()
    known = nix.known_roots(services.get(nix.Store))
    for package in packages:
        ensure_rooted(package.id, package.store_paths or [], known)
    return packages


@contextmanager
def _all_or_nothing(profile: History) -> Iterator[None]:
    """Make the profile what it was if something in the `with` block is raised."""
    with ExitStack() as on_exception:
        before = nix.leads_to(profile.path), set(profile.links())
        on_exception.callback(_restore, profile, *before)
        yield
        on_exception.pop_all()


def _restore(profile: History, target: Path | None, numbers: set[int]) -> None:
    """Make the profile lead to `target` again, and remove all generations but those."""
    db.session.rollback()
    nix.relink(profile.path, target)
    for number in profile.links().keys() - numbers:
        profile.link(number).unlink()


def _check(profile: History, number: int, watch: Watch = NOBODY) -> None:
    """Run the operator's check on the new generation. Raises CheckFailed."""
    failure = _check_failure(profile.link(number), watch)
    if failure is not None:
        raise CheckFailed(number=number, failure=failure)


def _check_failure(generation: Path, watch: Watch) -> str | None:
    """Return how PROFILE_CHECK failed; None when it passed, or there is none."""
    command = shlex.split(current_app.config["PROFILE_CHECK"])
    if not command:
        return None

    environ = services.get(nix.Store).environ
    try:
        done = nix.run(
            [*command, str(generation)],
            environ=environ,
            seconds=CHECK_SECONDS,
            heard=lambda _: watch.beat(),
        )
    except nix.NixError as error:
        return str(error)
    output = nix.decode(done.stdout + done.stderr).strip()
    return f"exit code {done.code}: {output}" if done.code else None
