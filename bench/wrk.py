"""Load: wrk repeats one request over kept-alive connections."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from itertools import count

import servers

CONNECTIONS = 8
CPU = "µs of CPU per request"
RATE = "requests/s"
P99 = "ms, 99th percentile"
RUNS = count()


@dataclass(frozen=True)
class Case:
    """A request to repeat, what answers it, and whether a refusal is expected.

    `kind` is one that requests.lua knows, `file` the one with the paths that a kind may need.
    """

    what: str
    subject: str
    server: object
    path: str
    authorization: str
    kind: str = "get"
    file: str = ""
    is_refused: bool = False


def send(case, seconds):
    """Have wrk repeat the case's request for so many seconds; return wrk's counts and latencies.

    Raises SystemExit when an answer is not the expected one.
    """
    argv = [
        shutil.which("wrk"),
        *("--threads", "1"),
        *("--connections", str(CONNECTIONS)),
        *("--duration", f"{seconds}s"),
        *("--header", f"Authorization: {case.authorization}"),
        *("--script", str(servers.HERE / "requests.lua")),
        f"{case.server.url}{case.path}",
        "--",
        case.kind,
        str(next(RUNS)),
        case.file,
    ]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    load = json.loads(done.stdout.splitlines()[-1])

    wrong = load["requests"] - load["refused"] if case.is_refused else load["refused"]
    if wrong or load["broken"]:
        raise SystemExit(f"{case}: {load}")
    return load


def measure(results, case, seconds):
    """Send load for so many seconds; add rate, 99th percentile and CPU time of the server."""
    before = servers.cpu_seconds(case.server)
    load = send(case, seconds)
    cpu = servers.cpu_seconds(case.server) - before
    values = {
        CPU: 1e6 * cpu / load["requests"],
        RATE: load["requests"] / load["seconds"],
        P99: load["p99"],
    }
    for unit, value in values.items():
        results.series(case.what, case.subject, unit).add(value)
