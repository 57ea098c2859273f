"""What a cache that is a folder has lost: a listing now and then, and each narinfo read once."""

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from nix.cache import NARINFO, REFERENCES, URL_OF_NAR, hash_of

READ_AT_ONCE = 2000  # how many narinfos a look reads at the most: about 0.1 s
MANY = 100_000  # with more, the folder is only listed


@dataclass(frozen=True)
class Described:
    """What a narinfo says: the name of its nar, and the hashes of the other paths it needs."""

    nar: str
    needs: frozenset[str]


class CacheInventory:
    """The narinfos of a folder, as they were read."""

    def __init__(self) -> None:
        self._known: dict[str, Described] = {}

    def damaged(self, folder: Path) -> set[str]:
        """Look at the folder; return the hashes of the narinfos that lack something.

        That is their nar, the narinfo of a path that they need, or something of such a path. What
        could not be read yet counts as whole, and so does a folder that can't be read.
        """
        try:
            names = {match[1] for match in map(NARINFO.fullmatch, os.listdir(folder)) if match}
            nars = set(os.listdir(folder / "nar")) if names else set()
        except OSError:
            return set()
        self._learn(folder, names)
        suspects = [name for name in self._known if self._lacks(name, names, nars)]
        bad = {name for name in suspects if self._is_damaged(folder, name)}
        while more := {
            name
            for name, one in self._known.items()
            if name not in bad and not bad.isdisjoint(one.needs)
        }:
            bad |= more
        return bad

    def _learn(self, folder: Path, names: set[str]) -> None:
        """Read narinfos that are new, and forget those that are gone."""
        for gone in self._known.keys() - names:
            del self._known[gone]
        new = names - self._known.keys() if len(names) <= MANY else ()
        for name in islice(new, READ_AT_ONCE):
            self._read(folder, name)

    def _lacks(self, name: str, names: set[str], nars: set[str]) -> bool:
        one = self._known[name]
        return one.nar not in nars or not one.needs <= names

    def _is_damaged(self, folder: Path, name: str) -> bool:
        """Tell, by the files as they are now, whether a narinfo lacks its nar or what it needs.

        Since the folder was listed, files may have come; since it was read, it may be another.
        """
        one = self._read(folder, name)
        if one is None:
            return False
        files = [folder / "nar" / one.nar, *(folder / f"{need}.narinfo" for need in one.needs)]
        return not all(map(os.path.exists, files))

    def _read(self, folder: Path, name: str) -> Described | None:
        """Read a narinfo; return None where it is gone, or says nothing of the kind."""
        self._known.pop(name, None)
        with suppress(OSError):
            text = (folder / f"{name}.narinfo").read_text(errors="replace")
            url, references = URL_OF_NAR.search(text), REFERENCES.search(text)
            if url and references:
                needs = set(map(hash_of, references[1].split())) - {name}
                self._known[name] = Described(url[1], frozenset(map(sys.intern, needs)))
        return self._known.get(name)
