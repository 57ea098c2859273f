"""Publishing: what goes into the binary cache, and when.

A download publishes its package as its last phase. The active generation of a profile is published
by a task of its own, and machines are offered it only then. While the cache can't be reached, such
a task waits in the queue, without a worker; a fault that the operator has to correct makes it fail.

Publishers share a lock, which a sweep holds alone: by then everything in the cache that is to stay
has its GC root.
"""

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from flask import current_app
from sqlalchemy import BigInteger, Executable, Select, Update, func, select, update
from sqlalchemy.orm import Mapped, aliased, mapped_column

import gc_roots
import nix
import services
import task_queue
from attempts import Attempt, Waiting
from file_lock import try_lock
from machines import rollouts
from models import (
    LIVE,
    NO_SYNC,
    AnyRow,
    Model,
    Package,
    Task,
    TaskKind,
    TaskStatus,
    db,
    soon,
    upsert,
    utcnow,
)
from profiles import history
from profiles.models import Change, Generation, Profile
from task_subjects import Unpublished

log = logging.getLogger("pkgd.worker")

AGAIN_SECONDS = 600  # until a profile is tried again whose publishing failed, unless it changes
LOCK_POLL_SECONDS = 0.1
SWEEP_WAIT_SECONDS = 600  # for those who publish, until a sweep gives up
LOOK_SECONDS = 60  # between two looks for files that a cache has lost
REPAIR = "what profiles offer is published again, the rest by flask publish --all"
BATCH = 100
TOTALS_ID = 1


class PublishingTotals(Model):
    """Totals of publishing, in one row: paths, their bytes, the time it took, and the failures."""

    __tablename__ = "publishing_totals"

    id: Mapped[int] = mapped_column(primary_key=True)
    paths: Mapped[int] = mapped_column(BigInteger)
    size: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float]
    failures: Mapped[int] = mapped_column(BigInteger)


class Losses:
    """What a folder lacks of what was published, as one process finds by a look each minute."""

    def __init__(self) -> None:
        self._inventory = nix.CacheInventory()
        self._look_at = 0.0
        self._told = 0

    def find(self, where: nix.Cache) -> set[str]:
        """Return the hashes of the paths that lack something; none between two looks."""
        folder = where.folder
        if folder is None or time.monotonic() < self._look_at:
            return set()
        damaged = self._inventory.damaged(folder)
        self._look_at = time.monotonic() + LOOK_SECONDS
        if damaged and len(damaged) != self._told:
            log.warning("%d paths in the cache lack files; %s", len(damaged), REPAIR)
        self._told = len(damaged)
        return damaged


class SweepPrevented(Exception):
    """The sweep gave up waiting for those who publish."""


def cache(settings: Mapping[str, Any]) -> nix.Cache | None:
    """Return the binary cache; None where CACHE is not set."""
    uri = settings["CACHE"]
    return nix.Cache(uri, settings["CACHE_KEY_FILE"]) if uri else None


def folder() -> Path | None:
    """Return the folder of the cache; None without a cache, and for one that is no folder."""
    found = cache(current_app.config)
    return found.folder if found else None


# --- By tasks ---


def publish(attempt: Attempt, paths: Sequence[str]) -> None:
    """Publish the closures of store paths, as the last phase of a task.

    Do nothing where CACHE is not set. Raises Waiting, nix.PublishFailed.
    """
    where = cache(attempt.config)
    if where is None:
        return
    attempt.progress = nix.Progress(0, 0, "publishing")
    began = time.monotonic()
    try:
        _check_space(where, attempt.config["MIN_FREE_BYTES"])
        with shared(attempt.data_dir, attempt.beat):
            seconds = attempt.config["BUILD_SECONDS"]
            copied = nix.publish(attempt.store, where, paths, seconds=seconds, tick=attempt.tick)
    except (nix.CacheAway, nix.NixUnavailable) as error:
        attempt.note(counted(failures=1))
        raise Waiting(f"the cache is away: {error}") from None
    except nix.PublishFailed:
        attempt.note(counted(failures=1))
        raise
    took = time.monotonic() - began
    attempt.say(f"published {copied.paths} paths, {copied.size} bytes, in {took:.1f} s")
    attempt.note(counted(copied, took))


def publish_profile(attempt: Attempt, subject: Unpublished) -> Sequence[Executable]:
    """Publish a profile's active generation; return the statements of the task's success."""
    active = db.session.execute(_active().where(Profile.id == subject.profile_id)).one_or_none()
    db.session.rollback()
    if active is None or active.store_path is None or cache(attempt.config) is None:
        attempt.say("there is nothing to publish, or no cache")
        return []
    attempt.say(f"attempt {attempt.lease.attempt}: publishing {active.store_path}")
    publish(attempt, [active.store_path, *_rest(attempt.store, subject.profile_id)])
    return [_published(active)]


def _rest(store: nix.Store, profile_id: int) -> Collection[str]:
    """Return the store path, if it is valid, that a rollout offers the rest of the machines.

    It is published again, since the cache may have lost it.
    """
    rest = rollouts.rest(db.session.execute(rollouts.OFFERS.where(Profile.id == profile_id)).one())
    db.session.rollback()
    return nix.valid_paths(store, [rest.store_path]) if rest else []


def schedule() -> bool:
    """Queue the publishing of profiles whose active generation is not in the cache.

    Return whether any was queued.
    """
    where = cache(current_app.config)
    if where is None:
        return False
    if where.folder is not None:
        _notice_loss(where)
    due = db.session.scalars(_due()).all()
    queued = [task_queue.add_publishing(profile_id) for profile_id in due]
    db.session.commit()
    return any(queued)


def _notice_loss(where: nix.Cache) -> None:
    """Mark the generations as unpublished whose paths are gone from a folder.

    Once a minute, also those that lack a nar, or a path that they need. Where one of them is
    offered to machines, mark all of its profile: machines then keep what they have until it is
    published again, and don't go back to an older one.
    """
    damaged = services.get(Losses).find(where)

    def has(path: str) -> bool:
        return where.has(path) and nix.hash_of(path) not in damaged

    is_published = Generation.published_at.is_not(None), Generation.store_path.is_not(None)
    published = select(Generation.id, Generation.store_path).where(*is_published)
    lost = [row.id for row in db.session.execute(published) if not has(row.store_path)]
    offers = db.session.execute(rollouts.OFFERS).all()
    lacking = [row.id for row in offers if not _has_offers(has, row)]
    if lost or lacking:
        is_gone = Generation.id.in_(lost) | Generation.profile_id.in_(lacking)
        gone = update(Generation).where(is_gone).values(published_at=None)
        db.session.execute(gone, execution_options=NO_SYNC)
    db.session.commit()


def _has_offers(has: Callable[[str], bool], offers: AnyRow) -> bool:
    """Tell whether a folder has all that a profile offers and the store still has."""
    offered = filter(None, (rollouts.newest(offers), rollouts.rest(offers)))
    paths = [offer.store_path for offer in offered]
    return all(has(path) or not os.path.lexists(path) for path in paths)


def _active() -> Select[Any]:
    """Select profiles with the generation that is active by the record."""
    newest = (
        select(func.max(Change.id))
        .join(Generation)
        .where(Generation.profile_id == Profile.id)
        .correlate(Profile)
        .scalar_subquery()
    )
    generation = Generation.id.label("generation_id"), Generation.store_path
    shown: tuple[Any, ...] = Profile.id, Profile.name, *generation
    return (
        select(*shown)
        .select_from(Profile)
        .join(Change, Change.id == newest)
        .join(Generation, Generation.id == Change.generation_id)
        .order_by(Profile.id)
    )


def _due() -> Select[Any]:
    """Select the profiles to publish, but those with a live task, or one that failed lately."""
    task = aliased(Task)
    failed_lately = (
        task.status.in_((TaskStatus.FAILED, TaskStatus.CANCELLED))
        & (task.finished_at > soon(-AGAIN_SECONDS))
        & (task.created_at > Change.at)
    )
    held_up = (
        select(task.seq)
        .where(task.kind == TaskKind.PUBLISH, task.profile_id == Profile.id)
        .where(task.status.in_(LIVE) | failed_lately)
        .correlate(Profile, Change)
        .exists()
    )
    unpublished = Generation.published_at.is_(None), Generation.store_path.is_not(None)
    return _active().with_only_columns(Profile.id).where(*unpublished, ~held_up)


UNPUBLISHED = (
    _active()
    .where(Generation.published_at.is_(None))
    .order_by(None)
    .with_only_columns(func.count())
)


def _published(active: AnyRow) -> Update:
    """Return the statement that notes that a generation was published."""
    is_same = Generation.id == active.generation_id, Generation.store_path == active.store_path
    return update(Generation).where(*is_same).values(published_at=utcnow())


def _check_space(where: nix.Cache, needed: int) -> None:
    """Raise CacheAway where the disk under a folder is nearly full."""
    place = where.place
    if place is not None and shutil.disk_usage(place).free < needed:
        raise nix.CacheAway(f"{place} has less than {needed} bytes free (MIN_FREE_BYTES)")


def counted(
    copied: nix.Copied | None = None, seconds: float = 0.0, *, failures: int = 0
) -> Executable:
    """Return the statement that adds to the totals."""
    paths, size = (copied.paths, copied.size) if copied else (0, 0)
    row = {"paths": paths, "size": size, "seconds": seconds, "failures": failures}
    new = upsert(PublishingTotals).values(id=TOTALS_ID, **row)
    sums = {name: getattr(PublishingTotals, name) + new.excluded[name] for name in row}
    statement: Executable = new.on_conflict_do_update(index_elements=["id"], set_=sums)
    return statement


# --- By commands ---


def publish_all(tell: Callable[[int, int], None]) -> nix.Copied:
    """Publish all downloads and all active generations; return what was not in the cache before.

    `tell` is called with how many store paths are done, and of how many. Raises nix.NixError.
    """
    where, store = cache(current_app.config), services.get(nix.Store)
    assert where is not None  # noqa: S101 # the command has looked
    downloaded = db.session.scalars(select(Package.store_paths).order_by(Package.id))
    packages = [path for paths in downloaded for path in paths or ()]
    actives = [row for row in db.session.execute(_active()) if row.store_path is not None]
    db.session.rollback()
    paths = list(dict.fromkeys([*packages, *(row.store_path for row in actives)]))
    valid = nix.valid_paths(store, paths)
    paths, began = [path for path in paths if path in valid], time.monotonic()

    total = nix.Copied(0, 0)
    with shared(current_app.config["DATA_DIR"], nothing):
        for start in range(0, len(paths), BATCH):
            tell(start, len(paths))
            batch = paths[start : start + BATCH]
            seconds = current_app.config["BUILD_SECONDS"]
            copied = nix.publish(store, where, batch, seconds=seconds)
            total = nix.Copied(total.paths + copied.paths, total.size + copied.size)
    for row in actives:
        if row.store_path in valid:
            db.session.execute(_published(row), execution_options=NO_SYNC)
    db.session.execute(counted(total, time.monotonic() - began))
    db.session.commit()
    return total


def nothing() -> None:
    """Do nothing while waiting."""


def sweep(without: Collection[Path], *, dry_run: bool) -> nix.Swept | None:
    """Remove from a cache that is a folder what no root needs; return None for any other.

    `without` are the links that are not counted as roots. Raises SweepPrevented.
    """
    place = folder()
    if place is None:
        return None
    with _locked(current_app.config["DATA_DIR"], fcntl.LOCK_EX, _until(SWEEP_WAIT_SECONDS)):
        links = set(gc_roots.all_links(current_app.config["DATA_DIR"]))
        for profile in history.every():
            links.update(map(profile.link, profile.links()))
        targets = {str(link.readlink()) for link in links - set(without) if link.is_symlink()}
        kept = nix.closure(services.get(nix.Store), targets)
        return nix.sweep_cache(place, kept, dry_run=dry_run)


def _until(seconds: float) -> Callable[[], None]:
    deadline = time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() >= deadline:
            raise SweepPrevented(f"the cache was not swept: others published for {seconds} s")

    return check


# --- The lock ---


def shared(data_dir: Path, beat: Callable[[], None]) -> AbstractContextManager[None]:
    """Let others publish, and nobody sweep, within the `with` block.

    `beat` is called while it waits for the lock.
    """
    return _locked(data_dir, fcntl.LOCK_SH, beat)


@contextmanager
def _locked(data_dir: Path, kind: int, beat: Callable[[], None]) -> Iterator[None]:
    with (data_dir / "publishing.lock").open("ab") as file:
        while not try_lock(file.fileno(), kind):
            beat()
            time.sleep(LOCK_POLL_SECONDS)
        yield
