"""Builds that misbehave, and how the service rids itself of them."""

import time
from pathlib import Path

import figures
import pytest
from service import LIVE
from support import SQLITE, until

CANCEL_SECONDS = 10
MIB = 1024 * 1024

MISBEHAVED = {
    "hangs": "sleep 60",
    "ignores TERM and leaves children": "trap '' TERM; (trap '' TERM; sleep 60) & sleep 60 & wait",
    "forks away": "setsid sh -c 'sleep 60 & wait' >/dev/null 2>&1 & sleep 60",
}


@pytest.fixture
def service(service):
    """A service of one process, which runs."""
    service.settings["WEB_PROCESSES"] = 1
    service.start().sign_in()
    return service


def test_a_cancelled_build_leaves_no_process(service, database_url):
    slowest = 0.0
    for number in range(figures.ROUNDS):
        names = {
            how: service.recipes.add_watched(f"bad-{n}-{number}", script)
            for n, (how, script) in enumerate(MISBEHAVED.items())
        }
        seconds = [cancel(service, name) for name in names.values()]
        slowest = max(slowest, *seconds)

    assert slowest < CANCEL_SECONDS
    figures.keep(
        f"a 60 s build that {', '.join(MISBEHAVED)}: cancelled",
        database_url,
        figures.rounds(f"{len(MISBEHAVED)} builds each"),
        f"cancelled, and no process left, within {slowest:.1f} s",
    )


def cancel(service, name):
    """Cancel the package's download while it builds; return the seconds until all of it is gone."""
    task_id = service.schedule(name, "1.0.0")
    until(lambda: service.recipes.is_building(name))

    started = time.monotonic()
    service.post(f"task/{task_id}/cancel")
    assert service.ended(task_id)["status"] == "cancelled"
    until(lambda: not service.recipes.is_building(name))
    return time.monotonic() - started


def test_a_queued_task_is_cancelled_within_a_second(service, database_url):
    ids = [
        service.schedule(service.recipes.add(f"slow-{n}", "sleep 60"), "1.0.0") for n in range(3)
    ]

    started = time.monotonic()
    task = service.post(f"task/{ids[-1]}/cancel")
    seconds = time.monotonic() - started

    assert task["status"] == "cancelled"
    assert seconds < 5
    assert service.request("POST", f"task/{ids[-1]}/cancel").status_code == 409


@SQLITE
def test_a_build_past_its_limit_leaves_no_process(service):
    service.stop()
    service.settings["SILENCE_SECONDS"] = 1
    service.start()
    names = [
        service.recipes.add_watched(f"bad-{n}", script)
        for n, script in enumerate(MISBEHAVED.values())
    ]

    ids = [service.schedule(name, "1.0.0") for name in names]

    errors = [service.ended(task_id)["error"] for task_id in ids]
    assert {error["code"] for error in errors} == {"timed_out"}
    assert {error["message"] for error in errors} == {"it wrote nothing for 1 s"}
    until(lambda: not any(map(service.recipes.is_building, names)))


@SQLITE
def test_a_build_that_floods_its_log_is_borne(service, database_url):
    lines = f"head -c {figures.FLOOD_MIB}M /dev/zero | tr '\\0' x | fold -w 1000; touch $out"
    task_id = service.schedule(service.recipes.add("floods", lines), "1.0.0")

    slowest = slowest_request(service, task_id)

    log = service.task_log(task_id)
    assert service.task(task_id)["status"] == "succeeded"
    assert b"the log is cut here, at its limit of 16777216 bytes; the build goes on\n" in log
    assert len(log) < 17 * MIB
    figures.keep(
        "a build that floods its log",
        database_url,
        f"{figures.FLOOD_MIB} MiB",
        f"log cut at 16 MiB, build succeeded; the process took {peak_mib(service)} MiB of memory "
        f"at most, requests meanwhile {slowest:.2f} s at most",
    )


def slowest_request(service, task_id):
    """Send requests until the task has ended; return the seconds that the slowest one took."""
    slowest = 0.0
    while service.task(task_id)["status"] in LIVE:
        started = time.monotonic()
        assert service.get("packages")
        slowest = max(slowest, time.monotonic() - started)
    return slowest


def peak_mib(service):
    """Return the most memory that the server's process has had, in MiB."""
    (process,) = service.web_processes()
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024
