"""Load: wrk repeats one request over kept-alive connections."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from itertools import count

import servers

CONNECTIONS = 8
RUNS = count()


@dataclass(frozen=True)
class Case:
    """A request to repeat, the server that answers it, and whether a refusal is expected."""

    what: str
    subject: str
    url: str
    token: str
    kind: str = "get"
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
        *("--header", f"Authorization: Bearer {case.token}"),
        *("--script", str(servers.HERE / "requests.lua")),
        case.url,
        "--",
        case.kind,
        str(next(RUNS)),
    ]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    load = json.loads(done.stdout.splitlines()[-1])

    wrong = load["requests"] - load["refused"] if case.is_refused else load["refused"]
    if wrong or load["broken"]:
        raise SystemExit(f"{case}: {load}")
    return load
