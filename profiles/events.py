"""The events of profiles: what each has become, for which machines, and that it is gone."""

from collections.abc import Iterable
from typing import Any, Protocol

import event_log
from event_log import EventType
from profiles.models import Reason

EMPTIED = "delete"  # why the event of a profile that is being deleted says that it has changed


class Named(Protocol):
    """A profile."""

    @property
    def id(self) -> int:
        """Its id."""

    @property
    def name(self) -> str:
        """Its name."""


def tell_change(
    profile: Named,
    reason: str,
    now: tuple[int, str | None] | None,
    before: Iterable[Any],
    after: Iterable[Any],
) -> None:
    """Have it told what a profile has become, and which packages have come and gone.

    `now` are the number and the store path of its generation, None where it has none.
    """
    old, new = ({one.id: _short(one) for one in held} for held in (before, after))
    number, store_path = now or (None, None)
    data = {
        "generation": number,
        "store_path": store_path,
        "reason": str(reason),
        "added": [new[one] for one in sorted(new.keys() - old.keys())],
        "removed": [old[one] for one in sorted(old.keys() - new.keys())],
    }
    # Who made what was found is not known.
    by = event_log.service() if reason == Reason.FOUND else None
    event_log.add(EventType.PROFILE_CHANGED, _subject(profile), data, by=by)


def tell_rollout(profile: Named, percent: int) -> None:
    """Have it told which share of the machines gets the newest generation."""
    event_log.add(EventType.PROFILE_ROLLOUT, _subject(profile), {"percent": percent})


def tell_removal(profile: Named) -> None:
    """Have it told that a profile is gone."""
    event_log.add(EventType.PROFILE_REMOVED, _subject(profile))


def _subject(profile: Named) -> dict[str, Any]:
    return event_log.subject("profile", profile.id, profile.name)


def _short(package: Any) -> dict[str, Any]:
    return {"id": package.id, "name": package.name, "version": package.version}
