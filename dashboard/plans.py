"""What a change would change, as pages show it before the button that does it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from flask import Response
from marshmallow import fields, validate

from dashboard.rendering import page
from fields import ProfileName, Strict, described
from models import AnyRow
from profiles import states as profile_states
from profiles.history import History
from profiles.models import DEFAULT

ETAG_LENGTH = 100

# A package as a generation or a profile records it: `name`, `version`, perhaps `store_path`.
Packages = Iterable[Mapping[str, Any]]


class SeenSchema(Strict):
    """The state of a profile for which a plan was shown; "" where there was no such profile."""

    seen = fields.String(load_default="", validate=validate.Length(max=ETAG_LENGTH))


class PlannedChangeSchema(SeenSchema):
    """Which profile is to change, and in which state."""

    profile = ProfileName(load_default=DEFAULT, **described("The profile.", DEFAULT))


@dataclass(frozen=True)
class Plan:
    """A page that shows what would change, and the button that does it.

    `fields` are sent with it to `url`; `back` is where to go otherwise. `notes` are sentences.
    """

    title: str
    url: str
    label: str
    back: str
    fields: Mapping[str, object]
    changes: Mapping[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    kind: str = "primary"

    def show(self, template: str = "plan.html", **values: Any) -> Response:
        """Send the page."""
        return page(template, plan=self, **values)


def if_seen(name: str, seen: str) -> Callable[[History | None], bool]:
    """Return the check that a profile still is in the state for which a plan was shown."""
    return partial(profile_states.check_seen, name, seen)


def difference(before: Packages, after: Packages) -> dict[str, Any]:
    """Return which packages are added, removed, replaced by another version, or built otherwise.

    The last are the same version at another store path, where both are known. Nothing is said of
    downloads, which such a change needs none of, and of sizes.
    """
    old, new = ({one["name"]: one for one in packages} for packages in (before, after))
    both = [(old[name], new[name]) for name in sorted(old.keys() & new.keys())]
    return {
        "added": [_named(new[name]) for name in sorted(new.keys() - old.keys())],
        "removed": [_named(old[name]) for name in sorted(old.keys() - new.keys())],
        "replaced": [
            {"name": one["name"], "old": one["version"], "new": other["version"]}
            for one, other in both
            if one["version"] != other["version"]
        ],
        "rebuilt": [_named(other) for one, other in both if _is_rebuilt(one, other)],
        "to_download": [],
        "closure_size_change": 0,
    }


def of_rows(rows: Iterable[AnyRow]) -> list[dict[str, Any]]:
    """Return rows of packages for `difference`."""
    return [{"name": row.name, "version": row.version} for row in rows]


def told(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan of the API so that what is replaced is in no other list."""
    names = {one["name"] for one in plan["replaced"]}
    lists = {
        key: [one for one in map(_named, plan[key]) if one["name"] not in names]
        for key in ("added", "removed")
    }
    more = {"rebuilt": [], "to_download": [_named(one) for one in plan.get("to_download", [])]}
    return {**plan, **lists, **more}


def _is_rebuilt(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    paths = {one.get("store_path"), other.get("store_path")} - {None}
    return one["version"] == other["version"] and len(paths) > 1


def _named(package: Any) -> dict[str, Any]:
    row = package if isinstance(package, Mapping) else package._mapping
    return {"name": row["name"], "version": row["version"]}
