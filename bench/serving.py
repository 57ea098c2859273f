"""Serving: requests a second, side by side with a bare Flask route and the FastAPI peer."""

import json
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import contestants
import filling

CONNECTIONS = 8
RATE = "requests/s"
FIRST_PAGE = "GET packages, first page"
DEEPEST_PAGE = "GET packages, deepest page"
ROWS = 100_000
PAGE = 50
RUNS = count()


@dataclass(frozen=True)
class Case:
    """A request to repeat: by whom it is answered, and how it is made."""

    what: str
    of: str
    url: str
    token: str
    kind: str = "get"
    is_refused: bool = False


def measure(figures, seconds, rounds):
    """Measure every route of every contestant, in turn, for so many seconds and rounds."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cases, processes = _start(stack, folder)
        for case in cases:
            send(case, 1)
        for _ in range(rounds):
            for case in cases:
                load = send(case, seconds)
                figure = figures.of(case.what, case.of, RATE)
                rate = load["requests"] / load["seconds"]
                figure.add(rate, p50=load["p50"], p99=load["p99"])
        for name, process in processes.items():
            memory = figures.of("memory after all this", name, "MiB PSS")
            memory.add(contestants.pss_mib(process))


def _start(stack, folder):
    """Start all contestants; return what to ask of them, and their processes."""
    service = stack.enter_context(contestants.pkgd(folder))
    service.command("init-db")
    task_id = filling.fill(service, ROWS)
    token = service.command("create-token").stdout.strip()
    db_path = shutil.copy(service.data_dir / "app.db", folder / "peer.db")
    service.start()

    proxied = stack.enter_context(contestants.pkgd(folder / "proxied", TRUSTED_PROXIES=1))
    proxied.command("init-db")
    proxied.start()

    bare_url, bare = stack.enter_context(contestants.bare())
    secret_key = service.settings["SECRET_KEY"]
    peer_url, peer = stack.enter_context(contestants.peer(db_path, secret_key))

    cases = [
        Case("GET /hello", "bare Flask", f"{bare_url}/hello", token),
        *_routes("pkgd", service.url, token, task_id),
        Case("401", "pkgd", f"{proxied.url}/api/v1/packages", "wrong", "stranger", True),
        *_routes("FastAPI", peer_url, token, task_id),
    ]
    return cases, {"bare Flask": bare, "pkgd": service.server, "FastAPI": peer}


def _routes(of, url, token, task_id):
    api = f"{url}/api/v1"
    return [
        Case("GET /hello", of, f"{url}/hello", token),
        Case("GET package", of, f"{api}/package/{ROWS // 2}", token),
        Case(FIRST_PAGE, of, f"{api}/packages?limit={PAGE}", token),
        Case(
            DEEPEST_PAGE,
            of,
            f"{api}/packages?limit={PAGE}&after={ROWS - PAGE - 1}",
            token,
        ),
        Case("GET task", of, f"{api}/task/{task_id}", token),
        Case("POST packages", of, f"{api}/packages", token, "package"),
    ]


def send(case, seconds):
    """Have wrk send the case's request again and again; return its figures."""
    argv = [
        shutil.which("wrk"),
        *("--threads", "1"),
        *("--connections", str(CONNECTIONS)),
        *("--duration", f"{seconds}s"),
        *("--header", f"Authorization: Bearer {case.token}"),
        *("--script", str(contestants.HERE / "requests.lua")),
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
