"""The report: the machine, the promises, what has changed since the published run, all results.

results.json holds the published results for the next run to compare its own with; RESULTS.md is
made of the same results, for people.
"""

import json
import os
import platform
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import comparison
import plots
import promises
from measurements import WOBBLE, Results

import nix

HERE = Path(__file__).resolve().parent
JSON = HERE / "results.json"
PACKAGES = ("Flask", "SQLAlchemy", "marshmallow", "gunicorn", "fastapi", "uvicorn", "aiosqlite")
HEAD = """\
# Benchmark results

Written by `script/bench`; the code in `bench/` shows how everything is measured.

"""
PLOTS = f"""
![CPU time per request]({plots.CPU_PLOT})
![Latency by the number of packages]({plots.SCALING_PLOT})
"""
HOW_TO_READ = f"""\
Each value is the median of its rounds, in which the competitors take turns. Its spread is the width
of the middle half of the values, as a part of the median; a figure with a spread over \
{100 * WOBBLE:.0f} % wobbles:
take it for a rough one. The range is the lowest and the highest value. CPU time is that of all the
server's processes, and of what they ran."""


def publish(results, run):
    """Write results.json, RESULTS.md and the plots; return what `told` does."""
    text = told(results, run)
    plots.plot_cpu(results, HERE / plots.CPU_PLOT)
    plots.plot_scaling(results, HERE / plots.SCALING_PLOT)
    (HERE / "RESULTS.md").write_text(f"{HEAD}{text}{PLOTS}")
    facts = json.dumps(run, ensure_ascii=False, indent=2)
    JSON.write_text(f'{{"run": {facts},\n"series": {results.to_json()}}}\n')
    return text


def told(results, run):
    """Return Markdown: promises, what has changed since the published results, all results."""
    return f"""\
{listed(run)}

## Promises

{promises.report(results)}

## Changes since the last published run

{compared(results)}

## All results

{HOW_TO_READ}

{results.tables()}
"""


def compared(results):
    """Return Markdown: what has changed since the published results."""
    published = json.loads(JSON.read_text())
    before = Results.from_json(published["series"])
    return f"That run:\n\n{listed(published['run'])}\n\n{comparison.report(before, results)}"


def listed(facts):
    """Return facts as a Markdown list."""
    return "\n".join(f"- {fact}" for fact in facts)


def this_run(effort):
    """Return the facts of this run: the date, the machine, and the versions."""
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    with tempfile.TemporaryDirectory() as home:
        nix_version = nix.version(nix.machine_store(Path(home)))
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return [
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {effort.rounds} rounds, "
        f"load at the end {os.getloadavg()[0]:.1f}",
        f"{os.cpu_count()} cores of {processor}, {gib:.0f} GiB, Linux {platform.release()}",
        f"Python {platform.python_version()}, Nix {nix_version}, {versions}",
    ]
