"""Routes: CPU time, rate and latency of pkgd's, beside bare Flask's and those of a FastAPI peer."""

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

import seed
import servers
import wrk
from wrk import Case

PKGD, BARE, PEER = "pkgd", "bare Flask", "FastAPI"
HELLO = "GET /hello"
PACKAGE = "GET package"  # the same one again, as who waits for something does
OTHERS = 5_000  # more than pkgd keeps in memory
EACH_OTHER = f"GET package, each of {OTHERS:,} in turn"
FIRST_PAGE = "GET packages, first page"
DEEPEST_PAGE = "GET packages, deepest page"
TASK = "GET task"
POST = "POST packages"
REFUSED = "401"
LOADED = "memory after all this load"
ROWS = 100_000
PAGE = 50


def measure(results, effort):
    """Load each route of each server in turn, those of the same route one after another."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cases = _start(stack, folder)
        for case in cases:
            wrk.send(case, 1)
        for _ in range(effort.rounds):
            for case in cases:
                wrk.measure(results, case, effort.seconds)
        for subject, server in {case.subject: case.server for case in reversed(cases)}.items():
            servers.add_memory(results, LOADED, subject, server)


def _start(stack, folder):
    """Start all servers; return the cases."""
    service = stack.enter_context(servers.pkgd(folder))
    service.command("init-db")
    task_id = seed.fill(service, ROWS)
    authorization = f"Bearer {service.command('create-token').stdout.strip()}"
    db_path = shutil.copy(service.data_dir / "app.db", folder / "peer.db")
    service.start()

    # trusts X-Forwarded-For, so that each refused request can come from another address
    proxied = stack.enter_context(servers.pkgd(folder / "proxied", TRUSTED_PROXIES=1))
    proxied.command("init-db")
    proxied.start()

    bare = stack.enter_context(servers.bare(folder)).start()
    secret_key = service.settings["SECRET_KEY"]
    peer = stack.enter_context(servers.peer(folder, db_path, secret_key)).start()

    paths = folder / "paths.txt"
    paths.write_text("".join(f"/api/v1/package/{one}\n" for one in range(1, OTHERS + 1)))
    both = [
        Case(what, subject, server, path, authorization, kind, str(paths))
        for what, path, kind in _routes(task_id)
        for subject, server in ((PKGD, service), (PEER, peer))
    ]
    packages = "/api/v1/packages"
    return [
        Case(HELLO, BARE, bare, "/hello", authorization),
        *both,
        Case(REFUSED, PKGD, proxied, packages, "Bearer wrong", "stranger", is_refused=True),
    ]


def _routes(task_id):
    """Return what pkgd and the peer both answer: its name, its path, and the kind of load."""
    api = "/api/v1"
    first_page = f"{api}/packages?limit={PAGE}"
    return [
        (HELLO, "/hello", "get"),
        (PACKAGE, f"{api}/package/{ROWS // 2}", "get"),
        (EACH_OTHER, "", "paths"),
        (FIRST_PAGE, first_page, "get"),
        (DEEPEST_PAGE, f"{first_page}&after={ROWS - PAGE - 1}", "get"),
        (TASK, f"{api}/task/{task_id}", "get"),
        (POST, f"{api}/packages", "package"),
    ]
