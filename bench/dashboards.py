"""What the dashboard costs: its first page with 100,000 tasks, and 50 browsers that show it.

One task runs meanwhile, with progress and a line in its log each second, so that what is shown
changes all the time.
"""

import statistics
import tempfile
import threading
import time
from pathlib import Path

import requests
import seed
import servers
from sqlalchemy import select, text, update

import build_logs
from models import Task, TaskStatus, db, soon

TASKS, BROWSERS, SECONDS, ROUNDS = 100_000, 50, 20, 50
# As app.js asks: at most once a second, for each part when it is due.
PARTS = {"/now/work": 2, "/now/service": 5}
ERROR = {"error_code": "build_failed", "error_message": "a line\n" * 20, "error_hint": "Read it."}


def measure():
    """Print the time of the first page, and the CPU time that the browsers cost."""
    with tempfile.TemporaryDirectory() as folder, servers.pkgd(Path(folder)) as service:
        service.settings |= {"WORKER_THREADS": 0}
        service.command("init-db")
        seed.fill(service, TASKS)
        token = service.command("create-token").stdout.strip()
        with seed.database(service):
            seq = spread_states()
            service.start()
            pages = [sign_in(service, token) for _ in range(BROWSERS)]
            seconds = [timed(pages[0], service) for _ in range(ROUNDS)]
            told = f"median {1000 * statistics.median(seconds):.1f} ms"
            print(f"first page with {TASKS} tasks: {told}, slowest {1000 * max(seconds):.1f} ms")
            print_cost(service, pages, seq)


def spread_states():
    """Have a third of the tasks have failed, a third have succeeded, and the last one run."""
    for number, values in (
        (0, {"status": TaskStatus.FAILED, **ERROR}),
        (1, {"status": "succeeded"}),
    ):
        db.session.execute(update(Task).where(Task.seq % 3 == number).values(**values))
    seq = db.session.scalar(select(Task.seq).order_by(Task.seq.desc()))
    held = {"lease_holder": "bench", "lease_until": soon(3600), "expected": 100, "error_code": None}
    mine = update(Task).where(Task.seq == seq).values(status=TaskStatus.RUNNING, **held)
    db.session.execute(mine)
    db.session.commit()
    db.session.execute(text("ANALYZE"))
    db.session.commit()
    return seq


def sign_in(service, token):
    """Return a session of an HTTP client that is signed in, as a browser is."""
    browser = requests.Session()
    origin = {"Origin": service.url}
    browser.post(f"{service.url}/sign-in", data={"token": token}, headers=origin).raise_for_status()
    return browser


def timed(browser, service):
    """Return the seconds that the first page takes."""
    began = time.perf_counter()
    browser.get(f"{service.url}/now").raise_for_status()
    return time.perf_counter() - began


def print_cost(service, pages, seq):
    """Print how much of a core the browsers cost the server."""
    end = time.monotonic() + SECONDS
    shown = [threading.Thread(target=show, args=(service, page, end)) for page in pages]
    before, began = servers.cpu_seconds(service), time.monotonic()
    for thread in shown:
        thread.start()
    while time.monotonic() < end:
        go_on(seq)
        time.sleep(1)
    for thread in shown:
        thread.join()
    share = (servers.cpu_seconds(service) - before) / (time.monotonic() - began)
    print(f"{BROWSERS} browsers that show it: {100 * share:.1f} % of a core")


def show(service, browser, end):
    """Ask for the parts of the page as app.js does, until the end."""
    etags, due = dict.fromkeys(PARTS, ""), dict.fromkeys(PARTS, 0.0)
    while (now := time.monotonic()) < end:
        part = min(due, key=due.get)
        if due[part] <= now:
            due[part] = now + PARTS[part] - 0.5
            answer = browser.get(service.url + part, headers={"If-None-Match": etags[part]})
            assert answer.status_code in (200, 304), answer.text
            etags[part] = answer.headers["ETag"]
        time.sleep(1)


def go_on(seq):
    """Have the running task make progress, and write a line."""
    done = update(Task).where(Task.seq == seq).values(done=Task.done + 1)
    db.session.execute(done)
    build_logs.append(seq, 1, build_logs.end(seq, 1), b"checking for another thing... yes\n")
    db.session.commit()
