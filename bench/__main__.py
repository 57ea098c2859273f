"""script/bench: measure everything, print one table, and write it to RESULTS.md with plots."""

import sys
from pathlib import Path

import growing
import report
import serving
import staying
import working
from figures import Figures

HERE = Path(__file__).resolve().parent


def main():
    """Measure; with --quick for less than two minutes, and nothing is written then."""
    quick = sys.argv[1:] == ["--quick"]
    if sys.argv[1:] and not quick:
        raise SystemExit("usage: script/bench [--quick]")

    figures = Figures()
    rounds = 2 if quick else 5
    say("the start, and the memory when idle")
    staying.measure_start(figures, rounds)
    say("serving")
    serving.measure(figures, seconds=1 if quick else 2, rounds=rounds)
    say("working")
    working.measure(figures, rounds=rounds, batches=1 if quick else 2)
    if quick:
        print(figures.table())
        return
    say("growing")
    growing.measure(figures)
    say("staying")
    staying.measure_growth(figures)
    print(report.write(figures, HERE, rounds))


def say(what):
    """Say what is being measured."""
    print(f"bench: {what} …", file=sys.stderr)


if __name__ == "__main__":
    main()
