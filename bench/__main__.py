"""script/bench: measure pkgd, print tables, and write them to RESULTS.md with plots."""

import argparse
import signal
import sys
from dataclasses import dataclass

import builds
import cache_clients
import dashboards
import footprint
import report
import routes
import scaling
import tree
from measurements import Results

import catalog

LIMIT_MINUTES = 30
DESCRIPTION = f"""\
Measure pkgd beside a bare Flask route, a FastAPI peer and Nix's own commands. Print what is
promised, what has changed since the published run, and all results; write them to bench/RESULTS.md.

That takes some 15 minutes on 2 quiet cores, and is ended after {LIMIT_MINUTES}. With --quick, which
leaves some parts out, it takes two or three."""
OTHERS = """\
measurements of their own, which print lines and write nothing:
  catalog    searches with three indexes, on SQLite and PostgreSQL
  dashboards the first page with 100,000 tasks, and 50 browsers that show it
  tree PATH  a tree of nixpkgs as a pin: adding, indexing, searching, resolving (hours)"""


@dataclass(frozen=True)
class Effort:
    """How often things are measured, and for how long."""

    rounds: int  # of what is short
    seconds: int  # of load, in each round
    batches: int  # rounds of what takes long


FULL = Effort(rounds=5, seconds=2, batches=3)
QUICK = Effort(rounds=2, seconds=1, batches=1)

# What is measured, in this order: by name, with what to tell of it, and whether it is quick.
PARTS = {
    "start": (footprint.measure_start, "the time to start, and the memory when idle", True),
    "routes": (routes.measure, "CPU time, rate and latency of requests", True),
    "builds": (builds.measure, "downloads and activations, and Nix's own commands", True),
    "apply": (
        builds.measure_applies,
        "applies of 64 packages, and the command that they run",
        True,
    ),
    "cache": (cache_clients.measure, "narinfos by nginx, and 1,000 paths by a real Nix", False),
    "scaling": (scaling.measure, "latency by the number of packages", False),
    "growth": (footprint.measure_growth, "memory after long use", False),
}


def main():
    """Run the measurement that the arguments ask for."""
    options = parse()
    signal.signal(signal.SIGTERM, ended)
    if options.names[:1] == ["tree"]:
        tree.measure(options.names[1])
    elif options.names == ["catalog"]:
        catalog.measure()
    elif options.names == ["dashboards"]:
        dashboards.measure()
    else:
        measure(options.names, QUICK if options.quick else FULL)


def measure(names, effort):
    """Measure parts, all that the effort allows for unless some are named.

    The results of all parts at full effort are written.
    """
    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(60 * LIMIT_MINUTES)
    results = Results()
    for name, (part, what, is_quick) in PARTS.items():
        if name in names or (not names and (is_quick or effort is FULL)):
            print(f"bench: {what} …", file=sys.stderr)
            part(results, effort)

    is_whole = not names and effort is FULL
    tell = report.publish if is_whole else report.told
    print(tell(results, report.this_run(effort)))


def out_of_time(_number, _frame):
    """End the run, and with it what it has started."""
    raise SystemExit(f"bench: not finished within {LIMIT_MINUTES} minutes")


def ended(number, _frame):
    """End the run as asked, and with it what it has started."""
    raise SystemExit(128 + number)


def parse():
    """Return the options, of which `names` says what to measure."""
    parts = [f"  {name:10} {what}" for name, (_, what, _) in PARTS.items()]
    parser = argparse.ArgumentParser(
        prog="script/bench",
        description=DESCRIPTION,
        epilog="\n".join(["parts:", *parts, "", OTHERS]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds; write nothing")
    parser.add_argument(
        "names", nargs="*", metavar="PART", help="measure these alone; write nothing"
    )
    options = parser.parse_args()
    is_other = options.names in (["catalog"], ["dashboards"])
    is_tree = options.names[:1] == ["tree"] and len(options.names) == 2
    if not (is_other or is_tree or set(options.names) <= set(PARTS)):
        parser.error(f"these are no parts: {' '.join(options.names)}")
    return options


if __name__ == "__main__":
    main()
