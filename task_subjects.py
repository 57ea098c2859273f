"""What a task is about: a package, a catalog's index, a profile's set, or a profile to publish."""

from dataclasses import dataclass

from sqlalchemy import bindparam, select

from catalogs.models import CatalogIndex
from models import AnyRow, Package, Task, TaskKind, db
from profiles.models import Apply, Profile

# The columns of a task that say so.
SUBJECT = Task.seq, Task.kind, Task.package_id, Task.index_id, Task.profile_id


@dataclass(frozen=True)
class Wanted:
    """The package that a task downloads."""

    package_id: int
    name: str
    version: str

    @property
    def label(self) -> str:
        """What to call it in the log."""
        return f"{self.name} {self.version}"

    @property
    def facts(self) -> dict[str, str]:
        """What to add to a line of the log."""
        return {"package": self.name, "version": self.version}


@dataclass(frozen=True)
class Unindexed:
    """The catalog that a task indexes, in the state that the signature stands for."""

    index_id: int
    catalog: str
    signature: str

    @property
    def label(self) -> str:
        """What to call it in the log."""
        return f"catalog {self.catalog}"

    @property
    def facts(self) -> dict[str, str]:
        """What to add to a line of the log."""
        return {"catalog": self.catalog}


@dataclass(frozen=True)
class Unverified(Unindexed):
    """The catalog of which a task verifies what its index offers."""


@dataclass(frozen=True)
class ProfileSubject:
    """The profile that a task is about; the base of those that say what it does with it."""

    profile_id: int
    profile: str

    @property
    def label(self) -> str:
        """What to call it in the log."""
        return f"profile {self.profile}"

    @property
    def facts(self) -> dict[str, str]:
        """What to add to a line of the log."""
        return {"profile": self.profile}


@dataclass(frozen=True)
class WantedSet(ProfileSubject):
    """The profile that is to hold exactly a set of packages, those of the apply with this `seq`.

    `revision` is the state of the profile that the set is meant for; None for any.
    """

    seq: int
    by: str | None
    revision: int | None


@dataclass(frozen=True)
class Unpublished(ProfileSubject):
    """The profile whose active generation a task publishes."""


Subject = Wanted | Unindexed | Unverified | WantedSet | Unpublished
KINDS: dict[type[Subject], TaskKind] = {
    Wanted: TaskKind.DOWNLOAD,
    Unindexed: TaskKind.INDEX,
    Unverified: TaskKind.VERIFY,
    WantedSet: TaskKind.APPLY,
    Unpublished: TaskKind.PUBLISH,
}


# Built at import, since building takes longer than executing.
_WANTED = select(Package.id, Package.name, Package.version).where(Package.id == bindparam("id"))


def subject_of(taken: AnyRow) -> Subject:
    """Return what a claimed task is about."""
    if taken.kind == TaskKind.APPLY:
        wanted_set = select(Profile.id, Profile.name, Apply.task_seq, Apply.by, Apply.revision)
        wanted_set = wanted_set.select_from(Apply).join(Profile)
        return WantedSet(*db.session.execute(wanted_set.where(Apply.task_seq == taken.seq)).one())
    if taken.kind == TaskKind.PUBLISH:
        profile = select(Profile.id, Profile.name).where(Profile.id == taken.profile_id)
        return Unpublished(*db.session.execute(profile).one())
    if taken.kind == TaskKind.DOWNLOAD:
        return Wanted(*db.session.execute(_WANTED, {"id": taken.package_id}).one())
    index = select(CatalogIndex.id, CatalogIndex.catalog, CatalogIndex.signature)
    kind = Unverified if taken.kind == TaskKind.VERIFY else Unindexed
    return kind(*db.session.execute(index.where(CatalogIndex.id == taken.index_id)).one())
