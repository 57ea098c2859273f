"""Catalogs: which versions of a name they offer, remembered until one of them changes."""

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import nix
import services
from blueprints import Blueprint
from problems import Problem
from schemas import NAME_PATTERN, CatalogSchema

blueprint = Blueprint(
    "catalog", __name__, url_prefix="/api/v1", description="Which versions there are"
)

BUNDLED = Path(__file__).resolve().parent / "catalog"
REMEMBERED = 1000
WATCHED_FILES = 500
EVALUATIONS = 2
# what changes in a checkout or a channel of any size when it is updated as a whole
MARKS = ("", "default.nix", ".version", ".git/HEAD", ".git/index")

Signature = tuple[tuple[str, int, int, int], ...]


@blueprint.get("/catalog/<name>")
@blueprint.response(200, CatalogSchema)
@blueprint.refuses("name-unknown", "long-url", "nix-failed")
def show(name: str) -> Any:
    """Show every version of a name that the catalogs offer, newest first."""
    offers = nix.Offers()
    if re.match(NAME_PATTERN, name):
        offers = services.get(Catalogs).offers(name)
    if not offers.versions and not offers.failures:
        meant = f"; did you mean {', '.join(offers.near)}?" if offers.near else ""
        raise Problem(404, f"no catalog has {name}{meant}", kind="name-unknown", near=offers.near)
    failures = [
        {"catalog": catalog, "code": nix.EvaluationFailed.code, "message": message}
        for catalog, message in offers.failures
    ]
    return {"name": name, "versions": offers.versions, "failures": failures}


class Catalogs:
    """The configured catalogs, with a memory of what they offer."""

    def __init__(self, store: nix.Store, configured: Sequence[str]) -> None:
        """Look in these catalogs, in this order; by default, in what Nix itself has."""
        self.store = store
        self._configured = tuple(configured)
        self._memory: OrderedDict[str, tuple[Signature, nix.Offers]] = OrderedDict()
        self._lock = threading.Lock()
        self._evaluations = threading.BoundedSemaphore(EVALUATIONS)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The catalogs as CATALOGS has them. Raises nix.NixMissing."""
        return self._configured or _default_catalogs(self.store)

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        """Where the catalogs are, without the channels that Nix can't find."""
        paths = (_path(self.store, name) for name in self.names)
        return tuple(path for path in paths if path is not None)

    def offers(self, name: str) -> nix.Offers:
        """Return what there is of a name: from memory while no catalog has changed."""
        signature = self.signature()
        with self._lock:
            known = self._memory.get(name)
        if known is not None and known[0] == signature:
            return known[1]
        with self._evaluations:
            offers = nix.offers(self.store, self.names, name)
        if not offers.failures:
            self._remember(name, signature, offers)
        return offers

    def signature(self) -> Signature:
        """Return what changes whenever a catalog does: the state of its files.

        Of a large tree (nixpkgs) only the marks of its being updated as a whole are looked at.
        """
        return tuple(state for path in self.paths for state in _states(path))

    def _remember(self, name: str, signature: Signature, offers: nix.Offers) -> None:
        with self._lock:
            self._memory[name] = signature, offers
            self._memory.move_to_end(name)
            if len(self._memory) > REMEMBERED:
                self._memory.popitem(last=False)


def _default_catalogs(store: nix.Store) -> tuple[str, ...]:
    """Return <nixpkgs> if Nix finds it, else the bundled demonstration catalog."""
    return (str(BUNDLED),) if nix.find_channel(store, "nixpkgs") is None else ("<nixpkgs>",)


def _path(store: nix.Store, catalog: str) -> Path | None:
    """Return the path of a catalog; None for a channel that Nix can't find."""
    if catalog.startswith("<"):
        return nix.find_channel(store, catalog.strip("<>"))
    return Path(catalog)


def _states(path: Path) -> Iterator[tuple[str, int, int, int]]:
    top = path.resolve()
    if not top.exists():
        return
    folder = top if top.is_dir() else top.parent
    files = list(islice(_files(folder), WATCHED_FILES + 1))
    if len(files) > WATCHED_FILES:
        files = [str(top), *(str(folder / mark) for mark in MARKS)]
    for file in files:
        try:
            status = os.stat(file)
        except FileNotFoundError:
            continue
        yield file, status.st_ino, status.st_mtime_ns, status.st_size


def _files(folder: Path) -> Iterator[str]:
    for top, _, names in os.walk(folder):
        yield top
        for name in names:
            yield os.path.join(top, name)
