"""CPU time per request: pkgd beside a bare Flask route.

Unlike requests per second, CPU time hardly changes with the other load on the machine.
"""

import tempfile
from contextlib import ExitStack
from pathlib import Path

import seed
import servers
import wrk

WARM_UP_SECONDS = 1
ROWS = 1_000
UNIT = "µs CPU/request"
HELLO = "CPU of GET /hello"
PACKAGE = "CPU of GET package"


def measure(results, seconds, rounds):
    """Measure each route for so many seconds; repeat in turn for so many rounds."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cases = _start(stack, folder)
        for case, _ in cases:
            wrk.send(case, WARM_UP_SECONDS)

        for _ in range(rounds):
            for case, server in cases:
                series = results.series(case.what, case.subject, UNIT)
                series.add(_microseconds(case, server, seconds))


def _start(stack, folder):
    """Start both servers; return the cases, each with its server."""
    service = stack.enter_context(servers.pkgd(folder))
    service.command("init-db")
    seed.fill(service, ROWS)
    token = service.command("create-token").stdout.strip()
    service.start()
    bare = stack.enter_context(servers.bare(folder)).start()

    package_url = f"{service.url}/api/v1/package/{ROWS // 2}"
    return [
        (wrk.Case(PACKAGE, "pkgd", package_url, token), service),
        (wrk.Case(HELLO, "pkgd", f"{service.url}/hello", token), service),
        (wrk.Case(HELLO, "bare Flask", f"{bare.url}/hello", token), bare),
    ]


def _microseconds(case, server, seconds):
    """Return the CPU time per request of all the server's processes, in microseconds."""
    before = servers.cpu_seconds(server)
    load = wrk.send(case, seconds)
    return 1e6 * (servers.cpu_seconds(server) - before) / load["requests"]
