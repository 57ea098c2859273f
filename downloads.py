"""A download: find a package in the catalogs, build or fetch it, root it, publish it."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Update, bindparam, select, update

import gc_roots
import nix
import services
from attempts import Attempt
from cache import publishing
from catalogs import offers, pins, verifying
from catalogs.lookahead import Lookahead
from catalogs.state import Choice
from models import Package, PackageStatus, db
from task_subjects import Wanted


@dataclass(frozen=True)
class Origin:
    """Where a package was found, though it may have failed; a refused one has no derivation."""

    catalog: str | None = None
    attr: str | None = None
    spelled: str | None = None
    drv_path: str | None = None
    catalog_sha256: str | None = None


@dataclass(frozen=True)
class Realised:
    """The result of a download: store paths, the main one first, and the closure's bytes."""

    store_paths: tuple[str, ...]
    closure_size: int


def downloaded(package_id: int, realised: Realised) -> Update:
    """Return the statement that makes a package downloaded."""
    is_created = Package.id == package_id, Package.status == PackageStatus.CREATED
    return (
        update(Package)
        .where(*is_created)
        .values(
            status=PackageStatus.DOWNLOADED,
            store_path=realised.store_paths[0],
            store_paths=list(realised.store_paths),
            closure_size=realised.closure_size,
        )
    )


def download(attempt: Attempt, wanted: Wanted) -> Sequence[Update]:
    """Have a package downloaded, then published; return the statements of the task's success."""
    paths = _downloaded_before(wanted)
    if paths is None:
        paths, success = _realise_package(attempt, wanted)
        if publishing.cache(attempt.config) is None:
            return [success]
        # Before it is published, so that a cache that is away holds up no activation.
        attempt.note(success)
        attempt.save(db.session.commit)
    publishing.publish(attempt, paths)
    return []


_STATE = select(Package.status, Package.store_paths).where(Package.id == bindparam("id"))


def _downloaded_before(wanted: Wanted) -> list[str] | None:
    """Return the store paths of a package of which an earlier attempt had only to publish them."""
    status, paths = db.session.execute(_STATE, {"id": wanted.package_id}).one()
    db.session.rollback()
    return None if status == PackageStatus.CREATED else paths


def _realise_package(attempt: Attempt, wanted: Wanted) -> tuple[list[str], Update]:
    """Resolve, build or fetch, and root a package; return its paths, and what notes its success."""
    choice = attempt.catalogs.best_for(wanted.name, wanted.version)
    found = _verified(attempt, wanted, choice) or _resolve(attempt, wanted, choice)
    try:
        paths = _realise_outputs(attempt, wanted, found)
    except nix.BuildFailed:
        if nix.valid_paths(attempt.store, [found.drv_path]):
            raise
        # No root keeps a derivation: it may be garbage-collected before the build begins.
        choice = attempt.catalogs.best_for(wanted.name, wanted.version)
        found = _resolve(attempt, wanted, choice)
        paths = _realise_outputs(attempt, wanted, found)

    done, expected = attempt.progress.done, attempt.progress.expected
    attempt.progress = nix.Progress(done, expected, "rooting")
    size = nix.closure_size(attempt.store, paths)
    attempt.say(f"downloaded {paths[0]}, {size} bytes with all that it needs")
    realised = Realised(store_paths=paths, closure_size=size)
    return list(paths), downloaded(wanted.package_id, realised)


def _verified(attempt: Attempt, wanted: Wanted, choice: Choice) -> nix.Resolution | None:
    """Return the derivation that the index of a pin knows; None where it is to be evaluated.

    It must have been evaluated as it would be now. It must also be in the store, where only an
    evaluation that writes derivations has put it.
    """
    verified = choice.verified
    if verified is None or not os.path.lexists(verified.found.drv_path):
        return None
    if verified.since < verifying.evaluated_alike_since(attempt.store, attempt.data_dir):
        return None
    attempt.say(f"attempt {attempt.lease.attempt}: {wanted.label} is known from a verified index")
    _note_found(attempt, wanted, verified.found, choice)
    return verified.found


def _resolve(attempt: Attempt, wanted: Wanted, choice: Choice) -> nix.Resolution:
    name, version = wanted.name, wanted.version
    attempt.say(f"attempt {attempt.lease.attempt}: resolving {name} {version}")
    try:
        found = services.get(Lookahead).resolve(attempt, wanted, choice) or nix.resolve(
            attempt.store,
            choice.catalogs,
            name,
            version,
            allowed=attempt.catalogs.allowed,
            avoided=choice.avoided,
            tick=attempt.tick,
            tmp=attempt.tmp,
        )
    except nix.NotProvided as error:
        _note_refusal(attempt, wanted, error)
        raise
    _note_found(attempt, wanted, found, choice)
    return found


def _note_found(attempt: Attempt, wanted: Wanted, found: nix.Resolution, choice: Choice) -> None:
    """Note where a package was found, and say so in the log."""
    catalog = next(one for one in choice.catalogs if one.name == found.catalog)
    is_in_store = attempt.store.is_store_path(catalog.place)  # as each pin is
    sha256 = pins.sha256(catalog) if is_in_store else None
    origin = Origin(found.catalog, found.attr, found.spelled, found.drv_path, sha256)
    attempt.note(_note_of(wanted, origin))
    attempt.say(f"found as {found.attr} in {found.catalog}: {found.drv_path}")


def _note_refusal(attempt: Attempt, wanted: Wanted, error: nix.NotProvided) -> None:
    """Note where a package was found that its catalog can't provide.

    That an index offers it is corrected there, which a verification may not have come to yet.
    """
    attempt.note(_note_of(wanted, Origin(error.catalog, error.attr, error.spelled)))
    if error.catalog and error.attr:
        index_id = attempt.catalogs.current_indexes().get(error.catalog)
        if index_id is not None:
            attempt.note(offers.refused(index_id, error.attr, error))


def _note_of(wanted: Wanted, origin: Origin) -> Update:
    """Return the statement that records where a package was found."""
    return update(Package).where(Package.id == wanted.package_id).values(**asdict(origin))


def _realise_outputs(attempt: Attempt, wanted: Wanted, found: nix.Resolution) -> tuple[str, ...]:
    return tuple(
        _realise_output(attempt, wanted, found.drv_path, output, number)
        for number, output in enumerate(found.outputs)
    )


def _realise_output(
    attempt: Attempt, wanted: Wanted, drv_path: str, output: str, number: int
) -> str:
    return nix.realise(
        attempt.store,
        drv_path,
        output,
        root=gc_roots.link(attempt.data_dir, wanted.package_id, number),
        builders=attempt.config["BUILDERS"],
        build_seconds=attempt.config["BUILD_SECONDS"],
        silence_seconds=attempt.config["SILENCE_SECONDS"],
        tick=attempt.tick,
        tmp=attempt.tmp,
    )
