"""The survey of a whole catalog: facts about all that it has, a slice of attributes at a time.

Each slice is one evaluation within bounds of memory and time; one that fails is halved, down to the
attribute that is at fault.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from nix.errors import NixError, NixUnavailable
from nix.evaluate import CATALOG_FAULTS, NOTHING_MORE, Allowed, Catalog, Query
from nix.internal_json import Tick, ignore
from nix.store import Store, check

SECONDS = 600
LEAST_SECONDS = 30  # for a few attributes
DESCRIPTION_LENGTH, HOMEPAGE_LENGTH, LICENSE_LENGTH = 500, 500, 200
OUT_OF_MEMORY = ("out of memory", "std::bad_alloc")
HOPELESS = 50  # as many failures in a slice, and no fact, that nothing is to be expected of it


@dataclass(frozen=True)
class Fact:
    """What is known of an attribute: of a package, all but what its catalog doesn't say.

    Nixpkgs before 2017 throws for what it refuses: such a package is one that throws.
    `is_set` tells that it holds packages, and says so by recurseForDerivations.
    """

    attr: str
    pname: str
    spelled: str
    version: str
    reason: str | None
    description: str | None
    homepage: str | None
    license: str | None
    is_package: bool
    is_set: bool
    throws: bool


@dataclass
class Facts:
    """Facts about attributes, and the errors of those that can't be evaluated."""

    known: list[Fact] = field(default_factory=list)
    failures: dict[str, NixError] = field(default_factory=dict)


@dataclass(frozen=True)
class Survey:
    """A survey of a catalog, each evaluation in `heap` bytes of memory (0 for any), and `seconds`,
    of which one of fewer attributes has fewer.

    `tick` is called while Nix evaluates. A set in the catalog is named by a path with dots.
    """

    store: Store
    catalog: Catalog
    allowed: Allowed = NOTHING_MORE
    heap: int = 0
    niceness: int = 0
    seconds: float = SECONDS
    tick: Tick = ignore

    def names(self, within: str = "") -> list[str]:
        """Return the attributes of a set, in order; none if there is no such set.

        Raises CATALOG_FAULTS.
        """
        names: list[str] = self._ask("members", within, self._query)
        return names

    def facts(self, attrs: Sequence[str], within: str = "") -> Facts:
        """Return facts about some attributes of a set.

        Raises an error of Nix where that is not an attribute's fault.
        """
        found = Facts()
        self._add(found, list(attrs), within, self.seconds)
        return found

    def _add(self, found: Facts, attrs: list[str], within: str, seconds: float) -> None:
        """Add facts about attributes, or have each half of them added, in half the time."""
        query = replace(self._query, seconds=seconds)
        try:
            answer = self._ask("survey", within, query, attrs=json.dumps(attrs))
        except (*CATALOG_FAULTS, NixUnavailable) as error:
            if isinstance(error, NixUnavailable) and not self._is_bound_of_memory(error):
                raise
            check(self.store)
            if len(attrs) > 1:
                half, less = len(attrs) // 2, min(seconds, max(seconds / 2, LEAST_SECONDS))
                self._add(found, attrs[:half], within, less)
                self._add(found, attrs[half:], within, less)
                return
            found.failures[attrs[0]] = error
            if len(found.failures) >= HOPELESS and not found.known:
                raise
            return
        found.known += map(_fact, answer)

    def _is_bound_of_memory(self, error: NixError) -> bool:
        """Tell whether an evaluation ended at our bound, and not for want of the host's memory."""
        return self.heap > 0 and str(error).endswith(OUT_OF_MEMORY)

    def _ask(self, attribute: str, within: str, query: Query, **more: str) -> Any:
        path = json.dumps(within.split(".") if within else [])
        return query.ask(attribute, self.catalog, set=path, **more)

    @cached_property
    def _query(self) -> Query:
        store = self.store.with_heap(self.heap) if self.heap else self.store
        return Query(store, "", "", self.allowed, self.seconds, self.tick, self.niceness)


def _fact(answer: dict[str, Any]) -> Fact:
    return Fact(
        attr=answer["attr"],
        pname=answer["pname"],
        spelled=answer["spelled"],
        version=answer["version"],
        reason=answer["reason"],
        description=_cut(answer.get("description"), DESCRIPTION_LENGTH),
        homepage=_cut(answer.get("homepage"), HOMEPAGE_LENGTH),
        license=_cut(answer.get("license"), LICENSE_LENGTH),
        is_package=answer["isPackage"],
        is_set=answer["isSet"],
        throws=answer["throws"],
    )


def _cut(text: str | None, length: int) -> str | None:
    """Return a text in one line, cut where it is too long; None for none and for an empty one."""
    return " ".join((text or "").split())[:length].strip() or None
