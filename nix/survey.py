"""The survey of a whole catalog: what there is to tell of all its attributes, a slice at a time.

Each slice is one evaluation, bounded in memory and time, which reports each attribute as soon as it
is evaluated. Where it breaks off, the next attribute is at fault, and another evaluation goes on
after that one.
"""

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, TypeVar

from nix.answers import read_answer
from nix.errors import EvaluationFailed, NixError, NixKilled, NixUnavailable, TimedOut
from nix.evaluate import CATALOG_FAULTS, NOTHING_MORE, Allowed, Catalog, Query
from nix.internal_json import Tick, ignore
from nix.process import NORMAL, Priority
from nix.store import Store, check

SECONDS, LEAST_SECONDS = 600, 60
CPU_SECONDS, LEAST_CPU_SECONDS = 60, 10
DESCRIPTION_LENGTH, HOMEPAGE_LENGTH, LICENSE_LENGTH = 500, 500, 200
OUT_OF_MEMORY = ("out of memory", "std::bad_alloc")
HOPELESS = 50  # attributes that fail in a row, after which their set is given up
SLOW = 50  # attributes that take too long, after which the catalog is given up
KILLS = 3  # of an evaluation in a row, after which the attribute at hand is at fault
ARGUMENT_BYTES = 120_000  # Linux takes no argument of 131,072 (MAX_ARG_STRLEN, execve(2))
TOLD = b"trace: pkgd:"
# An evaluation that writes nothing to the store can't read what it would have written there.
UNWRITTEN = re.compile(r"^path '[^'\n]*' is not valid", re.MULTILINE)

Left = deque[tuple[str, str]]  # the attributes still to be evaluated: (set, attribute)

# Bounds that an evaluation may run into through no fault of the attribute at hand: of time, of
# memory. A crash counts as one, too.
BOUNDS = (TimedOut, NixUnavailable)


@dataclass(frozen=True)
class Fact:
    """What is known of an attribute; None for what the catalog doesn't say.

    `within` is the set that it is in. `is_set` tells that it is a set of packages itself, marked by
    recurseForDerivations. `throws` tells that its evaluation throws: a nixpkgs from before 2017
    throws for the packages that it refuses.
    """

    within: str
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

    @property
    def path(self) -> str:
        """The attributes that lead to it from the catalog, with dots."""
        return joined(self.within, self.attr)


@dataclass(frozen=True)
class Derivation:
    """The derivation of an attribute, as a download would find it, though it need not be written.

    `store_path` is that of its main output; None where only a build tells it.
    """

    path: str
    drv_path: str
    store_path: str | None
    outputs: tuple[str, ...]


T = TypeVar("T")


@dataclass
class Found(Generic[T]):
    """What is known of attributes, and by path the errors of those that can't be evaluated.

    A set among the errors was given up: the rest of it was not evaluated.
    """

    known: list[T] = field(default_factory=list)
    failures: dict[str, NixError] = field(default_factory=dict)


@dataclass(frozen=True)
class _Question(Generic[T]):
    """What is asked of each attribute: an attribute of resolve.nix, and how its answers are read.

    `gives_up` tells that a set is given up of which many attributes in a row fail.
    """

    attribute: str
    answer: str
    read: Callable[[str, dict[str, Any]], T]
    gives_up: bool = False
    is_read_only: bool = False


@dataclass
class Survey:
    """A survey of a catalog, each evaluation in `heap` bytes of memory (0 for any), and `seconds`.

    `tick` is called while Nix evaluates. A set in the catalog is named by a path with dots, and the
    catalog itself by "".
    """

    store: Store
    catalog: Catalog
    allowed: Allowed = NOTHING_MORE
    heap: int = 0
    priority: Priority = NORMAL
    seconds: float = SECONDS
    tick: Tick = ignore
    slow: int = field(default=0, init=False)  # attributes that took too long

    def names(self, within: str = "") -> list[str]:
        """Return the attributes of a set, in order; none if there is no such set.

        Raises CATALOG_FAULTS.
        """
        return self.members([within])[0]

    def members(self, sets: Sequence[str]) -> list[list[str]]:
        """Return the attributes of each set, as `names` does."""
        for _ in range(KILLS - 1):
            with suppress(NixKilled):
                return self._members(sets)
        return self._members(sets)

    def _members(self, sets: Sequence[str]) -> list[list[str]]:
        wanted = json.dumps([_set(within, ()) for within in sets])
        names: list[list[str]] = self._query().ask("members", self.catalog, wanted=wanted)
        return names

    def facts(self, wanted: Mapping[str, Sequence[str]], found: Found[Fact]) -> Found[Fact]:
        """Add facts about attributes, which are given by their sets, to `found`, and return it.

        They come in order and one by one. An attribute that runs into a bound is evaluated once
        more, first in a new evaluation, since those before it may have used most of the time or
        memory. So is one whose evaluation is killed, twice: a host without memory kills what it
        likes. Raises NixError where that is no attribute's fault, or where too many fail.
        """
        question = _Question("survey", "fact", _fact, gives_up=True)
        self._ask_of_each(question, wanted, found)
        return found

    def derivations(
        self, wanted: Mapping[str, Sequence[str]], found: Found[Derivation]
    ) -> Found[Derivation]:
        """Add the derivations of attributes to `found`, as `facts` does, and return it.

        No derivation is written to the store but for an attribute whose evaluation must read what
        it has written. Bounds and errors are those of `facts`.
        """
        question = _Question("derivations", "derivation", self._derivation, is_read_only=True)
        self._ask_of_each(question, wanted, found)
        return found

    def _ask_of_each(
        self, question: _Question[T], wanted: Mapping[str, Sequence[str]], found: Found[T]
    ) -> None:
        in_a_row: dict[str, int] = {}  # that fail, in one set
        kills = 0  # in a row, with the same attribute at hand
        left = deque((within, attr) for within, attrs in wanted.items() for attr in attrs)
        while left:
            before = len(left)
            error = self._evaluate(question, found, left)
            if error is None:
                continue
            check(self.store)
            is_first = len(left) == before
            kills = is_first * kills + 1 if isinstance(error, NixKilled) else 0
            if 0 < kills < KILLS or (not is_first and isinstance(error, BOUNDS)):
                continue
            within, attr = left.popleft()
            kills = 0
            if question.is_read_only and UNWRITTEN.search(str(error)):
                writing = replace(question, is_read_only=False)
                error = self._evaluate(writing, found, deque([(within, attr)]))
            if error is None:
                continue
            found.failures[joined(within, attr)] = error
            self._count_slow(error)
            in_a_row = {within: 1 + is_first * in_a_row.get(within, 0)}
            if question.gives_up and in_a_row[within] >= HOPELESS:
                left = self._given_up(found.failures, left, within, error)

    def _evaluate(self, question: _Question[T], found: Found[T], left: Left) -> NixError | None:
        """Evaluate attributes in order, as many as can be asked for at once.

        Move each from `left` to `found`; return why it ended early, if so.
        """
        some = list(left)
        while len(wanted := _wanted(some)) > ARGUMENT_BYTES and len(some) > 1:
            some = some[: len(some) // 2]
        rest = len(left) - len(some)
        query = replace(
            self._query(),
            heard=partial(_read_answers, question, found, left),
            is_read_only=question.is_read_only,
        )
        try:
            query.ask(question.attribute, self.catalog, wanted=wanted)
        except CATALOG_FAULTS as error:
            return error
        except NixUnavailable as error:
            if not self._is_bound_of_memory(error):
                raise
            return error
        return EvaluationFailed("Nix has told nothing of it") if len(left) > rest else None

    def _given_up(
        self, failures: dict[str, NixError], left: Left, within: str, error: NixError
    ) -> Left:
        """Return what is left without a set that is given up. Raises for the catalog itself."""
        if not within:
            raise error
        failures[within] = error
        return deque(one for one in left if one[0] != within)

    def _count_slow(self, error: NixError) -> None:
        """Give the next evaluations less time after one that took too long. Raises TimedOut."""
        self.slow += isinstance(error, TimedOut)
        if self.slow >= SLOW:
            raise error

    def _is_bound_of_memory(self, error: NixError) -> bool:
        """Tell whether an evaluation reached our bound of memory, and not the host's."""
        return self.heap > 0 and str(error).endswith(OUT_OF_MEMORY)

    def _derivation(self, within: str, answer: dict[str, Any]) -> Derivation:
        path = answer["path"]
        return Derivation(
            path=joined(within, answer["attr"]),
            drv_path=answer["drvPath"],
            store_path=path if path and self.store.is_store_path(path) else None,
            outputs=tuple(answer["outputs"]),
        )

    def _query(self) -> Query:
        return Query(
            self.store.with_heap(self.heap) if self.heap else self.store,
            "",
            "",
            self.allowed,
            min(self.seconds, max(self.seconds / 2**self.slow, LEAST_SECONDS)),
            self.tick,
            priority=self.priority,
            cpu_seconds=max(CPU_SECONDS / 2**self.slow, LEAST_CPU_SECONDS),
        )


def _read_answers(
    question: _Question[T], found: Found[T], left: Left, lines: Iterable[bytes]
) -> None:
    """Read answers from lines of stderr. Raises EvaluationFailed for one that is not the next."""
    for line in lines:
        _, is_told, text = line.partition(TOLD)
        if is_told:
            answer = read_answer(question.answer, text)
            if not left or left[0][1] != answer["attr"]:
                raise EvaluationFailed("the catalog writes what only pkgd writes")
            within, _ = left.popleft()
            found.known.append(question.read(within, answer))


def _wanted(attributes: Iterable[tuple[str, str]]) -> str:
    """Return attributes, those of one set together, as resolve.nix reads them."""
    by_set: dict[str, list[str]] = {}
    for within, attr in attributes:
        by_set.setdefault(within, []).append(attr)
    return json.dumps([_set(within, attrs) for within, attrs in by_set.items()])


def _set(within: str, attrs: Sequence[str]) -> dict[str, Sequence[str]]:
    return {"set": within.split(".") if within else [], "attrs": attrs}


def joined(within: str, attr: str) -> str:
    """Return the path of an attribute, by dots, from its set's."""
    return f"{within}.{attr}" if within else attr


def _fact(within: str, answer: dict[str, Any]) -> Fact:
    return Fact(
        within=within,
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
    """Return a text in one line, cut at `length`; None for None and for an empty text."""
    return " ".join((text or "").split())[:length].strip() or None
