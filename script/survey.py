"""Walk real catalogs in slices, and print what of them can be asked for, and what can't and why.

Each slice is one evaluation within the given memory; behind an attribute that fails, another one
goes on. A sample is then resolved as a download does it, and compared with `nix-instantiate -A`.
"""

import argparse
import json
import os
import random
import re
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path

from semver import Version

import nix
from fields import MIN_NAME_LENGTH, NAME_LENGTH, NAME_PATTERN
from nix import Fact
from nix.store import call, text
from nix.versions import is_prerelease, order, semantic

EXAMPLES = 4
SECONDS = 600
MIB = 1024 * 1024


def main() -> None:
    """Survey each catalog."""
    parser = argparse.ArgumentParser(prog="script/survey", description=__doc__)
    parser.add_argument("catalogs", nargs="+", metavar="CATALOG", help="a path or <name>")
    parser.add_argument("--slice", type=int, default=400, help="attributes in an evaluation (400)")
    parser.add_argument(
        "--memory", type=int, default=1500, help="of each evaluation, in MiB (1500)"
    )
    parser.add_argument("--sample", type=int, default=300, help="how many to resolve (300)")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (1)")
    parser.add_argument("--jobs", type=int, default=2, help="evaluations at once (2)")
    options = parser.parse_args()
    os.chdir(os.environ.get("SURVEY_FOLDER", "."))
    with tempfile.TemporaryDirectory(prefix="survey-", ignore_cleanup_errors=True) as folder:
        place = Path(folder).resolve()
        private = nix.private_store(place / "store").environ
        store = nix.Store({**private, "NIX_PATH": os.environ.get("NIX_PATH", "")})
        for catalog in options.catalogs:
            path = catalog if catalog.startswith("<") else str(Path(catalog).resolve())
            survey(store, path, options, place / "tmp")


def survey(store: nix.Store, catalog: str, options: argparse.Namespace, tmp: Path) -> None:
    """Print the survey of one catalog."""
    started = time.monotonic()
    asked = nix.Survey(store, nix.Catalog(catalog, catalog), heap=options.memory * MIB)
    names = asked.names()
    facts: list[Fact] = []
    failed: dict[str, str] = {}
    slices = [{"": names[at : at + options.slice]} for at in range(0, len(names), options.slice)]
    with ThreadPoolExecutor(options.jobs) as threads:
        for found in threads.map(lambda one: asked.facts(one, nix.Found()), slices):
            facts += found.known
            failed |= {attr: told(error) for attr, error in found.failures.items()}
    packages = [one for one in facts if one.is_package]

    print(f"{catalog}, by Nix {nix.version(store)}: {len(names)} attributes, of which")
    print(f"  {len(packages)} derivations, {time.monotonic() - started:.0f} s")
    show("attributes that throw", [one.attr for one in facts if one.throws])
    show("attributes that fail", [f"{name}: {why}" for name, why in failed.items()])
    names_of(packages)
    versions_of(packages)
    wrong_orders(store, packages)
    refusals(packages)
    compare(store, catalog, packages, options, tmp)


def told(error: nix.NixError) -> str:
    """Return an error in a short line."""
    return " ".join(str(error).split())[:100]


def names_of(packages: list[Fact]) -> None:
    """Print which names can't be asked for."""
    names = [one.attr for one in packages]
    show(f"names of more than {NAME_LENGTH}", [name for name in names if len(name) > NAME_LENGTH])
    show(
        f"names of fewer than {MIN_NAME_LENGTH}",
        [name for name in names if len(name) < MIN_NAME_LENGTH],
    )
    can = [name for name in names if re.match(NAME_PATTERN, name)]
    show("names of other characters", sorted(set(names) - set(can)))
    print(f"  {share(len(can), len(names))} can be named and asked for, but for their length")


def versions_of(packages: list[Fact]) -> None:
    """Print what the spellings stand for, and where that is wrong."""
    spellings = {one.spelled: one.version for one in packages}
    itself = sum(1 for spelled, version in spellings.items() if spelled == version)
    print(f"  {len(spellings)} spellings, {share(itself, len(spellings))} are semantic versions")
    show("invalid semantic versions", [v for v in spellings.values() if not Version.is_valid(v)])
    show("different in Python", [s for s, version in spellings.items() if semantic(s) != version])
    show("without a version", [one.attr for one in packages if not one.spelled])
    show("pre-releases", [spelled for spelled in spellings if is_prerelease(spelled)])
    show("other spellings", [f"{s} ({v})" for s, v in spellings.items() if s not in ("", v)], 25)

    spelled = defaultdict(set)
    for one in packages:
        spelled[one.pname, one.version].add(one.spelled)
    collisions = {key: found for key, found in spelled.items() if len(found) > 1}
    show(
        "collisions",
        [f"{name} {', '.join(sorted(found))}" for (name, _), found in collisions.items()],
    )


def wrong_orders(store: nix.Store, packages: list[Fact]) -> None:
    """Print the pairs of releases of a name whose order isn't that of builtins.compareVersions."""
    spelled = defaultdict(set)
    for one in packages:
        if not is_prerelease(one.spelled):
            spelled[one.pname].add(one.spelled)
    pairs = [pair for found in spelled.values() for pair in pairwise(sorted(found, key=order))]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(pairs, file)
        file.flush()
        compared = (
            "map (pair: builtins.compareVersions (builtins.head pair) (builtins.elemAt pair 1))"
            f" (builtins.fromJSON (builtins.readFile {file.name}))"
        )
        argv = ["nix-instantiate", "--eval", "--strict", "--json", "--expr", compared]
        signs = json.loads(text(call(store, argv)))
    wrong = [" > ".join(pair) for pair, sign in zip(pairs, signs, strict=True) if sign > 0]
    print(f"  {len(pairs)} pairs of versions of a name compared")
    show("wrong orders", wrong)


def refusals(packages: list[Fact]) -> None:
    """Print how many packages the catalog refuses, by the reason."""
    for reason, count in Counter(one.reason for one in packages if one.reason).items():
        show(reason, [one.attr for one in packages if one.reason == reason], count=count)


def compare(
    store: nix.Store, catalog: str, packages: list[Fact], options: argparse.Namespace, tmp: Path
) -> None:
    """Resolve a sample, and print where that differs from bare Nix."""
    askable = [one for one in packages if not one.reason]
    chosen = random.Random(options.seed).sample(askable, min(options.sample, len(askable)))
    with ThreadPoolExecutor(options.jobs) as threads:
        results = list(threads.map(partial(compared, store, catalog, tmp), chosen))
    different = [one for one, *_ in results if one]
    ours = statistics.median(seconds for _, seconds, _ in results)
    bare = statistics.median(seconds for _, _, seconds in results)
    print(f"  {len(chosen)} resolved, median {ours:.2f} s; by nix-instantiate -A {bare:.2f} s")
    show("not the derivation of nix-instantiate -A", different)


def compared(store: nix.Store, catalog: str, tmp: Path, one: Fact) -> tuple[str, float, float]:
    """Return how a resolution differs from bare Nix, and the seconds that both took."""
    began = time.monotonic()
    try:
        catalogs = [nix.Catalog(catalog, catalog)]
        found = nix.resolve(store, catalogs, one.attr, one.version, tmp=tmp / one.attr)
        ours = found.drv_path
    except nix.NixError as error:
        ours = told(error)
    between = time.monotonic()
    argv = ["nix-instantiate", catalog, "-A", f'"{one.attr}"']
    done = call(store, [*argv, "--arg", "config", "{}"], seconds=SECONDS)
    bare = "fails" if done.code else done.stdout.decode().strip().partition("!")[0]
    ended = time.monotonic()
    is_same = ours == bare or (bare == "fails" and not ours.endswith(".drv"))
    difference = "" if is_same else f"{one['attr']} {one['version']}: {ours}, not {bare}"
    return difference, between - began, ended - between


def show(what: str, found: list[str], examples: int = EXAMPLES, count: int | None = None) -> None:
    """Print how many there are, with examples from all over."""
    step = max(1, len(found) // examples)
    listed = ", ".join(found[::step][:examples])
    print(f"  {len(found) if count is None else count} {what}{': ' if found else ''}{listed}")


def share(part: int, whole: int) -> str:
    """Return a part in percent."""
    return f"{part} ({100 * part / whole:.2f} %)" if whole else "0"


if __name__ == "__main__":
    main()
