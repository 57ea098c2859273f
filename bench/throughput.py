"""Throughput: requests per second of pkgd, a bare Flask route and the FastAPI peer."""

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

import seed
import servers
import wrk
from wrk import Case

RATE = "requests/s"
FIRST_PAGE = "GET packages, first page"
DEEPEST_PAGE = "GET packages, deepest page"
ROWS = 100_000
PAGE = 50


def measure(results, seconds, rounds):
    """Measure each route of each server for so many seconds; repeat in turn for so many rounds."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cases, started = _start(stack, folder)
        for case in cases:
            wrk.send(case, 1)

        for _ in range(rounds):
            for case in cases:
                load = wrk.send(case, seconds)
                series = results.series(case.what, case.subject, RATE)
                rate = load["requests"] / load["seconds"]
                series.add(rate, p50=load["p50"], p99=load["p99"])

        for subject, server in started.items():
            memory = results.series("memory after the throughput test", subject, "MiB PSS")
            memory.add(servers.pss_mib(server))


def _start(stack, folder):
    """Start all servers; return the cases, and the servers by name."""
    service = stack.enter_context(servers.pkgd(folder))
    service.command("init-db")
    task_id = seed.fill(service, ROWS)
    token = service.command("create-token").stdout.strip()
    db_path = shutil.copy(service.data_dir / "app.db", folder / "peer.db")
    service.start()

    # trusts X-Forwarded-For, so that each refused request can come from another address
    proxied = stack.enter_context(servers.pkgd(folder / "proxied", TRUSTED_PROXIES=1))
    proxied.command("init-db")
    proxied.start()

    bare = stack.enter_context(servers.bare(folder)).start()
    secret_key = service.settings["SECRET_KEY"]
    peer = stack.enter_context(servers.peer(folder, db_path, secret_key)).start()

    cases = [
        Case("GET /hello", "bare Flask", f"{bare.url}/hello", token),
        *_routes("pkgd", service.url, token, task_id),
        Case("401", "pkgd", f"{proxied.url}/api/v1/packages", "wrong", "stranger", True),
        *_routes("FastAPI", peer.url, token, task_id),
    ]
    return cases, {"bare Flask": bare, "pkgd": service, "FastAPI": peer}


def _routes(subject, url, token, task_id):
    api = f"{url}/api/v1"
    first_page = f"{api}/packages?limit={PAGE}"
    return [
        Case("GET /hello", subject, f"{url}/hello", token),
        Case("GET package", subject, f"{api}/package/{ROWS // 2}", token),
        Case(FIRST_PAGE, subject, first_page, token),
        Case(DEEPEST_PAGE, subject, f"{first_page}&after={ROWS - PAGE - 1}", token),
        Case("GET task", subject, f"{api}/task/{task_id}", token),
        Case("POST packages", subject, f"{api}/packages", token, "package"),
    ]
