"""script/bench: measure pkgd, print one table, and write it to RESULTS.md with plots."""

import sys
from pathlib import Path

import builds
import cpu
import dashboards
import footprint
import report
import scaling
import throughput
import tree
from measurements import Results

import catalog

HERE = Path(__file__).resolve().parent
USAGE = "usage: script/bench [--quick | cpu | catalog | pinned | apply | dashboards | tree PATH]"


def main(arguments):
    """Run the measurement that the arguments ask for."""
    match arguments:
        case []:
            measure_all()
        case ["--quick"]:
            measure_quickly()
        case ["cpu"]:
            results = Results()
            cpu.measure(results, seconds=2, rounds=5)
            print(results.table())
        case ["catalog"]:
            catalog.measure()
        case ["dashboards"]:
            dashboards.measure()
        case ["tree", path]:
            tree.measure(path)
        case ["pinned"]:
            results = Results()
            builds.measure_pinned(results, rounds=20)
            print(results.table())
        case ["apply"]:
            results = Results()
            builds.measure_applies(results, rounds=5)
            print(results.table())
        case _:
            raise SystemExit(USAGE)


def measure_all(rounds=5):
    """Measure everything; write RESULTS.md and the plots."""
    results = Results()
    measure_basics(results, rounds, seconds=2, batches=2)
    progress("latency by the number of packages")
    scaling.measure(results)
    progress("memory after long use")
    footprint.measure_growth(results)
    print(report.write(results, HERE, rounds))


def measure_quickly():
    """Measure the basics in about two minutes; write nothing."""
    results = Results()
    measure_basics(results, rounds=2, seconds=1, batches=1)
    print(results.table())


def measure_basics(results, rounds, seconds, batches):
    """Measure CPU time, start, throughput and builds."""
    progress("CPU time per request")
    cpu.measure(results, seconds, rounds)
    progress("the time to start, and the memory when idle")
    footprint.measure_start(results, rounds)
    progress("throughput")
    throughput.measure(results, seconds, rounds)
    progress("builds")
    builds.measure(results, rounds, batches)
    builds.measure_pinned(results, rounds)
    progress("applies")
    builds.measure_applies(results, batches)


def progress(what):
    """Tell on stderr what is being measured."""
    print(f"bench: {what} …", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
