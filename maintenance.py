"""Maintenance: reconciling the database with profiles and the store, collecting, pruning.

A profile is authoritative for what is active, and the store for what is downloaded.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from flask import current_app
from sqlalchemy import ColumnElement, Select, delete, exists, func, or_, select
from sqlalchemy.orm import aliased

import gc_roots
import nix
import services
from catalogs import pins
from event_log import Event
from machines import rollouts
from models import LIVE, NO_SYNC, Package, PackageStatus, Task, TaskKind, TaskStatus, db, soon
from profiles import activation, history, plans
from profiles.history import History
from profiles.models import Reason
from webhooks.models import Webhook

MANY_PACKAGES = 3  # as many that most of them are not lost by accident
PRUNE_BATCH = 500
DAY_SECONDS = 86_400


class TooMuchLost(Exception):
    """Most of the packages would be taken away; the message is one line."""


# --- Reconciliation ---


def reconcile(*, force: bool = False, seconds: float = math.inf) -> list[str]:
    """Correct what the database has wrong; return a sentence about each correction.

    Everything is looked at first, and written in one transaction. Raises nix.ProfileReplaced, Busy
    after waiting `seconds` for its turn and, without `force`, TooMuchLost.
    """
    with activation.locked(seconds):
        new = history.unregistered()
        activation.register(new)
        lost, every = _lost_packages(), history.every()
        if not force:
            _refuse_to_lose(len(lost), every)
        said = [f"the profile {name} is in its folder, and was not in the database" for name in new]
        said += [f"{one.name} {one.version} is no longer in the store" for one in lost]
        said += _missing_roots(without=lost)
        seen = [_see(profile, said) for profile in every]

        for package in lost:
            package.set_created()
        for profile, built, found in seen:
            said += profile.forget_gone()
            for one in found:
                said += profile.renew(one)[1]
            if built:
                profile.note(built.number, history.adopt(built.packages), Reason.FOUND, None)
            said += profile.follow()
        said += _missing_roots()
        db.session.commit()
        said += pins.mend_roots()
        return list(dict.fromkeys(said))


def _see(
    profile: History, said: list[str]
) -> tuple[History, history.Found | None, list[history.Found]]:
    """Return a profile, the generation that was built to repair it, and those without a record."""
    built = _repair(profile, said)
    unknown = [number for number in profile.unrecorded() if not built or number != built.number]
    return profile, built, [profile.look(number) for number in unknown]


def _lost_packages() -> list[Package]:
    """Return the packages of which the store no longer has a path."""
    packages = list(db.session.scalars(select(Package).where(Package.store_path.is_not(None))))
    paths = [path for package in packages for path in package.store_paths or ()]
    valid = nix.valid_paths(services.get(nix.Store), paths)
    return [package for package in packages if not valid.issuperset(package.store_paths or ())]


def _refuse_to_lose(lost: int, every: Iterable[History]) -> None:
    """Raise TooMuchLost where most packages would go, or a profile has no generation any more."""
    has_path = Package.store_path.is_not(None)
    all_ = db.session.scalar(select(func.count()).select_from(Package).where(has_path)) or 0
    insist = "if that is right, run flask reconcile --force"
    if _are_most(lost, all_):
        store = services.get(nix.Store).directory
        what = f"{lost} of {all_} downloaded packages are not in the store {store}"
        raise TooMuchLost(f"{what} and would have to be downloaded again; {insist}")
    for profile in every:
        active = len(profile.active())
        is_gone = profile.current_number() is None and not profile.links()
        if active >= MANY_PACKAGES and is_gone:
            what = f"the profile {profile.path} has no generation any more"
            raise TooMuchLost(
                f"{what}, and {active} packages would no longer be activated; {insist}"
            )


def _are_most(lost: int, all_: int) -> bool:
    return all_ >= MANY_PACKAGES and lost > all_ / 2


def _missing_roots(without: Collection[Package] = ()) -> Iterator[str]:
    """Root again what the collector must keep."""
    for what, ensure_rooted in _needed_roots(without):
        try:
            if ensure_rooted():
                yield f"{what} had lost its GC root"
        except (nix.NixUnavailable, nix.NixMissing, nix.TimedOut):
            raise
        except (nix.NixError, OSError) as error:
            yield f"{what} has no GC root: {error}"


def _needed_roots(without: Collection[Package]) -> Iterator[tuple[str, Callable[[], bool]]]:
    """Yield the downloaded packages and the generations, each with what makes its root if missing.

    Nix knows a root by its path. So none is left in a data folder that was moved or copied.
    """
    store = services.get(nix.Store)
    known = nix.known_roots(store)
    downloaded = select(Package).where(Package.status != PackageStatus.CREATED)
    for one in db.session.scalars(downloaded).all():
        if one not in without:
            ensure = partial(activation.ensure_rooted, one.id, one.store_paths or [], known)
            yield f"{one.name} {one.version}", ensure

    for profile in history.every():
        links = {profile.link(number): number for number in profile.links()}
        unknown = {link: str(link.readlink()) for link in links if str(link) not in known}
        valid = nix.valid_paths(store, unknown.values())
        for link, path in unknown.items():
            if path in valid:
                yield (
                    f"generation {profile.label(links[link])}",
                    partial(_root_generation, path, link),
                )


def _root_generation(path: str, link: Path) -> bool:
    nix.add_root(services.get(nix.Store), path, link)
    return True


def _repair(profile: History, said: list[str]) -> history.Found | None:
    """Make a profile a whole generation again; only Nix is asked to write.

    Say what was done, and return the generation if one was built. Raises nix.ProfileReplaced.
    """
    target = nix.leads_to(profile.path)
    if target is None:
        return None
    number = profile.current_number()
    if number is None:
        number = profile.active_before()
        said.append(_lead_back(profile, target, number))
    if number is None:
        return None
    found = profile.look(number)
    return _rebuild(profile, found, said) if found.is_broken else None


def _lead_back(profile: History, target: Path, number: int | None) -> str:
    """Make a profile that leads elsewhere the generation that was active last."""
    elsewhere = f"{profile.title} led to {target}, which is no generation of it"
    if number is None:
        return f"{elsewhere}: nothing is active until it is replaced by the next activation"
    nix.relink(profile.path, Path(profile.link(number).name))
    return f"{elsewhere}: it leads to generation {number} again"


def _rebuild(profile: History, found: history.Found, said: list[str]) -> history.Found | None:
    """Build the active generation again, of those of its packages that the store still has."""
    record = profile.record_of(found.number)
    active = found.packages or plans.in_order(profile.active())
    held = history.held_by(record) if record else active
    gone = history.lost(held)
    left = [package for package in held if package not in gone]

    lost = "a part" if found.store_path else "its link"
    had_lost = f"generation {profile.label(found.number)} had lost {lost}"
    with suppress(nix.BuildFailed):  # where it needs what is gone: then another one is built
        nix.restore(services.get(nix.Store), found.store_path)
    try:
        number = plans.build(profile.path, left)
    except nix.ProfileRefused as error:
        said.append(f"{had_lost}, and can't be built again: {error}")
        return None
    said.append(f"{had_lost}; generation {profile.label(number)} is built of what is left")
    return replace(found, number=number, packages=left)


# --- Garbage ---


@dataclass(frozen=True)
class Collected:
    """What a collection removed, or would: generations, roots, and bytes of store paths.

    `links` are all that keep nothing alive any more, those of generations, too.
    """

    generations: list[str]
    roots: list[Path]
    links: list[Path]
    freed_bytes: int


def collect_garbage(*, dry_run: bool, force: bool = False) -> Collected:
    """Remove generations and roots that nothing needs, and have Nix collect its garbage.

    With `dry_run`, only tell what that would remove and free. Raises nix.ProfileReplaced, NixError
    or OSError where something that has to be kept can't be rooted and, without `force`,
    TooMuchLost.
    """
    with activation.locked(math.inf):
        every, store = history.every(), services.get(nix.Store)
        for profile in every:
            nix.leads_to(profile.path)  # else its active generation is not known
        for _, ensure_rooted in _needed_roots(without=_lost_packages()):
            ensure_rooted()
        old = {profile: _old_generations(profile) for profile in every}
        generations = [profile.label(number) for profile in every for number in old[profile]]
        # First: so none is of a package that is registered and downloaded from here on.
        links = gc_roots.all_links(current_app.config["DATA_DIR"])
        if not force:
            _refuse_to_collect(links)
        if dry_run:
            stale = [*_stale(links), *pins.leftover_roots()]
            unlinked = [profile.link(number) for profile in every for number in old[profile]]
            freed = nix.garbage_bytes(store, [*stale, *unlinked])
            return Collected(generations, stale, [*stale, *unlinked], freed)

        for profile, numbers in old.items():
            nix.delete_generations(store, profile.path, numbers)
            profile.forget(numbers)
        stale = _remove_stale(links)
        return Collected(generations, stale, stale, nix.collect_garbage(store))


def _remove_stale(links: dict[Path, int]) -> list[Path]:
    """Remove the roots that nothing needs, in the transaction that has begun; return them."""
    # One transaction: a download that began meanwhile would lose its root.
    _hold_back_downloads()
    stale = _stale(links)
    for link in stale:
        link.unlink(missing_ok=True)
    db.session.commit()
    return stale + pins.remove_leftover_roots()


def _refuse_to_collect(links: dict[Path, int]) -> None:
    """Raise TooMuchLost where most packages that roots keep in the store would go."""
    kept = {link: package_id for link, package_id in links.items() if link.exists()}
    lost, all_ = len({kept[link] for link in _stale(kept)}), len(set(kept.values()))
    if _are_most(lost, all_):
        roots = current_app.config["DATA_DIR"] / "roots"
        what = f"{lost} of {all_} packages with roots in {roots} are not downloaded by the database"
        insist = "if that is right, run flask gc --force"
        raise TooMuchLost(f"{what} and would have to be downloaded again; {insist}")


def _old_generations(profile: History) -> list[int]:
    """Return all generations but the newest KEEP_GENERATIONS, the active one, and those offered."""
    numbers = list(profile.links())
    newest = numbers[-current_app.config["KEEP_GENERATIONS"] :]
    needed = {*newest, profile.current_number(), *rollouts.offered_numbers(profile)}
    return [number for number in numbers if number not in needed]


def _hold_back_downloads() -> None:
    """Have new tasks of packages that are not downloaded wait for the end of the transaction.

    Under SQLite a transaction that has written does that by itself.
    """
    created = Package.status == PackageStatus.CREATED
    # In the order in which an apply locks packages.
    db.session.execute(select(Package.id).where(created).order_by(Package.id).with_for_update())


def _stale(links: dict[Path, int]) -> list[Path]:
    """Return the roots of packages that are neither in the store nor on their way there."""
    needed = set(
        db.session.scalars(
            select(Package.id)
            .outerjoin(Task, Task.package_id == Package.id)
            .where(or_(Package.status != PackageStatus.CREATED, Task.status.in_(LIVE)))
        )
    )
    return [link for link, package_id in links.items() if package_id not in needed]


# --- Old tasks ---


def prunable(days: int) -> int:
    """Return how many tasks `prune` would delete."""
    return db.session.scalar(select(func.count()).select_from(_old_tasks(days).subquery())) or 0


def prune(days: int) -> int:
    """Delete tasks that ended more than so many days ago, with their logs; return their number.

    A package keeps its latest task, and the one that downloaded it; so does an index.
    """
    return _delete_in_batches(Task.seq, _old_tasks(days).limit(PRUNE_BATCH))


def _delete_in_batches(key: Any, batch: Select[Any]) -> int:
    """Delete the rows with the keys of a batch until there is no whole batch; return their number.

    Each batch is a transaction, so that other writers get their turn.
    """
    keys = select(batch.subquery().c[key.name])
    pruned = 0
    while True:
        deletion = delete(key.class_).where(key.in_(keys)).returning(key)
        deleted = len(db.session.execute(deletion, execution_options=NO_SYNC).all())
        db.session.commit()

        pruned += deleted
        if deleted < PRUNE_BATCH:
            return pruned


def _old_tasks(days: int) -> Select[Any]:
    newer = aliased(Task)
    has_newer = (
        select(newer.seq)
        .where(
            (newer.package_id == Task.package_id) | (newer.index_id == Task.index_id),
            newer.kind == Task.kind,
            newer.seq > Task.seq,
            (newer.status == Task.status) | (Task.status != TaskStatus.SUCCEEDED),
        )
        .exists()
    )
    ended_before: datetime = soon(-days * DAY_SECONDS)

    return (
        select(Task.seq)
        .where(
            Task.status.not_in(LIVE),
            Task.finished_at < ended_before,
            or_(has_newer, Task.kind.in_((TaskKind.APPLY, TaskKind.PUBLISH))),
        )
        .order_by(Task.seq)
    )


# --- Old events ---


def prunable_events(days: int) -> int:
    """Return how many events `prune_events` would delete."""
    old = _old_events(Event, days)
    return db.session.scalar(select(func.count()).select_from(Event).where(*old)) or 0


def prune_events(days: int) -> int:
    """Delete events of more than so many days ago; return their number.

    One that a webhook has not got yet stays, unless that is disabled.
    """
    # Only the oldest are looked at, by number: there is no index by time.
    oldest = select(Event.seq, Event.at).order_by(Event.seq).limit(PRUNE_BATCH).subquery()
    old = select(oldest.c.seq).where(*_old_events(oldest.c, days))
    return _delete_in_batches(Event.seq, old)


def _old_events(events: Any, days: int) -> tuple[ColumnElement[bool], ...]:
    waits = exists().where(Webhook.disabled_at.is_(None), Webhook.cursor < events.seq)
    return events.at < soon(-days * DAY_SECONDS), ~waits
